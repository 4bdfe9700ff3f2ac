"""Extract from sound that is still arriving: raw PCM in, raw PCM out, chunk by chunk, for use in a pipeline."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from typing import IO, Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from harken.data.live_resampling import LiveResampler
from harken.errors import InputError
from harken.tasks.extract import Run, as_ears, from_ears

Format = Literal["s16le", "f32le"]
FORMATS: dict[str, Any] = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}

_SETTLING = 3.0  # seconds over which the level is followed
_SOFTEST = 1e-3  # RMS below which a stream is not raised further
_KEPT = 100_000  # times of chunks that are remembered: 13 minutes


@dataclass
class LiveReport:
    """How a live stream went.

    Attributes:
        rate, channels, format: of the PCM, in and out.
        seconds: of sound.
        chunks, chunk_ms: how many the network took, and how long one is.
        latency_ms: by how much the output lags behind the input, computing not counted: a chunk and the look-ahead,
            and what a change of rate holds back.
        median_ms, p99_ms, most_ms: of work for a chunk (the last 13 minutes of them).
        late: chunks that took longer than they last.
        mended: NaN and infinite samples that were taken for silence.
    """

    rate: int
    channels: int
    format: str
    chunk_ms: float
    seconds: float = 0.0
    chunks: int = 0
    latency_ms: float = 0.0
    median_ms: float | None = None
    p99_ms: float | None = None
    most_ms: float | None = None
    late: int = 0
    mended: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {"task": "extract", "live": True, **asdict(self)}


def extract_live(
    run: Run, source: IO[bytes], sink: IO[bytes], *, rate: int = 16000, channels: int = 2, format: Format = "s16le"
) -> LiveReport:
    """Keep one talker of a stream of raw PCM until it ends; what is ready is written, and flushed, at once.

    The level is followed over 3 s, sample by sample, and undone in the output: nothing ahead is known. Integers beyond
    full scale are clipped. A frame cut in two at the end is dropped.

    Args:
        run: an extractor that knows whom to keep.
        source, sink: binary streams; reads may block until a chunk is there.
        rate, channels, format: of the samples, interleaved, left first.

    Raises:
        InputError: a rate, channel count or format that cannot be.
    """
    if format not in FORMATS:
        raise InputError(f"raw PCM is {' or '.join(FORMATS)}, not '{format}'")
    if channels not in (1, 2):
        raise InputError(f"a live stream has one channel, or two, the left ear first; not {channels}")
    if not 4000 <= rate <= 192_000:
        raise InputError(f"the rate of a live stream lies between 4000 and 192000 Hz, not {rate}")
    kind, own = FORMATS[format], run.model.sample_rate
    network = _Network(run, channels)
    report = LiveReport(rate, channels, format, 1000 * run.model.config.hop_length / own)
    inward = None if rate == own else LiveResampler(rate, own, channels)
    outward = None if rate == own else LiveResampler(own, rate, channels)
    read = written = 0
    # a chunk and the look-ahead first, then chunk by chunk: no sample waits for more than it must
    sizes = [max(1, round(rate * size / own)) for size in (run.model.latency, run.model.config.hop_length)]
    for samples in _chunks(source, kind, channels, sizes, report):
        last = samples is None
        given = np.zeros((0, channels), np.float32) if samples is None else samples
        read += len(given)
        if inward is not None:
            given = np.concatenate((inward.push(given), inward.flush())) if last else inward.push(given)
        made = network.push(given)
        if last:
            made = np.concatenate((made, network.flush()))
        if outward is not None:
            made = np.concatenate((outward.push(made), outward.flush())) if last else outward.push(made)
        made = made[: read - written]  # a change of rate there and back may round by a few
        written += len(made)
        if not last and written:  # before the first result, all that came is waiting for it
            report.latency_ms = max(report.latency_ms, 1000 * (read - written + len(made)) / rate)
        sink.write(_encoded(made, kind))
        sink.flush()
    report.seconds = read / rate
    network.tell(report)
    return report


class _Network:
    """The stream, at the level that it was trained at, timed."""

    def __init__(self, run: Run, channels: int):
        self.run, self.channels = run, channels
        self.stream = run.model.stream(run.embedding)
        self.rate, self.hop = run.model.sample_rate, run.model.config.hop_length
        self.power, self.heard = 0.0, 0
        self.gain = np.float32(1 / _SOFTEST)
        self.gains = np.zeros(0, np.float32)  # of the samples that are not out yet
        self.times: list[float] = []
        self.chunks = self.late = 0
        with torch.inference_mode():  # the first call of anything is slow: let it be before the first sample
            warm = run.model.stream(run.embedding)
            for _ in range(3):
                warm.push(torch.zeros(1, 2, self.hop, device=run.device))

    def push(self, samples: Float[np.ndarray, "_ channels"]) -> Float[np.ndarray, "_ channels"]:
        if not len(samples):
            return samples
        before, self.gain = self.gain, self._follow(samples)
        start = before if self.heard > len(samples) else self.gain
        gains = np.linspace(start, self.gain, len(samples) + 1, dtype=np.float32)[1:]
        self.gains = np.concatenate((self.gains, gains))
        ears = as_ears(samples * gains[:, None]).to(self.run.device)
        return self._undone(self._timed(self.stream.push, ears))

    def flush(self) -> Float[np.ndarray, "_ channels"]:
        return self._undone(self._timed(self.stream.flush))

    def _follow(self, samples: np.ndarray) -> np.float32:
        """A mean of the power so far, and after a while of the last seconds."""
        self.heard += len(samples)
        share = min(1.0, len(samples) / min(self.heard, _SETTLING * self.rate))
        self.power += share * (float(np.square(samples, dtype=np.float64).mean()) - self.power)
        return np.float32(1 / max(np.sqrt(self.power), _SOFTEST))

    def _timed(self, work: Any, *given: Any) -> Any:
        began = time.perf_counter()
        made = work(*given)
        took = time.perf_counter() - began
        chunks = -(-made.shape[-1] // self.hop)
        if chunks:
            self.chunks += chunks
            self.late += chunks * (took / chunks > self.hop / self.rate)
            self.times.append(took / chunks)
            if len(self.times) > _KEPT:
                del self.times[: _KEPT // 10]
        return made

    def _undone(self, made: Any) -> Float[np.ndarray, "_ channels"]:
        ready = made.shape[-1]
        gains, self.gains = self.gains[:ready], self.gains[ready:]
        return from_ears(made, self.channels) / gains[:, None]

    def tell(self, report: LiveReport) -> None:
        """What was measured."""
        report.chunks, report.late = self.chunks, self.late
        if self.times:
            median, p99, most = np.quantile(self.times, (0.5, 0.99, 1.0)) * 1000
            report.median_ms, report.p99_ms, report.most_ms = (round(float(t), 3) for t in (median, p99, most))


def _chunks(
    source: IO[bytes], kind: np.dtype[Any], channels: int, sizes: list[int], report: LiveReport
) -> Iterator[Float[np.ndarray, "_ channels"] | None]:
    """Samples as they come, so many frames first and so many each time after; None at the end."""
    width = kind.itemsize * channels
    first, after = sizes
    for turn in count():
        frames = after if turn else first
        data = source.read(frames * width)
        if not data:
            break
        whole = np.frombuffer(data[: len(data) // width * width], kind).reshape(-1, channels)
        samples = whole.astype(np.float32)
        if kind.kind == "i":
            samples /= 32768
        wrong = ~np.isfinite(samples)
        if wrong.any():
            report.mended += int(wrong.sum())
            samples[wrong] = 0
        yield samples
        if len(data) < frames * width:
            break
    yield None


def _encoded(samples: np.ndarray, kind: np.dtype[Any]) -> bytes:
    if kind.kind == "i":
        samples = np.clip(np.round(samples * 32768), -32768, 32767)
    return np.ascontiguousarray(samples).astype(kind).tobytes()
