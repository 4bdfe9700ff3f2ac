"""Brain signals at the border: what is read, in which unit, and what is refused in one line."""

import numpy as np
import pytest

from harken.cli import main
from harken.data.brain import Recording, Trials, as_array, check_trials, flat_channels, joined
from harken.data.brain_files import read_recording, read_trials
from harken.data.brain_splits import cross_session, cross_subject, split_trials, within_session
from harken.errors import InputError

mne = pytest.importorskip("mne")
RATE = 128.0


def recording(seconds=8, channels=("Fz", "Cz", "Pz")):
    noise = np.random.default_rng(0).standard_normal((len(channels), int(seconds * RATE))) * 1e-5
    events = np.array([[100, 1], [300, 2], [500, 1], [int(seconds * RATE) - 3, 2]])
    return Recording(noise.astype(np.float32), RATE, tuple(channels), events, name="rec")


def trials(count=12, sessions=2, subjects=1):
    x = np.random.default_rng(1).standard_normal((count, 2, 16)).astype(np.float32)
    number = np.arange(count)
    return Trials(
        x, number % 2, ("a", "b"), RATE, subject=number * subjects // count, session=number * sessions // count
    )


def raw():
    info = mne.create_info(["Fz", "Cz", "Pz"], RATE, "eeg")
    made = mne.io.RawArray(recording().data.astype(float), info, verbose="error")
    made.set_montage("standard_1020")
    made.set_annotations(mne.Annotations([1.0, 3.0], [0.5, 0.5], ["left", "right"]))
    return made


def test_what_mne_writes_is_read_in_volts_with_names_events_and_places(tmp_path):
    raw().save(tmp_path / "a_raw.fif", verbose="error")
    found = read_recording(tmp_path / "a_raw.fif")
    np.testing.assert_allclose(found.data, recording().data, rtol=1e-4)
    assert found.ch_names == ("Fz", "Cz", "Pz")
    assert sorted(found.event_names.values()) == ["left", "right"]
    assert found.events[:, 0].tolist() == [128, 384]
    assert np.isfinite(found.positions).all()


def test_edf_is_read(tmp_path):
    pytest.importorskip("edfio")
    raw().export(tmp_path / "a.edf", verbose="error")
    np.testing.assert_allclose(read_recording(tmp_path / "a.edf").data, recording().data, atol=2e-8)


def test_epochs_of_mne_come_back_as_they_went(tmp_path):
    given = trials()
    given.as_epochs().save(tmp_path / "a-epo.fif", verbose="error")
    found = read_trials(tmp_path / "a-epo.fif")
    np.testing.assert_allclose(found.x, given.x, rtol=1e-5)
    assert found.classes == given.classes
    assert found.y.tolist() == given.y.tolist()


def test_saved_trials_are_read_back_whole(tmp_path):
    given = trials(subjects=3)
    given.save(tmp_path / "a.npz")
    found = read_trials(tmp_path / "a.npz")
    for name in ("x", "y", "subject", "session"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name))
    assert (found.sfreq, found.ch_names, found.classes) == (given.sfreq, given.ch_names, given.classes)


def test_microvolts_become_volts(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.full((2, 1, 4), 5.0), y=[0, 1], sfreq=10)
    assert read_trials(tmp_path / "a.npz").x.max() == pytest.approx(5e-6)
    assert read_trials(tmp_path / "a.npz", unit="V").x.max() == 5


def test_a_table_with_a_clock_and_markers_is_a_recording(tmp_path):
    time = np.arange(300) / 100
    rows = np.stack((time, np.sin(time), np.cos(time), (np.arange(300) % 100 == 50).astype(float)), 1)
    np.savetxt(tmp_path / "a.csv", rows, delimiter=",", header="timestamps,TP9,TP10,Marker0", comments="")
    found = read_recording(tmp_path / "a.csv")
    assert found.sfreq == pytest.approx(100)
    assert found.ch_names == ("TP9", "TP10")
    assert found.events.tolist() == [[50, 1], [150, 1], [250, 1]]


