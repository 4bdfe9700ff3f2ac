"""Brain signals as arrays: trials and recordings in volts, with their rates, channel names, subjects and sessions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from harken.errors import InputError, MissingExtraError, OutputError
from harken.whole_files import whole_file

if TYPE_CHECKING:
    import mne


@dataclass(frozen=True)
class Recording:
    """One continuous recording.

    Attributes:
        data: volts, ``(channels, samples)``.
        sfreq: samples a second.
        ch_names: one name a channel.
        events: ``(events, 2)``: the sample at which something happened, and its code.
        event_names: what the codes mean, where the file says so.
        positions: of the sensors, metres in the head's frame, ``(channels, 3)``; NaN where unknown, None without any.
        name: what to call it in reports.
    """

    data: Float[np.ndarray, "channels samples"]
    sfreq: float
    ch_names: tuple[str, ...]
    events: Int[np.ndarray, "events 2"] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    event_names: dict[int, str] = field(default_factory=dict)
    positions: Float[np.ndarray, "channels 3"] | None = None
    name: str = ""

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.data.shape[1] / self.sfreq

    def pick(self, channels: Sequence[str]) -> Recording:
        """Some of the channels, in the order asked for.

        Raises:
            InputError: there is no such channel.
        """
        index = _channel_index(self.ch_names, channels, self.name)
        positions = None if self.positions is None else self.positions[index]
        return replace(self, data=self.data[index], ch_names=tuple(channels), positions=positions)

    def filtered(self, low: float | None, high: float | None, notch: float | None = None) -> Recording:
        """Band-pass and notch by MNE's zero-phase FIR filters, frequencies in hertz; None leaves a side open.

        Raises:
            InputError: a frequency is not between 0 and half the rate.
        """
        mne = require_mne()
        for frequency in (low, high, notch):
            if frequency is not None and not 0 < frequency < self.sfreq / 2:
                raise InputError(f"cannot filter at {frequency:g} Hz: expected between 0 and {self.sfreq / 2:g} Hz")
        data = self.data.astype(np.float64)
        if notch is not None:
            data = mne.filter.notch_filter(data, self.sfreq, notch, verbose="error")
        if low is not None or high is not None:
            data = mne.filter.filter_data(data, self.sfreq, low, high, verbose="error")
        return replace(self, data=data.astype(np.float32))

    def resampled(self, sfreq: float) -> Recording:
        """At another rate, by MNE; events move with the signal."""
        if sfreq == self.sfreq:
            return self
        if not 0 < sfreq < np.inf:
            raise InputError(f"expected a rate above 0 Hz, got {sfreq}")
        mne = require_mne()
        data = mne.filter.resample(self.data.astype(np.float64), sfreq, self.sfreq, method="polyphase", verbose="error")
        events = self.events.copy()
        events[:, 0] = np.round(events[:, 0] * (sfreq / self.sfreq))
        return replace(self, data=data.astype(np.float32), sfreq=float(sfreq), events=events)

    def trials(self, tmin: float, tmax: float, codes: Sequence[int] | None = None) -> Trials:
        """Stretches from ``tmin`` to ``tmax`` seconds around each event, one class a code.

        Events whose stretch is not wholly inside the recording are left out.

        Raises:
            InputError: there are no such events, or the stretch is empty.
        """
        if not tmin < tmax:
            raise InputError(f"expected tmin below tmax, got {tmin:g} and {tmax:g} seconds")
        known = sorted({int(code) for code in self.events[:, 1]})
        wanted = known if codes is None else [int(code) for code in codes]
        if not known or not set(wanted) <= set(known):
            have = f"it has {', '.join(map(str, known))}" if known else "it has none"
            raise InputError(f"'{self.name}' lacks events with the codes asked for: {have}")
        first, length = round(tmin * self.sfreq), max(1, round((tmax - tmin) * self.sfreq))
        kept = [
            (sample + first, wanted.index(code))
            for sample, code in self.events.tolist()
            if code in wanted and sample + first >= 0 and sample + first + length <= self.data.shape[1]
        ]
        if not kept:
            raise InputError(f"no event of '{self.name}' has {tmin:g} to {tmax:g} seconds of signal around it")
        return Trials(
            x=np.stack([self.data[:, start : start + length] for start, _ in kept]),
            y=np.array([label for _, label in kept]),
            classes=tuple(self.event_names.get(code, str(code)) for code in wanted),
            sfreq=self.sfreq,
            ch_names=self.ch_names,
            positions=self.positions,
        )

    def windows(self, seconds: float, step: float | None = None) -> Float[np.ndarray, "windows channels samples"]:
        """The recording cut into windows (a view), each beginning ``step`` seconds after the last."""
        length = round(seconds * self.sfreq)
        hop = max(1, round((step or seconds) * self.sfreq))
        if not 1 <= length <= self.data.shape[1]:
            raise InputError(
                f"cannot cut windows of {seconds:g} s from '{self.name}' of {self.seconds:.3g} s: ask for shorter ones"
            )
        return np.lib.stride_tricks.sliding_window_view(self.data, length, axis=1)[:, ::hop].swapaxes(0, 1)


@dataclass(frozen=True)
class Trials:
    """Labelled stretches of signal, and whose they are.

    Attributes:
        x: volts, ``(trials, channels, samples)``.
        y: which of ``classes``, ``(trials,)``.
        classes: their names.
        sfreq: samples a second.
        ch_names: one name a channel; ``"1"``, ``"2"``, … where the file gives none.
        subject, session: whole numbers, ``(trials,)``; trials of one session were recorded together.
        positions: of the sensors, metres, ``(channels, 3)``, NaN where unknown; None without any.
    """

    x: Float[np.ndarray, "trials channels samples"]
    y: Int[np.ndarray, " trials"]
    classes: tuple[str, ...]
    sfreq: float
    ch_names: tuple[str, ...] = ()
    subject: Int[np.ndarray, " trials"] = field(default_factory=lambda: np.zeros(0, np.int64))
    session: Int[np.ndarray, " trials"] = field(default_factory=lambda: np.zeros(0, np.int64))
    positions: Float[np.ndarray, "channels 3"] | None = None

    def __post_init__(self) -> None:
        trials, channels = self.x.shape[:2]
        put = object.__setattr__
        put(self, "x", np.ascontiguousarray(self.x, dtype=np.float32))
        put(self, "ch_names", tuple(self.ch_names) or tuple(str(i + 1) for i in range(channels)))
        for name in ("y", "subject", "session"):
            given = np.asarray(getattr(self, name), dtype=np.int64)
            put(self, name, given if len(given) or not trials else np.zeros(trials, np.int64))
            if len(getattr(self, name)) != trials:
                raise InputError(f"{trials} trials but {len(given)} entries of '{name}': expected one for each")
        if len(self.ch_names) != channels:
            raise InputError(f"{channels} channels but {len(self.ch_names)} names: expected one for each")
        if trials and not 0 <= self.y.min() <= self.y.max() < len(self.classes):
            raise InputError(f"a label is not one of the {len(self.classes)} classes")
        if not 0 < self.sfreq < np.inf:
            raise InputError(f"expected a rate above 0 Hz, got {self.sfreq}")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def labels(self) -> np.ndarray:
        """The class names of the trials."""
        return np.array(self.classes)[self.y]

    def select(self, which: Any) -> Trials:
        """Some of the trials, by index or mask."""
        return replace(self, x=self.x[which], y=self.y[which], subject=self.subject[which], session=self.session[which])

    def pick(self, channels: Sequence[str]) -> Trials:
        """Some of the channels, in the order asked for.

        Raises:
            InputError: there is no such channel.
        """
        index = _channel_index(self.ch_names, channels, "the data")
        positions = None if self.positions is None else self.positions[index]
        return replace(self, x=self.x[:, index], ch_names=tuple(channels), positions=positions)

    def interpolated(self, bad: Sequence[str]) -> Trials:
        """Bad channels rebuilt from their neighbours by MNE's spherical splines.

        Raises:
            InputError: the positions of the sensors are not known, or there is no such channel.
        """
        _channel_index(self.ch_names, bad, "the data")
        if self.positions is None or not np.isfinite(self.positions).all():
            raise InputError(
                "cannot interpolate channels: the positions of the sensors are not known (drop them instead)"
            )
        epochs = self.as_epochs()
        epochs.info["bads"] = list(bad)
        return replace(self, x=epochs.interpolate_bads(verbose="error").get_data(copy=False).astype(np.float32))

    def as_epochs(self) -> mne.EpochsArray:
        """As ``mne.EpochsArray``, class names as event names."""
        mne = require_mne()
        info = mne.create_info(list(self.ch_names), self.sfreq, "eeg", verbose="error")
        events = np.stack((np.arange(len(self)) * self.x.shape[2], np.zeros(len(self), int), self.y), 1)
        names = {name: code for code, name in enumerate(self.classes) if (self.y == code).any()}
        epochs = mne.EpochsArray(self.x.astype(np.float64), info, events, event_id=names or None, verbose="error")
        if self.positions is not None:
            places = {n: p for n, p in zip(self.ch_names, self.positions, strict=True) if np.isfinite(p).all()}
            epochs.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"), verbose="error")
        return epochs

    def save(self, path: str | os.PathLike[str]) -> None:
        """As an ``.npz`` that :func:`harken.data.brain_files.read_trials` reads, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        arrays: dict[str, Any] = {
            "x": self.x, "y": self.y, "classes": np.array(self.classes), "sfreq": np.float64(self.sfreq),
            "ch_names": np.array(self.ch_names), "subject": self.subject, "session": self.session,
            "unit": np.array("V"),
        }  # fmt: skip
        if self.positions is not None:
            arrays["positions"] = self.positions
        try:
            with whole_file(Path(path)) as partial, partial.open("wb") as file:
                np.savez_compressed(file, **arrays)
        except OSError as error:
            raise OutputError(f"cannot write '{path}': {error.strerror or error}") from None


