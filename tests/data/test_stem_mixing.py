"""Stems mixed anew: the same for the same index, swapped within groups, never lost."""

from __future__ import annotations

import numpy as np
import pytest

from harken.data.audio import Audio, write
from harken.data.stem_mixing import MixedStems, Recorded, StemConfig, Tracks, judged_stems, track_folders
from harken.errors import InputError

RATE = 8000


@pytest.fixture
def songs(tmp_path):
    """Three tracks of two stems; each stem is a tone of its own, so that it can be told whose it is."""
    time = np.arange(2 * RATE) / RATE
    for track in range(3):
        folder = tmp_path / f"song{track}"
        folder.mkdir()
        for stem, base in (("a", 200), ("b", 1000)):
            tone = 0.3 * np.sin(2 * np.pi * (base + 100 * track) * time)
            write(folder / f"{stem}.wav", Audio(np.stack((tone, 0.5 * tone), 1).astype(np.float32), RATE))
    return tmp_path


def tracks(songs, channels=2):
    return Tracks([songs], ("a", "b"), RATE, channels)


def pitch(samples):
    """Hz of the loudest frequency."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return int(spectrum.argmax()) * RATE / len(samples)


def test_an_item_follows_from_seed_and_index(songs):
    config = StemConfig(1000, repitch=0.5)
    one, other = (MixedStems(tracks(songs), config, length=20, seed=3) for _ in range(2))
    assert all(np.array_equal(one[i][0], other[i][0]) for i in (0, 7, 19))
    assert not np.array_equal(one[0][0], MixedStems(tracks(songs), config, length=20, seed=4)[0][0])
    assert one[0][0].shape == (2, 2, 1000)
    with pytest.raises(IndexError):
        one[20]


def test_without_remix_stems_belong_together_and_with_it_none_is_lost(songs):
    def of(remix):
        plain = StemConfig(2000, 0, 0, 0, (1, 1), remix)
        data = MixedStems(tracks(songs), plain, length=24, seed=0)
        return [
            (round(pitch(s[0, 0]) - 200, -2), round(pitch(s[1, 0]) - 1000, -2))
            for (s,) in map(data.__getitem__, range(24))
        ]

    together, swapped = of(1), of(4)
    assert all(a == b for a, b in together)
    assert any(a != b for a, b in swapped)
    for group in range(0, 24, 4):
        rows = swapped[group : group + 4]
        assert (
            sorted(a for a, _ in rows)
            == sorted(b for _, b in rows)
            == sorted(a for a, _ in together[group : group + 4])
        )


def test_gains_signs_and_channels_are_drawn_for_each_stem(songs):
    plain = MixedStems(tracks(songs), StemConfig(500, 0, 0, 0, (1, 1)), length=40, seed=0)
    drawn = MixedStems(tracks(songs), StemConfig(500, 0, 0.5, 0.5, (0.25, 1.25)), length=40, seed=0)
    ratios, swapped = [], 0
    for i in range(40):
        before, after = plain[i][0][0], drawn[i][0][0]
        is_swapped = np.abs(after[0]).max() < np.abs(after[1]).max()
        swapped += is_swapped
        ratios.append(float(np.vdot(after[::-1] if is_swapped else after, before) / np.vdot(before, before)))
    assert 0.25 <= np.abs(ratios).min() <= np.abs(ratios).max() <= 1.25
    assert 5 < np.sum(np.array(ratios) < 0) < 35
    assert 5 < swapped < 35


def test_repitching_moves_pitch_by_semitones(songs):
    data = MixedStems(tracks(songs), StemConfig(4000, 0, 0, 0, (1, 1), 1, repitch=1.0), length=16, seed=0)
    found = [pitch(s[1, 0]) for (s,) in map(data.__getitem__, range(16))]
    allowed = [base * 2 ** (step / 12) for base in (1000, 1100, 1200) for step in range(-2, 3)]
    assert all(min(abs(f - a) for a in allowed) < 4 for f in found)
    assert any(min(abs(f - a) for a in (1000, 1100, 1200)) > 20 for f in found)


def test_a_track_is_brought_to_deviation_one(songs):
    for (stems,) in map(
        MixedStems(tracks(songs), StemConfig(8000, 0, 0, 0, (1, 1), 1), length=4).__getitem__, range(4)
    ):
        assert stems.sum(0).mean(0).std() == pytest.approx(1, rel=0.05)


def test_one_channel_of_two_and_two_of_one(songs, tmp_path):
    assert tracks(songs, 1).crop(0, 100, (0,)).shape == (1, 100)
    write(tmp_path / "mono.wav", Audio(np.full(400, 0.1, np.float32), RATE))
    pool = Recorded({"a": [tmp_path / "mono.wav"], "b": [tmp_path / "mono.wav"]}, RATE, 2)
    found = pool.crop(0, 1000, (0,))  # longer than it: it repeats
    assert found.shape == (2, 1000)
    assert np.allclose(found, 1, atol=1e-3)


def test_recordings_apart_are_judged_at_fixed_ratios(tmp_path):
    for name in ("speech", "noise"):
        (tmp_path / name).mkdir()
        samples = np.random.default_rng(len(name)).standard_normal(RATE) * 0.05
        write(tmp_path / name / "x.wav", Audio(samples.astype(np.float32), RATE))
    pool = Recorded({"speech": [tmp_path / "speech"], "noise": [tmp_path / "noise"]}, RATE, 1)
    ratios = [10 * np.log10(np.square(s).mean() / np.square(n).mean()) for s, n in judged_stems(pool, 2000, 4)]
    assert np.allclose(ratios, [-5, 0, 5, 10], atol=1e-3)


def test_a_folder_of_tracks_or_a_track(songs):
    assert [path.name for path in track_folders(songs)] == ["song0", "song1", "song2"]
    assert track_folders(songs / "song1") == [songs / "song1"]


def test_what_cannot_be_used_is_named(songs, tmp_path):
    with pytest.raises(InputError, match=r"no c\.wav"):
        Tracks([songs], ("a", "c"), RATE, 2)
    with pytest.raises(InputError, match="no folder"):
        Tracks([tmp_path / "nowhere"], ("a", "b"), RATE, 2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no recordings of 'a'"):
        Recorded({"a": [tmp_path / "empty"]}, RATE, 1)


@pytest.mark.parametrize("wrong", [{"remix": 0}, {"scale": (0.0, 1.0)}, {"repitch": 1.5}, {"shift": -1.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError):
        StemConfig(100, **wrong)