def test_an_xdf_files_markers_are_events(tmp_path, monkeypatch):
    import sys
    from types import ModuleType

    told = {"channels": [{"channel": [{"label": ["Cz"], "unit": ["microvolts"]}, {"label": ["Pz"], "unit": None}]}]}
    times = 100 + np.arange(50) / 25
    streams = [
        {"info": {"type": ["Audio"]}, "time_series": [[1]], "time_stamps": [100]},
        {
            "info": {"type": ["EEG"], "nominal_srate": ["25"], "desc": [told]},
            "time_series": np.ones((50, 2)),
            "time_stamps": times,
        },
        {"info": {"type": ["Markers"]}, "time_series": [["go"], ["7"]], "time_stamps": [100.4, 101.0]},
    ]
    module = ModuleType("pyxdf")
    module.load_xdf = lambda path, verbose: (streams, {})
    monkeypatch.setitem(sys.modules, "pyxdf", module)
    (tmp_path / "a.xdf").write_bytes(b"XDF:")
    found = read_recording(tmp_path / "a.xdf", unit="mV")
    assert found.ch_names == ("Cz", "Pz")
    assert found.data[:, 0] == pytest.approx([1e-6, 1e-3])
    assert found.events.tolist() == [[10, 1], [25, 7]]
    assert found.event_names == {1: "go", 7: "7"}
    streams.pop(1)
    with pytest.raises(InputError, match="no stream of EEG"):
        read_recording(tmp_path / "a.xdf")


def test_several_recordings_in_one_file_are_sessions(tmp_path):
    arrays = {"fs": 64, "scale_uV": 0.5, "channels": np.array(["L", "R"])}
    for i in range(2):
        arrays |= {f"eeg_{i}": np.ones((640, 2), np.int16), f"event_sample_{i}": [10, 100], f"event_code_{i}": [1, 2]}
    np.savez(tmp_path / "a.npz", **arrays)
    found = read_trials(tmp_path / "a.npz", tmin=0, tmax=1)
    assert found.x.shape == (4, 2, 64)
    assert found.session.tolist() == [0, 0, 1, 1]
    assert found.x.max() == pytest.approx(0.5e-6)


def test_one_array_a_class_is_labelled_by_its_name(tmp_path):
    np.savez(tmp_path / "a.npz", rest=np.zeros((3, 20)), seizure=np.ones((2, 20)))
    found = read_trials(tmp_path / "a.npz", sfreq=100)
    assert found.classes == ("rest", "seizure")
    assert found.labels.tolist() == ["rest"] * 3 + ["seizure"] * 2


def test_trials_are_cut_around_events_and_those_at_the_edge_left_out():
    cut = recording().trials(-0.25, 0.5)
    assert cut.x.shape == (3, 3, 96)
    np.testing.assert_array_equal(cut.x[0], recording().data[:, 100 - 32 : 100 + 64])


def test_resampling_moves_events_with_the_signal():
    half = recording().resampled(RATE / 2)
    assert half.data.shape[1] == recording().data.shape[1] // 2
    assert half.events[:3, 0].tolist() == [50, 150, 250]


def test_a_band_pass_keeps_its_band_and_nothing_else():
    time = np.arange(2000) / 200
    data = np.stack((np.sin(2 * np.pi * 10 * time), np.sin(2 * np.pi * 50 * time))).astype(np.float32)
    kept = Recording(data, 200.0, ("a", "b")).filtered(5, 20).data[:, 500:1500].std(1) / data.std()
    assert kept[0] > 0.95
    assert kept[1] < 0.02


def test_a_broken_channel_is_rebuilt_from_its_neighbours():
    names = ["Fz", "Cz", "Pz", "C3", "C4"]
    places = mne.channels.make_standard_montage("standard_1020").get_positions()["ch_pos"]
    x = np.tile(np.sin(np.arange(64) / 4), (2, 5, 1)).astype(np.float32)
    x[:, 1] = 0
    given = Trials(x, np.array([0, 1]), ("a", "b"), RATE, tuple(names), positions=np.array([places[n] for n in names]))
    mended = given.interpolated(["Cz"]).x[0, 1]
    assert np.corrcoef(mended, x[0, 0])[0, 1] > 0.99
    with pytest.raises(InputError, match="positions"):
        trials().interpolated(["1"])


@pytest.mark.parametrize("split", ["within-session", "cross-session", "cross-subject"])
def test_no_trial_is_on_both_sides_and_each_is_judged_once(split):
    given = trials(count=60, sessions=3, subjects=3)
    parts = split_trials(given, split, 5)
    judged = np.concatenate([test for _, test in parts])
    assert sorted(judged.tolist()) == list(range(60))
    assert all(not np.intersect1d(train, test).size for train, test in parts)