def joined(parts: Sequence[Trials]) -> Trials:
    """Trials of several files as one set; each part becomes the next session unless it names its own.

    Raises:
        InputError: rates, channels or lengths differ.
    """
    first = parts[0]
    for part in parts[1:]:
        if (part.sfreq, part.ch_names, part.x.shape[2]) != (first.sfreq, first.ch_names, first.x.shape[2]):
            raise InputError("the files differ in rate, channels or trial length: give --sfreq, --channels and --tmax")
    classes = tuple(dict.fromkeys(name for part in parts for name in part.classes))
    own = len({int(number) for part in parts for number in part.session}) > 1
    session = [part.session if own else np.full(len(part), i) for i, part in enumerate(parts)]
    return replace(
        first,
        x=np.concatenate([part.x for part in parts]),
        y=np.concatenate([np.array([classes.index(n) for n in part.classes], np.int64)[part.y] for part in parts]),
        classes=classes,
        subject=np.concatenate([part.subject for part in parts]),
        session=np.concatenate(session),
    )


def as_array(X: Any) -> tuple[Float[np.ndarray, "trials channels samples"], float | None, tuple[str, ...] | None]:
    """The numbers of an array, of :class:`Trials` or of ``mne.Epochs``, with rate and channel names where known.

    An array of two dimensions is trials of one channel. Of epochs the data channels are taken, not stimuli.

    Raises:
        InputError: another number of dimensions, or not numbers.
    """
    if isinstance(X, Trials):
        return X.x, X.sfreq, X.ch_names
    if hasattr(X, "get_data") and hasattr(X, "info"):
        picked = X.copy().pick("data") if len(X.ch_names) else X
        return picked.get_data(copy=False).astype(np.float32), float(X.info["sfreq"]), tuple(picked.ch_names)
    if hasattr(X, "toarray"):
        raise InputError("sparse matrices are not taken: expected a dense array (trials, channels, samples)")
    try:
        array = np.asarray(X)
        if np.iscomplexobj(array):
            raise InputError("Complex data not supported: expected real numbers (trials, channels, samples)")
        array = array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected numbers (trials, channels, samples): {error}") from None
    if array.ndim == 2:
        array = array[:, None]
    if array.ndim != 3:
        raise InputError(
            f"expected an array (trials, channels, samples), got {array.ndim} dimensions. Reshape your data: "
            "x[None] makes one trial of (channels, samples)"
        )
    return array, None, None


