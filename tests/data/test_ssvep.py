"""Arrays of public spellers become trials in the right order, from the right sample on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat

from harken.data.brain import Trials
from harken.data.ssvep import from_arrays, read_ssvep, synthetic_ssvep, with_frequencies
from harken.errors import InputError


def counted(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float64).reshape(shape)


@pytest.mark.parametrize(
    ("layout", "shape", "pick", "first"),
    [
        ("12jfpm", (12, 8, 80, 3), lambda a, k, b: a[k, :, :, b], 73),
        ("benchmark", (64, 170, 5, 3), lambda a, k, b: a[:, :, k, b], 160),
        ("beta", (64, 170, 3, 5), lambda a, k, b: a[:, :, b, k], 158),
    ],
)
def test_layouts(layout, shape, pick, first):
    array = counted(*shape)
    classes = 12 if layout == "12jfpm" else 5
    frequencies = None if layout == "12jfpm" else [8.0, 9.0, 10.0, 11.0, 12.0]
    trials = from_arrays(array, layout, frequencies=frequencies, subject=3)
    assert len(trials) == classes * 3
    assert set(trials.subject) == {3}
    one = np.flatnonzero((trials.y == 2) & (trials.session == 1))
    np.testing.assert_allclose(trials.x[one[0]], pick(array, 2, 1)[:, first:] * 1e-6, rtol=1e-6)
    if layout == "12jfpm":
        assert trials.frequencies[:3] == (9.25, 11.25, 13.25)
    else:
        assert trials.pick(["Oz"]).x.shape[1] == 1


def test_matlab_files_of_a_folder_are_its_subjects(tmp_path):
    for number in (1, 2, 10):
        savemat(tmp_path / f"S{number}.mat", {"data": np.full((64, 170, 2, 2), float(number))})
    savemat(tmp_path / "Freq_Phase.mat", {"freqs": np.array([[8.0, 9.0]])})
    trials = read_ssvep(tmp_path)
    assert trials.frequencies == (8.0, 9.0)
    assert [float(trials.x[trials.subject == person].max() * 1e6) for person in (0, 1, 2)] == [1, 2, 10]
    whole = {"EEG": np.zeros((64, 170, 2, 2)), "suppl_info": {"freqs": np.array([[10.0, 11.0]])}}
    (tmp_path / "beta").mkdir()
    savemat(tmp_path / "beta" / "S1.mat", {"data": whole})
    assert read_ssvep(tmp_path / "beta").frequencies == (10.0, 11.0)


def test_frequencies_are_said_by_names_or_asked_for(tmp_path):
    plain = {"x": np.zeros((2, 1, 50)), "y": np.array([0, 1]), "sfreq": 100.0}
    trials = Trials(**plain, classes=("12.5 Hz", "9Hz"))
    assert with_frequencies(trials).frequencies == (12.5, 9.0)
    with pytest.raises(InputError, match=r"which frequencies flicker\? The classes are left, right"):
        with_frequencies(Trials(**plain, classes=("left", "right")))
    with pytest.raises(InputError, match="one for each class"):
        with_frequencies(trials, [1.0])
    trials.save(tmp_path / "a.npz")
    assert read_ssvep(tmp_path / "a.npz", frequencies=[20, 30]).frequencies == (20.0, 30.0)


def test_a_seed_decides_and_the_flicker_is_there():
    trials = synthetic_ssvep(seed=2)
    np.testing.assert_array_equal(trials.x, synthetic_ssvep(seed=2).x)
    power = np.abs(np.fft.rfft(trials.x[trials.y == 0].mean(0), axis=-1)).mean(0)
    assert power[8] > 3 * power[[6, 7, 9, 10]].mean()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.mat", b"", "not a readable"),
        ("a.mat", b"MATLAB 5.0 MAT-file" + bytes(200), "a.mat"),
        ("a.txt", b"", "a.txt"),
    ],
)
def test_broken_files_are_named_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_ssvep(tmp_path / name, tmax=1.0)
    assert "\n" not in str(caught.value)


def test_a_matlab_file_of_something_else_and_a_missing_one(tmp_path):
    savemat(tmp_path / "a.mat", {"song": np.zeros(3)})
    with pytest.raises(InputError, match="neither 'eeg'"):
        read_ssvep(tmp_path / "a.mat")
    with pytest.raises(InputError, match="no recording"):
        read_ssvep(tmp_path / "b.mat")
    with pytest.raises(InputError, match="cannot cut"):
        synthetic_ssvep().window(9.0)