def test_whole_sessions_and_subjects_stay_together():
    given = trials(count=12, sessions=4, subjects=2)
    assert all(set(given.session[a]).isdisjoint(given.session[b]) for a, b in cross_session(given))
    assert all(set(given.subject[a]).isdisjoint(given.subject[b]) for a, b in cross_subject(given))


def test_folds_within_a_session_are_stretches_of_neighbours():
    _, test = within_session(trials(count=40, sessions=1), 5)[2]
    assert np.ptp(test) < 40 / 5


def test_channels_can_be_picked_by_name_and_in_order():
    assert recording().pick(["Pz", "Fz"]).ch_names == ("Pz", "Fz")
    np.testing.assert_array_equal(recording().pick(["Pz"]).data[0], recording().data[2])
    with pytest.raises(InputError, match="no channel named 'Oz'"):
        recording().pick(["Oz"])


def test_arrays_and_epochs_are_taken_alike():
    given = trials()
    x, rate, names = as_array(given.as_epochs())
    np.testing.assert_allclose(x, given.x, rtol=1e-5)
    assert (rate, names) == (RATE, given.ch_names)
    assert as_array(np.zeros((3, 8)))[0].shape == (3, 1, 8)


@pytest.mark.border
@pytest.mark.parametrize("given", [np.zeros(3), np.zeros((1, 2, 3, 4)), [["a", "b"]], np.zeros((2, 3)) * 1j])
def test_what_is_no_set_of_trials_is_refused(given):
    with pytest.raises(InputError) as caught:
        as_array(given)
    assert "\n" not in str(caught.value)


def test_broken_trials_are_named():
    x = trials().x.copy()
    x[3, 1, 5] = np.nan
    with pytest.raises(InputError, match="trial 3, channel 1"):
        check_trials(x)
    with pytest.raises(InputError, match="fitted on 5 channels"):
        check_trials(trials().x, channels=5)
    x = trials().x.copy()
    x[:, 1] = 4
    assert flat_channels(x) == [1]


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


HOSTILE = {
    "empty": lambda path: path.write_bytes(b""),
    "junk": lambda path: path.write_bytes(b"PK\x03\x04" + b"x" * 200),
    "objects": lambda path: write(path, x=np.array([{}, {}], object), y=[0, 1]),
    "no trials": lambda path: write(path, z=np.zeros(3), sfreq=10),
    "rate": lambda path: write(path, x=np.zeros((2, 1, 4)), y=[0, 1], sfreq=-1),
    "no rate": lambda path: write(path, x=np.zeros((2, 1, 4)), y=[0, 1]),
    "labels": lambda path: write(path, x=np.zeros((2, 1, 4)), y=[0, 1, 1], sfreq=10),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_get_one_line(kind, tmp_path):
    HOSTILE[kind](tmp_path / "a.npz")
    with pytest.raises(InputError) as caught:
        read_trials(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


def test_an_archive_that_asks_for_more_than_there_is_is_not_unpacked(tmp_path, monkeypatch):
    write(tmp_path / "a.npz", x=np.zeros((50, 2, 100)), y=np.zeros(50, int), sfreq=10)
    monkeypatch.setattr("harken.data.brain_files.LARGEST", 1000)
    with pytest.raises(InputError, match="smaller files"):
        read_trials(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["a.edf", "a.fif", "a.csv", "a.vhdr", "a.gdf"])
def test_damaged_recordings_get_one_line(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x00nonsense\xff" * 30)
    with pytest.raises(InputError) as caught:
        read_recording(tmp_path / name, sfreq=100.0)
    assert "\n" not in str(caught.value)


def test_files_are_joined_as_sessions_when_they_fit():
    whole = joined([trials(sessions=1), trials(sessions=1)])
    assert whole.session.tolist() == [0] * 12 + [1] * 12
    other = Trials(np.zeros((2, 3, 16)), np.array([0, 1]), ("a", "b"), RATE)
    with pytest.raises(InputError, match="differ"):
        joined([trials(), other])


def test_the_command_says_what_is_wrong_in_one_line(tmp_path, capsys):
    assert main(["brain", "evaluate", str(tmp_path / "none.npz")]) == 2
    assert capsys.readouterr().err.startswith("error: no recording at")
