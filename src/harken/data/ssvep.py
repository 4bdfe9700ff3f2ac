"""SSVEP trials with the frequency of each class: the arrays of public benchmarks, and a synthetic speller."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from harken.data.brain import Trials
from harken.data.brain_files import LARGEST, read_trials
from harken.errors import InputError, MissingExtraError

Layout = Literal["12jfpm", "benchmark", "beta"]
# onset in seconds into the stored epoch, and the time until the visual cortex answers
_ONSET = {"12jfpm": (38 / 256, 0.135), "benchmark": (0.5, 0.14), "beta": (0.5, 0.13)}
_RATE = {"12jfpm": 256.0, "benchmark": 250.0, "beta": 250.0}
_12JFPM = (9.25, 11.25, 13.25, 9.75, 11.75, 13.75, 10.25, 12.25, 14.25, 10.75, 12.75, 14.75)
_MUSE = {"1": 30.0, "2": 20.0}
_ELECTRODES = (  # of the 64-channel sets, in their order
    "Fp1 Fpz Fp2 AF3 AF4 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 T7 C5 C3 C1 Cz C2 C4 C6 T8 M1 "
    "TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 M2 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO5 PO3 POz PO4 PO6 PO8 CB1 O1 Oz O2 CB2"
)
OCCIPITAL = ("Pz", "PO3", "PO5", "PO4", "PO6", "POz", "O1", "Oz", "O2")


@dataclass(frozen=True)
class SSVEPTrials(Trials):
    """Trials of a speller.

    Attributes:
        frequencies: of the flicker of each class, Hz.
    """

    frequencies: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.frequencies) != len(self.classes):
            raise InputError(
                f"{len(self.classes)} classes but {len(self.frequencies)} frequencies: expected one for each class"
            )

    def select(self, which: Any) -> SSVEPTrials:
        """Some of the trials, by index or mask."""
        return cast(SSVEPTrials, super().select(which))

    def pick(self, channels: Sequence[str]) -> SSVEPTrials:
        """Some of the channels, in the order asked for."""
        return cast(SSVEPTrials, super().pick(channels))

    def window(self, seconds: float) -> SSVEPTrials:
        """The first so many seconds of each trial.

        Raises:
            InputError: the trials are shorter.
        """
        samples = round(seconds * self.sfreq)
        if not 1 <= samples <= self.x.shape[2]:
            raise InputError(f"cannot cut {seconds:g} s out of trials of {self.x.shape[2] / self.sfreq:.3g} s")
        return replace(self, x=self.x[:, :, :samples])


def read_ssvep(
    path: str | os.PathLike[str],
    *,
    frequencies: Sequence[float] | None = None,
    tmin: float | None = None,
    tmax: float | None = None,
    sfreq: float | None = None,
    channels: Sequence[str] | None = None,
    notch: float | None = None,
    latency: float = 0.14,
) -> SSVEPTrials:
    """Trials of a file, each beginning when the answer of the visual cortex does.

    Beside whatever :func:`~harken.data.brain_files.read_trials` reads, three public sets in MATLAB's format: 12JFPM
    (``eeg``), the Benchmark of Tsinghua (``data``) and BETA (``data.EEG``); see :func:`from_arrays`. Several ``.mat``
    of a folder are its subjects, in the order of the numbers in their names.

    Args:
        path: a file, or a folder of ``.mat`` files.
        frequencies: of the flicker, Hz, in the order of the classes; not needed where class names are frequencies
            (``"12.5 Hz"``), nor for files that say, 12JFPM, and the two-flicker recordings of a Muse.
        tmin, tmax: seconds around the events of a recording; without ``tmin`` it is ``latency``.
        sfreq, channels, notch: as for ``read_trials``.
        latency: seconds from the flicker to the cortex.

    Raises:
        InputError: it cannot be read, or the frequencies are not known.
    """
    path = Path(path)
    if path.is_dir() or path.suffix == ".mat":
        found = _of_matlab(path, frequencies)
        if channels is not None:
            found = found.pick(channels)
        if sfreq is not None and sfreq != found.sfreq:
            raise InputError(f"'{path}' has {found.sfreq:g} Hz: the sets of trials are not resampled")
        return found
    made = read_trials(
        path,
        tmin=latency if tmin is None and tmax is not None else tmin,
        tmax=tmax,
        sfreq=sfreq,
        channels=channels,
        notch=notch,
    )
    return with_frequencies(made, frequencies)


def with_frequencies(trials: Trials, frequencies: Sequence[float] | None = None) -> SSVEPTrials:
    """Trials, with frequencies that are given or that the names of the classes tell.

    Raises:
        InputError: neither says.
    """
    if frequencies is None:
        if trials.classes == ("1", "2") and trials.ch_names[:4] == ("TP9", "AF7", "AF8", "TP10"):
            frequencies = [_MUSE[name] for name in trials.classes]
            trials = replace(trials, classes=_names(frequencies))
        else:
            numbers = [re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:[Hh]z)\s*", name) for name in trials.classes]
            if not all(numbers):
                known = ", ".join(trials.classes[:12])
                raise InputError(f"which frequencies flicker? The classes are {known}: give one in Hz for each")
            frequencies = [float(number[1]) for number in numbers if number]
    own = {name: getattr(trials, name) for name in Trials.__dataclass_fields__}
    return SSVEPTrials(**own, frequencies=tuple(map(float, frequencies)))


def from_arrays(
    array: NDArray[np.floating], layout: Layout, *, frequencies: Sequence[float] | None = None, subject: int = 0
) -> SSVEPTrials:
    """One subject's array of a public set, microvolts, as trials of whole blocks; a block is a session.

    - ``"12jfpm"``: ``(12 targets, 8 channels, samples, blocks)`` at 256 Hz, flicker from sample 39.
    - ``"benchmark"``: ``(64 channels, samples, 40 targets, 6 blocks)`` at 250 Hz, half a second of cue.
    - ``"beta"``: ``(64 channels, samples, 4 blocks, 40 targets)`` at 250 Hz, half a second of cue.

    What lies before the answer of the visual cortex (0.135, 0.14 and 0.13 s after the flicker begins) is cut off.

    Args:
        array: as above.
        layout: which.
        frequencies: of the targets; known for 12JFPM.
        subject: a number for it.

    Raises:
        InputError: another number of dimensions, or no frequencies.
    """
    array = np.asarray(array)
    if array.ndim != 4:
        raise InputError(f"expected an array of four dimensions in the layout '{layout}', got {array.ndim}")
    orders = {"12jfpm": (3, 0, 1, 2), "benchmark": (3, 2, 0, 1), "beta": (2, 3, 0, 1)}
    array = array.transpose(orders[layout])
    blocks, targets, channels, _ = array.shape
    sfreq = _RATE[layout]
    first = round(sum(_ONSET[layout]) * sfreq)
    if frequencies is None and layout == "12jfpm" and targets == len(_12JFPM):
        frequencies = _12JFPM
    if frequencies is None:
        raise InputError(f"which frequencies flicker? The layout '{layout}' needs {targets} of them in Hz")
    return SSVEPTrials(
        x=array[..., first:].reshape(blocks * targets, channels, -1) * 1e-6,
        y=np.tile(np.arange(targets), blocks),
        classes=_names(frequencies),
        sfreq=sfreq,
        ch_names=tuple(_ELECTRODES.split()) if channels == 64 else (),
        subject=np.full(blocks * targets, subject),
        session=np.repeat(np.arange(blocks), targets),
        frequencies=tuple(map(float, frequencies)),
    )


def synthetic_ssvep(
    frequencies: Sequence[float] = (8.0, 9.5, 11.0, 12.5),
    *,
    seconds: float = 1.0,
    sfreq: float = 250.0,
    channels: int = 5,
    blocks: int = 3,
    subjects: int = 1,
    snr: float = 0.3,
    harmonics: int = 3,
    seed: int = 0,
) -> SSVEPTrials:
    """A speller nobody wore: phase-locked sines with falling harmonics in noise that grows towards low frequencies.

    Every subject has a latency, a strength of each harmonic and a topography of their own; noise is shared between
    channels in part, as in an EEG. Good for tests and for timing; accuracies on it say nothing about people.

    Args:
        frequencies: one a class, Hz.
        seconds, sfreq, channels: of the trials.
        blocks: trials of every class and subject; a block is a session.
        subjects: how many.
        snr: amplitude of the first harmonic over the standard deviation of the noise.
        harmonics: how many there are.
        seed: decides all of it.
    """
    rng = np.random.default_rng(seed)
    samples, classes = round(seconds * sfreq), len(frequencies)
    time = np.arange(samples) / sfreq
    x = np.zeros((subjects, blocks, classes, channels, samples))
    for person in range(subjects):
        delay = rng.uniform(0, 0.02)
        for order in range(1, harmonics + 1):
            place = rng.normal(1, 0.5, channels) / order
            for number, frequency in enumerate(frequencies):
                wave = np.sin(2 * np.pi * order * frequency * (time + delay) + 0.35 * np.pi * number * order)
                x[person, :, number] += snr * place[:, None] * wave
    noise = rng.standard_normal(x.shape)
    spectrum = np.fft.rfft(noise, axis=-1) / np.sqrt(np.arange(samples // 2 + 1) + 4)
    noise = np.fft.irfft(spectrum, samples, axis=-1)
    noise = np.einsum("cd,...dt->...ct", np.eye(channels) + 0.5, noise / noise.std())
    x += noise / noise.std()
    return SSVEPTrials(
        x=10e-6 * x.reshape(-1, channels, samples),
        y=np.tile(np.arange(classes), subjects * blocks),
        classes=_names(frequencies),
        sfreq=sfreq,
        subject=np.repeat(np.arange(subjects), blocks * classes),
        session=np.tile(np.repeat(np.arange(blocks), classes), subjects),
        frequencies=tuple(map(float, frequencies)),
    )


def _names(frequencies: Sequence[float]) -> tuple[str, ...]:
    return tuple(f"{frequency:g} Hz" for frequency in frequencies)


def _of_matlab(path: Path, frequencies: Sequence[float] | None) -> SSVEPTrials:
    files = sorted(path.glob("*.mat"), key=_number) if path.is_dir() else [path]
    tables = [file for file in files if "freq" in file.name.lower()]
    if not frequencies and tables:
        frequencies = np.ravel(_matlab(tables[0]).get("freqs", [])).tolist() or None
    subjects: list[SSVEPTrials] = []
    for file in [file for file in files if file not in tables]:
        held = _matlab(file)
        known = frequencies
        if "eeg" in held:
            array, layout = held["eeg"], "12jfpm"
        elif "data" in held and getattr(held["data"], "dtype", None) is not None and held["data"].dtype.names:
            whole = held["data"][0, 0]
            array, layout = whole["EEG"], "beta"
            if known is None and "suppl_info" in held["data"].dtype.names:
                known = np.ravel(whole["suppl_info"][0, 0]["freqs"]).tolist()
        elif "data" in held:
            array, layout = held["data"], "benchmark"
        else:
            raise InputError(f"'{file}' holds neither 'eeg' (12JFPM) nor 'data' (Benchmark, BETA)")
        subjects.append(from_arrays(array, layout, frequencies=known, subject=len(subjects)))  # type: ignore[arg-type]
    if not subjects:
        raise InputError(f"no .mat files of subjects in '{path}'")
    first = subjects[0]
    length = min(one.x.shape[2] for one in subjects)
    if any((one.frequencies, one.ch_names) != (first.frequencies, first.ch_names) for one in subjects):
        raise InputError(f"the files of '{path}' are of different sets: give a folder for each")
    return replace(
        first,
        x=np.concatenate([one.x[:, :, :length] for one in subjects]),
        y=np.concatenate([one.y for one in subjects]),
        subject=np.concatenate([one.subject for one in subjects]),
        session=np.concatenate([one.session for one in subjects]),
    )


def _matlab(path: Path) -> dict[str, Any]:
    try:
        from scipy.io import loadmat, whosmat
        from scipy.io.matlab import MatReadError
    except ImportError:
        raise MissingExtraError("scipy", extra="brain") from None
    if not path.is_file():
        raise InputError(f"no recording at '{path}'")
    try:
        sizes = [int(np.prod(shape, dtype=np.float64)) * 8 for _, shape, _ in whosmat(path)]
        if sum(sizes) > LARGEST or path.stat().st_size > LARGEST:
            raise InputError(f"'{path}' needs more than {LARGEST >> 30} GiB: cut it into smaller files")
        return loadmat(path)
    except NotImplementedError:
        raise InputError(f"'{path}' is in MATLAB's 7.3 format: save it again with -v7") from None
    except (OSError, ValueError, TypeError, KeyError, MatReadError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"'{path}' is not a readable .mat file: {str(error)[:100]}") from None


def _number(path: Path) -> tuple[int, str]:
    digits = re.search(r"\d+", path.stem)
    return (int(digits[0]) if digits else 0, path.name)
