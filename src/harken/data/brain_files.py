"""Readers of brain signals: what MNE reads, ``.npz`` and CSV; sizes are bounded before anything is allocated."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from harken.data.brain import Recording, Trials, joined, require_mne
from harken.data.brain_xdf import read_xdf
from harken.errors import InputError

UNLABELLED = "unlabelled"  # class of trials that come without any
LARGEST = 4 << 30  # bytes of an array, as float32
_TEXT = (".csv", ".tsv", ".txt")
_UNITS = {"V": 1.0, "mV": 1e-3, "uV": 1e-6, "nV": 1e-9}
_NAMED = {"x", "y", "classes", "sfreq", "fs", "ch_names", "channels", "subject", "session", "unit", "positions"}


def read_recording(
    path: str | os.PathLike[str],
    *,
    sfreq: float | None = None,
    channels: Sequence[str] | None = None,
    unit: str = "uV",
) -> Recording:
    """One continuous recording: EDF, BDF, GDF, FIF, BrainVision, EEGLAB and what else MNE reads, XDF, ``.npz``, CSV.

    An ``.npz`` holds ``data`` or ``eeg``, ``(channels, samples)`` or the other way round (the shorter side is the
    channels), ``sfreq`` or ``fs``, and perhaps ``ch_names`` or ``channels``, ``events`` ``(n, 2)``, ``unit``,
    ``scale_uV``. A CSV has one row a sample and one column a channel; a column ``time`` gives the rate,
    a column ``marker`` the events.

    Args:
        path: the file.
        sfreq: its rate in hertz, where the file does not say; otherwise it is resampled to this rate.
        channels: which channels to take, in this order; all when None.
        unit: of numbers in a file that does not say (``V``, ``mV``, ``uV``, ``nV``).

    Raises:
        InputError: it cannot be read, or its rate is not known.
        MissingExtraError: MNE is needed and not installed.
    """
    path = _existing(path)
    if path.suffix == ".npz":
        found = _recording_of_arrays(_arrays_of(path), path, sfreq, unit)
    elif path.suffix.lower() in _TEXT:
        found = _recording_of_table(path, sfreq, unit)
    elif path.suffix.lower() in (".xdf", ".xdfz"):
        found = read_xdf(path, volts_per(unit))
    else:
        found = _recording_by_mne(path)
    if channels is not None:
        found = found.pick(channels)
    return found if sfreq is None else found.resampled(sfreq)


def read_trials(
    path: str | os.PathLike[str],
    *,
    tmin: float | None = None,
    tmax: float | None = None,
    sfreq: float | None = None,
    channels: Sequence[str] | None = None,
    band: tuple[float | None, float | None] | None = None,
    notch: float | None = None,
    unit: str = "uV",
) -> Trials:
    """Labelled trials of a file: epochs that are cut already, or a recording with events.

    ``.npz`` layouts: ``x`` with ``y`` (and ``sfreq``, ``ch_names``, ``classes``, ``subject``, ``session``, ``unit``;
    without ``y`` all are of one class, ``unlabelled``); ``x_train``, ``y_train``, ``x_test``, ``y_test`` (sessions 0
    and 1); several recordings ``eeg_0``, ``event_sample_0``, ``event_code_0``, … with ``fs``, ``scale_uV``,
    ``channels`` (one session each); or one array ``(trials, samples)`` a class, named after the class. Files called
    ``*-epo.fif`` are MNE's epochs.

    Args:
        path: the file.
        tmin, tmax: seconds around each event; needed where the file holds recordings; cut out of ready trials (whose
            first sample is time 0).
        sfreq: the rate, where the file does not say; otherwise trials are resampled to it.
        channels: which channels, in this order.
        band: low and high edge in hertz of a zero-phase band-pass: on the recording where there is one, else on each
            trial.
        notch: hertz of the mains, taken out of recordings.
        unit: of numbers in a file that does not say.

    Raises:
        InputError: it cannot be read, holds no labels, or its rate is not known.
    """
    path = _existing(path)
    if path.suffix == ".npz":
        made = _trials_of_arrays(_arrays_of(path), path, tmin, tmax, sfreq, channels, band, notch, unit)
    elif path.name.endswith(("-epo.fif", "-epo.fif.gz", "_epo.fif", "_epo.fif.gz")):
        made = _trials_by_mne(path)
    else:
        rate = sfreq if path.suffix.lower() in _TEXT else None
        recording = read_recording(path, sfreq=rate, unit=unit)
        return _cut(recording, tmin, tmax, sfreq, channels, band, notch)
    if made is None:  # recordings: cut already
        raise InputError(f"'{path}' holds no trials: expected x and y, or recordings with events")
    return made


def read_signals(
    path: str | os.PathLike[str], sfreq: float, rate: float | None = None
) -> Float[np.ndarray, "stretches channels samples"]:
    """Trials, or a recording as one long trial, at a rate of one's own; labels and events are not needed.

    Args:
        path: the file.
        sfreq: what to resample to, hertz.
        rate: that of a file which does not say.

    Raises:
        InputError: it cannot be read.
    """
    try:
        found = read_trials(path, tmin=0.0, sfreq=rate)
        names = tuple(map(str, range(found.x[..., 0].size)))
        flat = Recording(found.x.reshape(len(names), -1), found.sfreq, names)
        return flat.resampled(sfreq).data.reshape(*found.x.shape[:2], -1)
    except InputError as error:
        if "is a recording" not in str(error):
            raise
    return read_recording(path, sfreq=rate).resampled(sfreq).data[None]


def trials_of_files(paths: Sequence[str | os.PathLike[str]], **options: Any) -> Trials:
    """Several files as one set of trials, each a session of its own; options as for :func:`read_trials`."""
    if not paths:
        raise InputError("no file was given: expected at least one with trials")
    return joined([read_trials(path, **options) for path in paths])


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.is_file() and not (path.is_dir() and path.suffix in (".ds", ".mff")):
        raise InputError(f"no recording at '{path}'")
    return path


def _arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz``, after a look at what they would take."""
    total = 0
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(file)
                if dtype.hasobject:
                    raise InputError(f"'{path}' holds Python objects, of which none was read")
                total += int(np.prod(shape, dtype=np.float64) * max(4, dtype.itemsize))
                if total > LARGEST:
                    raise InputError(f"'{path}' needs more than {LARGEST >> 30} GiB: cut it into smaller files")
        with np.load(path, allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except InputError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError, NotImplementedError) as error:
        raise InputError(f"'{path}' is not a readable .npz file: {str(error)[:100]}") from None


