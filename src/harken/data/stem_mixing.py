"""Stems to separate, mixed anew for every item: shifted, flipped, scaled, transposed, and swapped between tracks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray
from torch.utils.data import Dataset

from harken.data.audio import Audio, read
from harken.data.mixing import audio_files
from harken.errors import InputError

Stem = NDArray[np.float32]  # (channels, samples)


@dataclass(frozen=True)
class StemConfig:
    """How items are made; the defaults are those of Demucs (arXiv 1911.13254, section 5.1), without transposition.

    Attributes:
        samples: of an item.
        shift: seconds by which each stem starts later, at most.
        flip_sign, flip_channels: probability of each, stem by stem.
        scale: range of each stem's gain.
        remix: stems are swapped between so many items in a row; 1 leaves them together.
        repitch: probability that a track is played faster or slower, by whole semitones.
        semitones: at most, up or down. Pitch and tempo move together, as on a tape.
    """

    samples: int
    shift: float = 1.0
    flip_sign: float = 0.5
    flip_channels: float = 0.5
    scale: tuple[float, float] = (0.25, 1.25)
    remix: int = 4
    repitch: float = 0.0
    semitones: int = 2

    def __post_init__(self) -> None:
        if self.samples < 1 or self.remix < 1 or not 0 <= self.shift <= 60 or not 0 <= self.semitones <= 12:
            raise InputError(f"expected samples and a remix of at least 1, a shift of 0 to 60 s, got {self}")
        for name in ("flip_sign", "flip_channels", "repitch"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a probability, got {getattr(self, name)}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise InputError(f"scale is a range of positive gains, low before high, got {self.scale}")


class StemPool(ABC):
    """Stems in memory as 16-bit integers, at one rate and with one number of channels.

    Attributes:
        sources: names, in order.
        sample_rate, channels: of all.
    """

    def __init__(self, sources: Sequence[str], sample_rate: int, channels: int):
        self.sources, self.sample_rate, self.channels = tuple(sources), sample_rate, channels

    @abstractmethod
    def crop(self, source: int, length: int, seed: tuple[int, ...]) -> Stem:
        """``length`` samples of a stem, from a place that follows from the seed; short ones repeat."""

    @property
    @abstractmethod
    def seconds(self) -> float:
        """Length of all together."""

    @abstractmethod
    def __len__(self) -> int:
        """How many tracks, or recordings."""

    def _read(self, path: Path) -> NDArray[np.float32]:
        """``(channels, samples)`` at the pool's rate; one channel is repeated, several are averaged into one."""
        audio = read(path).resample(self.sample_rate)
        if audio.channels != self.channels:
            audio = Audio(np.repeat(audio.mono().samples, self.channels, 1), audio.rate)
        return audio.samples.T


class Tracks(StemPool):
    """Tracks whose stems were recorded together: folders with one file for each source, ``drums.wav`` and so on.

    Each track is brought to deviation 1 of its mixture (the mean of the channels), as it will be when it is separated.

    Args:
        folders: of tracks, each with a folder for every track; or tracks themselves.
        sources: names of the files, without extension.
        sample_rate, channels: what stems are brought to.

    Raises:
        InputError: no track, a stem is missing, or cannot be read.
    """

    def __init__(self, folders: Sequence[Path | str], sources: Sequence[str], sample_rate: int, channels: int):
        super().__init__(sources, sample_rate, channels)
        self.names: list[str] = []
        self._tracks: list[tuple[NDArray[np.int16], float]] = []
        for track in [track for folder in folders for track in track_folders(folder)]:
            found = stem_files(track)
            missing = [source for source in self.sources if source not in found]
            if missing:
                raise InputError(f"'{track}' has no {missing[0]}.wav: a track holds one file for each source")
            stems = [self._read(found[source]) for source in self.sources]
            stacked = np.stack([stem[:, : min(part.shape[1] for part in stems)] for stem in stems])
            deviation, peak = float(stacked.sum(0).mean(0).std()), float(np.abs(stacked).max(initial=0))
            if peak < 1e-4 or deviation < 1e-6:
                continue
            self.names.append(str(track))
            self._tracks.append((np.round(stacked * (32000 / peak)).astype(np.int16), peak / 32000 / deviation))
        if not self._tracks:
            raise InputError(f"no tracks in {', '.join(map(str, folders))}: each is a folder with one file a source")
        lengths = np.array([stems.shape[-1] for stems, _ in self._tracks], np.float64)
        self._weights = lengths / lengths.sum()

    def crop(self, source: int, length: int, seed: tuple[int, ...]) -> Stem:
        """All sources of one seed come from one place of one track."""
        rng = np.random.default_rng(seed)
        stems, gain = self._tracks[rng.choice(len(self._tracks), p=self._weights)]
        return _crop(stems[source], length, rng) * np.float32(gain)

    @property
    def seconds(self) -> float:
        """Length of all tracks together."""
        return sum(stems.shape[-1] for stems, _ in self._tracks) / self.sample_rate

    def __len__(self) -> int:
        return len(self._tracks)


