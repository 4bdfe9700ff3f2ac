"""Recordings of the Lab Streaming Layer: an XDF file's signal, its markers as events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harken.data.brain import Recording
from harken.errors import InputError, MissingExtraError

_KINDS = ("eeg", "meg", "ieeg", "ecog", "exg")
_UNITS = {"volts": 1.0, "v": 1.0, "millivolts": 1e-3, "mv": 1e-3, "microvolts": 1e-6, "uv": 1e-6, "µv": 1e-6}


def read_xdf(path: Path, volts: float) -> Recording:
    """The first stream of brain signals in a file; every stream of markers becomes events.

    Args:
        path: the file.
        volts: what one of its numbers is, where the stream names no unit.

    Raises:
        MissingExtraError: pyxdf is not installed.
        InputError: it cannot be read, or holds no brain signals.
    """
    try:
        from pyxdf import load_xdf
    except ImportError:
        raise MissingExtraError("pyxdf", extra="xdf") from None
    try:
        streams, _ = load_xdf(str(path), verbose=False)
    except Exception as error:  # the parser raises whatever its bytes lead it to
        raise InputError(f"'{path}' is not a readable XDF file: {str(error)[:100] or type(error).__name__}") from None
    signals = [stream for stream in streams if _text(stream, "type").lower() in _KINDS and len(stream["time_series"])]
    if not signals:
        kinds = ", ".join(sorted({_text(stream, "type") for stream in streams})) or "none"
        raise InputError(f"'{path}' holds no stream of EEG: its streams are {kinds}")
    signal = signals[0]
    data, times = np.asarray(signal["time_series"], np.float64).T, np.asarray(signal["time_stamps"], np.float64)
    rate = float(_text(signal, "nominal_srate") or 0)
    if not rate > 0:
        raise InputError(f"'{path}' gives its EEG no nominal rate: resample it first")
    names, units = _channels(signal, len(data))
    scale = np.array([_UNITS.get(unit.lower(), volts) for unit in units])
    events: list[tuple[int, int]] = []
    codes: dict[str, int] = {}
    for stream in streams:
        if _text(stream, "type").lower() in ("markers", "marker", "events"):
            for when, what in zip(stream["time_stamps"], stream["time_series"], strict=False):
                name = str(np.ravel(what)[0])
                code = codes.setdefault(name, int(name) if name.isdecimal() else 1 + len(codes))
                events.append((int(np.searchsorted(times, when)), code))
    return Recording(
        data=(data * scale[:, None]).astype(np.float32),
        sfreq=rate,
        ch_names=names,
        events=np.array(sorted(events), np.int64).reshape(-1, 2),
        event_names={code: name for name, code in codes.items()},
        name=path.name,
    )


def _text(stream: Any, entry: str) -> str:
    found = stream["info"].get(entry)
    return str(found[0]) if found else ""


def _channels(stream: Any, count: int) -> tuple[tuple[str, ...], list[str]]:
    try:
        told = stream["info"]["desc"][0]["channels"][0]["channel"]
        names = tuple(str(channel["label"][0]) for channel in told)
        units = [str((channel.get("unit") or [""])[0]) for channel in told]
    except (KeyError, IndexError, TypeError, AttributeError):
        names, units = (), []
    if len(names) != count:
        return tuple(str(i + 1) for i in range(count)), [""] * count
    return names, units