def _rate(arrays: dict[str, np.ndarray], given: float | None, path: Path) -> float:
    for name in ("sfreq", "fs"):
        if name in arrays:
            rate = float(arrays[name])
            if not 0 < rate < np.inf:
                raise InputError(f"'{path}' gives a rate of {rate} Hz: it is damaged")
            return rate
    if given is None:
        raise InputError(f"'{path}' does not say its rate: give --sfreq (in Python sfreq=), in hertz")
    return float(given)


def volts_per(unit: str) -> float:
    """What one of a unit is in volts.

    Raises:
        InputError: no unit has that name.
    """
    if unit not in _UNITS:
        raise InputError(f"no unit named '{unit}': one of {', '.join(_UNITS)}")
    return _UNITS[unit]


def _volts(arrays: dict[str, np.ndarray], unit: str) -> float:
    if "scale_uV" in arrays:
        return float(arrays["scale_uV"]) * 1e-6
    return volts_per(str(arrays["unit"]) if "unit" in arrays else unit)


def _names(arrays: dict[str, np.ndarray]) -> tuple[str, ...]:
    for name in ("ch_names", "channels"):
        if name in arrays:
            return tuple(str(entry) for entry in arrays[name])
    return ()


def _recording_of_arrays(arrays: dict[str, np.ndarray], path: Path, sfreq: float | None, unit: str) -> Recording:
    data = next((arrays[name] for name in ("data", "eeg", "x") if name in arrays), None)
    if data is None or data.ndim != 2 or not data.size:
        raise InputError(f"'{path}' holds no recording: expected an array 'data' of (channels, samples)")
    data = data if data.shape[0] <= data.shape[1] else data.T
    names = _names(arrays) or tuple(str(i + 1) for i in range(len(data)))
    if len(names) != len(data):
        raise InputError(f"'{path}' has {len(data)} channels but {len(names)} names")
    events = arrays.get("events", np.zeros((0, 2)))
    if events.ndim != 2 or events.shape[1] not in (2, 3):
        raise InputError(f"'{path}' has events of shape {events.shape}: expected (events, 2): sample and code")
    return Recording(
        data=(data * _volts(arrays, unit)).astype(np.float32),
        sfreq=_rate(arrays, sfreq, path),
        ch_names=names,
        events=events[:, [0, -1]].astype(np.int64),
        name=path.name,
    )