def check_trials(
    x: Float[np.ndarray, "trials channels samples"], *, channels: int | None = None, samples: int | None = None
) -> None:
    """Raise where trials cannot be learned from or decoded.

    Args:
        x: the trials.
        channels, samples: what a fitted decoder expects; not checked where None.

    Raises:
        InputError: no trials, another number of channels or samples, NaN or infinite values.
    """
    if not x.size:
        what, shape = ("sample", x.shape) if not len(x) else ("feature", (len(x), 0))
        raise InputError(f"Found array with 0 {what}(s) (shape={shape}) while a minimum of 1 is required.")
    for what, expected, got in (("channels", channels, x.shape[1]), ("samples", samples, x.shape[2])):
        if expected is not None and got != expected:
            raise InputError(f"the decoder was fitted on {expected} {what}, these trials have {got}")
    if not np.isfinite(x).all():
        where = np.argwhere(~np.isfinite(x).all(-1))[0]
        raise InputError(
            f"trial {where[0]}, channel {where[1]} holds NaN or infinite values: drop the trial, "
            "or interpolate the channel"
        )


def flat_channels(x: Float[np.ndarray, "trials channels samples"]) -> list[int]:
    """Channels that never change within any trial: unplugged electrodes, unused inputs."""
    return [int(i) for i in np.flatnonzero((np.ptp(x, axis=2) == 0).all(0))]


def require_mne() -> Any:
    """The package ``mne``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import mne
    except ImportError:
        raise MissingExtraError("mne", extra="brain") from None
    return mne


def _channel_index(names: Sequence[str], wanted: Sequence[str], where: str) -> list[int]:
    if missing := [name for name in wanted if name not in names]:
        raise InputError(f"no channel named '{missing[0]}' in {where}: it has {', '.join(names[:40])}")
    return [list(names).index(name) for name in wanted]