class Recorded(StemPool):
    """Sources that were recorded apart, such as speech and noise: any recording of one goes with any of another.

    Each recording is brought to an RMS of 1, so that the gains of the items are the ratios of levels.

    Args:
        folders: of each source, or files.
        sample_rate, channels: what recordings are brought to.

    Raises:
        InputError: a folder does not exist, holds no audio or only silence, or a file cannot be read.
    """

    def __init__(self, folders: Mapping[str, Sequence[Path | str]], sample_rate: int, channels: int):
        super().__init__(tuple(folders), sample_rate, channels)
        self._recordings: list[list[tuple[NDArray[np.int16], float]]] = []
        for source, places in folders.items():
            kept = []
            for path in [
                p for place in places for p in ([Path(place)] if Path(place).is_file() else audio_files(place))
            ]:
                samples = self._read(path)
                peak, level = float(np.abs(samples).max(initial=0)), float(np.sqrt(np.mean(np.square(samples))))
                if peak > 1e-4:
                    kept.append((np.round(samples * (32000 / peak)).astype(np.int16), peak / 32000 / level))
            if not kept:
                raise InputError(f"no recordings of '{source}' in {', '.join(map(str, places))}")
            self._recordings.append(kept)

    def crop(self, source: int, length: int, seed: tuple[int, ...]) -> Stem:
        """Every source has a place of its own; the louder of a few, lest all be pauses."""
        rng, best = np.random.default_rng((*seed, source)), np.zeros((self.channels, length), np.float32)
        recordings = self._recordings[source]
        lengths = np.array([samples.shape[-1] for samples, _ in recordings], np.float64)
        for _ in range(4):
            samples, gain = recordings[rng.choice(len(recordings), p=lengths / lengths.sum())]
            found = _crop(samples, length, rng) * np.float32(gain)
            if np.square(found).mean() > np.square(best).mean():
                best = found
            if np.square(best).mean() > 0.1:
                break
        return best

    @property
    def seconds(self) -> float:
        """Length of all recordings together."""
        return sum(samples.shape[-1] for kept in self._recordings for samples, _ in kept) / self.sample_rate

    def __len__(self) -> int:
        return sum(map(len, self._recordings))


class MixedStems(Dataset[tuple[Stem]]):
    """Endless, seeded items ``(sources, channels, samples)``: item ``i`` is the same in every process, worker and run.

    The mixture is the sum of what comes out: it is made last.

    Args:
        pool: the stems.
        config: how items are made.
        length: how many items the data set says it has.
        seed: of all of them.
    """

    def __init__(self, pool: StemPool, config: StemConfig, *, length: int, seed: int = 0):
        self.pool, self.config, self.length, self.seed = pool, config, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Stem]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        group, member = divmod(index, self.config.remix)
        made = []
        for source in range(len(self.pool.sources)):
            swapped = np.random.default_rng((self.seed, group, source, 1)).permutation(self.config.remix)
            made.append(self._stem(source, group * self.config.remix + int(swapped[member])))
        return (np.stack(made),)

    def _stem(self, source: int, index: int) -> Stem:
        c, track = self.config, np.random.default_rng((self.seed, index, 2))
        played = 2 ** (track.integers(-c.semitones, c.semitones + 1) / 12) if track.random() < c.repitch else 1.0
        rng = np.random.default_rng((self.seed, index, source, 3))
        late = int(rng.integers(int(c.shift * self.pool.sample_rate) + 1))
        reach = c.samples + int(c.shift * self.pool.sample_rate)
        stem = self.pool.crop(source, int(np.ceil(reach * played)) + 1, (self.seed, index, 4))
        if played != 1.0:
            stem = soxr.resample(stem.T, played, 1.0, quality="LQ").T
            stem = np.pad(stem, ((0, 0), (0, max(0, reach - stem.shape[1]))))
        stem = stem[:, late : late + c.samples]
        if len(stem) == 2 and rng.random() < c.flip_channels:
            stem = stem[::-1]
        gain = rng.uniform(*c.scale) * (-1 if rng.random() < c.flip_sign else 1)
        return np.ascontiguousarray(stem * np.float32(gain), np.float32)


def judged_stems(pool: StemPool, samples: int, items: int) -> list[Stem]:
    """Fixed items as they are; sources recorded apart at -5, 0, 5 and 10 dB of the first to the others, in turn."""
    made = []
    for index in range(items):
        (stems,) = MixedStems(pool, StemConfig(samples, 0, 0, 0, (1, 1), 1), length=items, seed=20_000)[index]
        if isinstance(pool, Recorded):
            levels = np.sqrt(np.square(stems).mean((1, 2), keepdims=True))
            stems = stems / np.maximum(levels, 1e-6)
            stems[1:] *= np.float32(10 ** (-(-5, 0, 5, 10)[index % 4] / 20))
        made.append(stems)
    return made


def track_folders(folder: Path | str) -> list[Path]:
    """The tracks of a folder: those of its folders that hold audio, or itself where it holds some.

    Raises:
        InputError: it is no folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder '{folder}'")
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and stem_files(path))
    return inside or ([folder] if stem_files(folder) else [])


def stem_files(track: Path) -> dict[str, Path]:
    """Audio files of a track by their names without extension."""
    return {path.stem: path for path in audio_files(track) if path.parent == track}


def _crop(samples: NDArray[np.int16], length: int, rng: np.random.Generator) -> Stem:
    held = samples.shape[-1]
    if held < length:
        start = int(rng.integers(held))
        found = np.take(samples, np.arange(start, start + length), axis=-1, mode="wrap")
    else:
        start = int(rng.integers(held - length + 1))
        found = samples[:, start : start + length]
    return found.astype(np.float32)