def _recording_of_table(path: Path, sfreq: float | None, unit: str) -> Recording:
    if path.stat().st_size > LARGEST:
        raise InputError(f"'{path}' is larger than {LARGEST >> 30} GiB: cut it into smaller files")
    try:
        with path.open(encoding="utf-8") as file:
            head = file.readline().strip()
        split = "\t" if "\t" in head else ";" if ";" in head else "," if "," in head else None
        cells = [cell.strip().strip('"') for cell in head.split(split)]
        titled = not all(_is_number(cell) for cell in cells)
        table = np.loadtxt(path, delimiter=split, skiprows=int(titled), ndmin=2, dtype=np.float64)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' is not a table of numbers: {str(error)[:100]}") from None
    if not table.size:
        raise InputError(f"'{path}' holds no samples")
    names = cells if titled and len(cells) == table.shape[1] else [str(i + 1) for i in range(table.shape[1])]
    lower = [name.lower() for name in names]
    clock = next((i for i, name in enumerate(lower) if name in ("time", "timestamps", "timestamp")), None)
    marks = next((i for i, name in enumerate(lower) if name.startswith(("marker", "stim", "trigger"))), None)
    if clock is not None and sfreq is None and len(table) > 1:
        step = float(np.median(np.diff(table[:, clock])))
        sfreq = round(1 / step, 3) if step > 0 else None
    if sfreq is None:
        raise InputError(
            f"'{path}' does not say its rate: give --sfreq (in Python sfreq=), in hertz, or a column 'time'"
        )
    events = np.zeros((0, 2), np.int64)
    if marks is not None:
        when = np.flatnonzero(table[:, marks])
        events = np.stack((when, table[when, marks].astype(np.int64)), 1)
    taken = [i for i in range(table.shape[1]) if i not in (clock, marks)]
    if not taken:
        raise InputError(f"'{path}' has no column of signal")
    return Recording(
        data=(table[:, taken].T * _volts({}, unit)).astype(np.float32),
        sfreq=float(sfreq),
        ch_names=tuple(names[i] for i in taken),
        events=events,
        name=path.name,
    )


def _recording_by_mne(path: Path) -> Recording:
    mne = require_mne()
    try:
        raw = mne.io.read_raw(path, verbose="error")
        if raw.n_times * len(raw.ch_names) * 8 > LARGEST:
            raise InputError(f"'{path}' needs more than {LARGEST >> 30} GiB: crop it first (mne.io.Raw.crop)")
        stimulus = mne.pick_types(raw.info, stim=True)
        if len(stimulus):
            events, names = mne.find_events(raw, shortest_event=1, verbose="error"), {}
        else:
            events, codes = mne.events_from_annotations(raw, verbose="error")
            names = {code: name for name, code in codes.items()}
        raw = raw.pick("data").load_data(verbose="error")
    except InputError:
        raise
    except Exception as error:  # each format has errors of its own
        raise InputError(
            f"MNE cannot read '{path}': {str(error).splitlines()[0][:150] if str(error) else error!r}"
        ) from None
    return Recording(
        data=raw.get_data().astype(np.float32),
        sfreq=float(raw.info["sfreq"]),
        ch_names=tuple(raw.ch_names),
        events=np.asarray(events, np.int64).reshape(-1, 3)[:, [0, 2]] - np.array([raw.first_samp, 0]),
        event_names=names,
        positions=sensor_positions(raw.info),
        name=path.name,
    )


