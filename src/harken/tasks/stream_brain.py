"""Decoding signals that are still arriving: chunks in, decisions out, with the time they took."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float

from harken.data.brain import Recording
from harken.errors import CapabilityError, InputError, MissingExtraError

LONGEST_WINDOW = 1 << 26  # numbers in a window


@dataclass(frozen=True)
class Decision:
    """What a decoder said of the window that ended just then.

    Attributes:
        seconds: where in the signal the window ends.
        label: the likeliest class.
        probabilities: of all classes, in the decoder's order; empty for decoders that do not tell.
        latency_ms: from the arrival of the window's last sample to the decision.
    """

    seconds: float
    label: str
    probabilities: tuple[float, ...]
    latency_ms: float

    def as_json(self, classes: Iterable[Any] = ()) -> dict[str, Any]:
        """Plain values, probabilities by class."""
        told = {str(name): round(p, 6) for name, p in zip(classes, self.probabilities, strict=False)}
        shown = {"probabilities": told} if told else {}
        return {
            "seconds": round(self.seconds, 4),
            "label": self.label,
            **shown,
            "latency_ms": round(self.latency_ms, 3),
        }


class DecoderStream:
    """A fitted decoder at work on a signal that arrives in chunks of any size.

    The last ``window`` samples are kept in a ring; every ``step`` samples the decoder sees them as one trial. What it
    decides equals what it decides on that stretch of the whole recording. A band-pass or a notch is causal
    (Butterworth, order 4, in second-order sections), and its state is carried from chunk to chunk: a decoder of trials
    that were filtered without a phase sees slightly other ones.

    Args:
        decoder: anything with ``predict`` or ``predict_proba`` on ``(trials, channels, samples)``.
        sfreq: samples a second.
        window: samples of a trial; the decoder's own when None.
        step: samples from one decision to the next.
        band, notch: hertz.

    Raises:
        InputError: sizes out of range, or a window that the decoder does not have.
        CapabilityError: the decoder does not decide trials.
    """

    def __init__(
        self,
        decoder: Any,
        sfreq: float,
        *,
        window: int | None = None,
        step: int,
        band: tuple[float | None, float | None] = (None, None),
        notch: float | None = None,
    ):
        if not hasattr(decoder, "predict"):
            raise CapabilityError(f"a {type(decoder).__name__} does not decide trials: it has no predict")
        channels = getattr(decoder, "channels_", None)
        window = getattr(decoder, "samples_", None) if window is None else window
        if window is None or channels is None:
            raise InputError("the decoder does not say how long its trials are, or of how many channels: is it fitted?")
        self.window = int(window)
        if step < 1 or not 0 < self.window * channels <= LONGEST_WINDOW:
            raise InputError("expected a step of at least one sample and a window of a reasonable size")
        self.decoder, self.sfreq, self.step, self.channels = decoder, sfreq, step, int(channels)
        self.classes: tuple[Any, ...] = tuple(getattr(decoder, "classes_", ()))
        self._ring = np.zeros((self.channels, self.window), np.float32)
        self._seen = 0
        self._next = self.window
        self._sections = _sections(sfreq, band, notch)
        self._state = [np.zeros((len(part), self.channels, 2)) for part in self._sections]

    def push(self, chunk: Float[np.ndarray, "channels samples"]) -> list[Decision]:
        """Take the next samples, in volts, and decide as often as they allow.

        Raises:
            InputError: another number of channels, or NaN.
        """
        arrived = time.perf_counter()
        if chunk.ndim != 2 or len(chunk) != self.channels:
            raise InputError(f"expected chunks of {self.channels} channels, got an array of shape {chunk.shape}")
        if not np.isfinite(chunk).all():
            raise InputError(f"NaN or infinite values {self._seen / self.sfreq:.3f} s into the signal")
        chunk = self._filtered(chunk)
        made = []
        while chunk.shape[1]:
            part = chunk[:, : self._next - self._seen]
            chunk = chunk[:, part.shape[1] :]
            self._seen += part.shape[1]
            if part.shape[1] >= self.window:
                self._ring = np.ascontiguousarray(part[:, -self.window :], np.float32)
            else:
                self._ring = np.concatenate((self._ring[:, part.shape[1] :], part), 1).astype(np.float32)
            if self._seen == self._next:
                self._next += self.step
                made.append(self._decide(arrived))
        return made

    def _filtered(self, chunk: np.ndarray) -> np.ndarray:
        if not self._sections:
            return chunk
        from scipy.signal import sosfilt

        for number, part in enumerate(self._sections):
            chunk, self._state[number] = sosfilt(part, chunk, axis=1, zi=self._state[number])
        return chunk

    def _decide(self, arrived: float) -> Decision:
        trial = self._ring[None]
        probabilities: tuple[float, ...] = ()
        if hasattr(self.decoder, "predict_proba"):
            probabilities = tuple(float(p) for p in self.decoder.predict_proba(trial)[0])
            label = self.classes[int(np.argmax(probabilities))]
        else:
            label = self.decoder.predict(trial)[0]
        latency = 1000 * (time.perf_counter() - arrived)
        return Decision(self._seen / self.sfreq, str(label), probabilities, latency)


def chunks_of(
    recording: Recording, chunk: int, *, real_time: bool = False, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Float[np.ndarray, "channels samples"]]:
    """A recording as it would arrive, at its own pace with ``real_time``."""
    started = time.perf_counter()
    for start in range(0, recording.data.shape[1], chunk):
        if real_time:
            due = started + min(start + chunk, recording.data.shape[1]) / recording.sfreq
            sleep(max(0.0, due - time.perf_counter()))
        yield recording.data[:, start : start + chunk]


def chunks_of_pipe(
    pipe: BinaryIO, channels: int, chunk: int, *, scale: float = 1e-6
) -> Iterator[Float[np.ndarray, "channels samples"]]:
    """Interleaved 32-bit floats, as a driver writes them: every channel of a sample, then the next sample.

    Args:
        pipe: where they come from.
        channels: how many there are.
        chunk: samples to wait for, at most.
        scale: from their unit to volts.

    Raises:
        InputError: the pipe ends within a sample.
    """
    size, held = 4 * channels, b""
    while piece := pipe.read(size * chunk - len(held) if len(held) < size * chunk else size):
        held += piece
        whole = len(held) - len(held) % size
        if whole:
            yield np.frombuffer(held[:whole], "<f4").reshape(-1, channels).T * np.float32(scale)
            held = held[whole:]
    if held:
        raise InputError(f"the pipe ended {len(held)} bytes into a sample of {channels} channels")


def chunks_of_lsl(name: str, channels: int, chunk: int, *, scale: float = 1e-6) -> Iterator[np.ndarray]:
    """A stream of the Lab Streaming Layer, found by its name, for as long as it lasts.

    Raises:
        MissingExtraError: pylsl is not installed.
        InputError: no such stream within ten seconds, or another number of channels.
    """
    try:
        from pylsl import StreamInlet, resolve_byprop
    except (ImportError, RuntimeError):
        raise MissingExtraError("pylsl", extra="brain") from None
    found = resolve_byprop("name", name, timeout=10)
    if not found:
        raise InputError(f"no stream named '{name}' on the network within ten seconds")
    if found[0].channel_count() != channels:
        raise InputError(f"the stream has {found[0].channel_count()} channels, the decoder was fitted on {channels}")
    inlet = StreamInlet(found[0], recover=False)
    while True:
        samples, _ = inlet.pull_chunk(timeout=1.0, max_samples=chunk)
        if samples:
            yield np.array(samples, np.float32).T * np.float32(scale)


def standard_input() -> BinaryIO:
    """The process's standard input, unbuffered: a chunk is decided on when it is there."""
    return getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)


def _sections(sfreq: float, band: tuple[float | None, float | None], notch: float | None) -> list[np.ndarray]:
    low, high = band
    for frequency in (low, high, notch):
        if frequency is not None and not 0 < frequency < sfreq / 2:
            raise InputError(f"cannot filter at {frequency:g} Hz: expected between 0 and {sfreq / 2:g} Hz")
    if low is None and high is None and notch is None:
        return []
    try:
        from scipy.signal import butter, iirnotch, tf2sos
    except ImportError:
        raise MissingExtraError("scipy", extra="brain") from None
    made = []
    if notch is not None:
        made.append(tf2sos(*iirnotch(notch, 30, fs=sfreq)))
    if low is not None and high is not None:
        made.append(butter(4, (low, high), "bandpass", fs=sfreq, output="sos"))
    elif low is not None or high is not None:
        made.append(
            butter(4, low if high is None else high, "highpass" if high is None else "lowpass", fs=sfreq, output="sos")
        )
    return made