def sensor_positions(info: Any) -> Float[np.ndarray, "channels 3"] | None:
    """Metres, from an ``info`` of MNE, NaN where unknown; None without any."""
    places = np.array([entry["loc"][:3] for entry in info["chs"]], np.float64)
    places[(places == 0).all(1)] = np.nan
    return places if np.isfinite(places).any() else None


def _trials_by_mne(path: Path) -> Trials:
    mne = require_mne()
    try:
        epochs = mne.read_epochs(path, verbose="error").pick("data")
        x = epochs.get_data(copy=False).astype(np.float32)
    except Exception as error:
        raise InputError(
            f"MNE cannot read '{path}': {str(error).splitlines()[0][:150] if str(error) else error!r}"
        ) from None
    codes = sorted(set(epochs.events[:, 2].tolist()))
    names = {code: name for name, code in epochs.event_id.items()}
    return Trials(
        x=x,
        y=np.array([codes.index(code) for code in epochs.events[:, 2]]),
        classes=tuple(names.get(code, str(code)) for code in codes),
        sfreq=float(epochs.info["sfreq"]),
        ch_names=tuple(epochs.ch_names),
        positions=sensor_positions(epochs.info),
    )


def _trials_of_arrays(
    arrays: dict[str, np.ndarray],
    path: Path,
    tmin: float | None,
    tmax: float | None,
    sfreq: float | None,
    channels: Sequence[str] | None,
    band: tuple[float | None, float | None] | None,
    notch: float | None,
    unit: str,
) -> Trials:
    if any(name.startswith("eeg_") for name in arrays):
        return _cut_sessions(arrays, path, tmin, tmax, sfreq, channels, band, notch, unit)
    if "data" in arrays or ("eeg" in arrays and arrays["eeg"].ndim == 2):
        recording = _recording_of_arrays(arrays, path, sfreq, unit)
        return _cut(recording, tmin, tmax, sfreq, channels, band, notch)
    rate, scale = _rate(arrays, sfreq, path), _volts(arrays, unit)
    if "x" in arrays and ("y" in arrays or arrays["x"].ndim == 3):
        x = arrays["x"]
        y = arrays.get("y", np.full(len(x), UNLABELLED))  # to be decoded, not learned from
        session = arrays.get("session", np.zeros(len(x), np.int64))
    elif {"x_train", "y_train", "x_test", "y_test"} <= arrays.keys():
        halves = [(arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")]
        if halves[0][0].shape[1:] != halves[1][0].shape[1:]:
            raise InputError(f"'{path}' has training and test trials of different shapes")
        x, y = np.concatenate([half[0] for half in halves]), np.concatenate([half[1] for half in halves])
        session = np.repeat([0, 1], [len(half[0]) for half in halves])
    else:
        sets = {name: array for name, array in arrays.items() if name not in _NAMED and array.ndim == 2}
        if len(sets) < 2 or len({array.shape[1] for array in sets.values()}) > 1:
            raise InputError(f"'{path}' holds no trials: expected x and y, or one array (trials, samples) a class")
        x = np.concatenate(list(sets.values()))[:, None]
        y = np.repeat(list(sets), [len(array) for array in sets.values()])
        session = np.zeros(len(x), np.int64)
    if x.ndim == 2:
        x = x[:, None]
    if x.ndim != 3 or not x.size or y.shape != (len(x),):
        raise InputError(f"'{path}' has trials of shape {x.shape} and labels of shape {y.shape}: expected (trials, "
                         "channels, samples) and (trials,)")  # fmt: skip
    classes, labels = np.unique(y, return_inverse=True)
    names = tuple(str(name) for name in classes)
    if "classes" in arrays and np.issubdtype(y.dtype, np.integer) and y.min() >= 0 and y.max() < len(arrays["classes"]):
        labels, names = y, tuple(str(name) for name in arrays["classes"])
    made = Trials(
        x=(x * scale).astype(np.float32),
        y=labels,
        classes=names,
        sfreq=rate,
        ch_names=_names(arrays),
        subject=arrays.get("subject", np.zeros(len(x), np.int64)),
        session=session,
        positions=arrays.get("positions"),
    )
    return _prepared(made, tmin, tmax, sfreq, channels, band, notch)


def _cut_sessions(
    arrays: dict[str, np.ndarray],
    path: Path,
    tmin: float | None,
    tmax: float | None,
    sfreq: float | None,
    channels: Sequence[str] | None,
    band: tuple[float | None, float | None] | None,
    notch: float | None,
    unit: str,
) -> Trials:
    rate, scale, names = _rate(arrays, sfreq, path), _volts(arrays, unit), _names(arrays)
    parts = []
    for name in sorted((n for n in arrays if n.startswith("eeg_")), key=lambda n: (len(n), n)):
        number = name.removeprefix("eeg_")
        samples, codes = arrays.get(f"event_sample_{number}"), arrays.get(f"event_code_{number}")
        if samples is None or codes is None or samples.shape != codes.shape or arrays[name].ndim != 2:
            raise InputError(f"'{path}' lacks event_sample_{number} or event_code_{number} for its {name}")
        data = arrays[name].T if arrays[name].shape[0] > arrays[name].shape[1] else arrays[name]
        recording = Recording(
            data=(data * scale).astype(np.float32),
            sfreq=rate,
            ch_names=names or tuple(str(i + 1) for i in range(len(data))),
            events=np.stack((samples, codes), 1).astype(np.int64),
            name=f"{path.name}, {name}",
        )
        parts.append(_cut(recording, tmin, tmax, sfreq, channels, band, notch))
    return joined(parts)


def _cut(
    recording: Recording,
    tmin: float | None,
    tmax: float | None,
    sfreq: float | None,
    channels: Sequence[str] | None,
    band: tuple[float | None, float | None] | None,
    notch: float | None,
) -> Trials:
    if tmax is None:
        raise InputError(f"'{recording.name}' is a recording: give --tmin and --tmax, seconds around each event")
    if channels is not None:
        recording = recording.pick(channels)
    if band is not None or notch is not None:
        recording = recording.filtered(*(band or (None, None)), notch=notch)
    if sfreq is not None:
        recording = recording.resampled(sfreq)
    return recording.trials(0.0 if tmin is None else tmin, tmax)


def _prepared(
    trials: Trials,
    tmin: float | None,
    tmax: float | None,
    sfreq: float | None,
    channels: Sequence[str] | None,
    band: tuple[float | None, float | None] | None,
    notch: float | None,
) -> Trials:
    """Ready trials, with what a recording would have gone through done to each."""
    from dataclasses import replace

    if channels is not None:
        trials = trials.pick(channels)
    count, kept, length = trials.x.shape
    if band is not None or notch is not None or (sfreq is not None and sfreq != trials.sfreq):
        # each trial by itself: what lies beyond its ends is not known
        flat = Recording(trials.x.reshape(count * kept, length), trials.sfreq, tuple(map(str, range(count * kept))))
        if band is not None or notch is not None:
            flat = flat.filtered(*(band or (None, None)), notch=notch)
        if sfreq is not None:
            flat = flat.resampled(sfreq)
        trials = replace(trials, x=flat.data.reshape(count, kept, -1), sfreq=flat.sfreq)
    if tmin is not None or tmax is not None:
        first = round((tmin or 0.0) * trials.sfreq)
        last = trials.x.shape[2] if tmax is None else round(tmax * trials.sfreq)
        if not 0 <= first < last <= trials.x.shape[2]:
            have = trials.x.shape[2] / trials.sfreq
            raise InputError(f"cannot cut {tmin or 0:g} to {tmax} s out of trials of {have:.3g} s, which begin at 0")
        trials = replace(trials, x=trials.x[:, :, first:last])
    return trials


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
