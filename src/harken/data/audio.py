"""Audio files of any length, rate, channel count and format: read, written, resampled, streamed (libsndfile, soxr)."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from harken.data.audio_output import (
    FORMATS,
    AudioWriter,
    Encoding,
    check_target,
    open_writer,
    output_format,
    reason,
    write_failed,
)
from harken.errors import InputError, OutputError

__all__ = [
    "FORMATS",
    "MAX_CHANNELS",
    "Audio",
    "AudioFile",
    "AudioWriter",
    "Encoding",
    "check_finite",
    "check_target",
    "not_finite",
    "open_audio",
    "open_writer",
    "output_format",
    "read",
    "resample",
    "resample_blocks",
    "write",
]

Source = str | os.PathLike[str] | IO[bytes]

MAX_CHANNELS = 64
RATES = range(1_000, 768_001)
BLOCK = 65_536  # frames read or written at once: at most 16 MiB, whatever a header claims
PIPE_LIMIT = 8 << 30  # bytes accepted from standard input


@dataclass(frozen=True, eq=False)
class Audio:
    """Samples in memory with their rate.

    Shape:
        - samples: float32 ``(frames, channels)``, full scale is [-1, 1]; a 1-D array becomes one channel
        - rate: frames per second

    Raises:
        InputError: integer samples, no frames-by-channels shape, or a rate or channel count out of bounds.

    >>> tone = Audio(np.zeros(48000), 48000)
    >>> tone.samples.shape, tone.seconds, tone.resample(16000).frames
    ((48000, 1), 1.0, 16000)
    """

    samples: Float[np.ndarray, "frames channels"]
    rate: int

    def __post_init__(self) -> None:
        samples = np.asarray(self.samples)
        if samples.ndim == 1:
            samples = samples[:, None]
        if samples.ndim != 2 or samples.dtype.kind != "f":
            raise InputError(
                f"samples must be floats of shape (frames, channels), got {samples.dtype} {samples.shape}: "
                "divide integers by their full scale"
            )
        _check_layout("the array", int(self.rate), samples.shape[1])
        object.__setattr__(self, "samples", np.ascontiguousarray(samples, np.float32))
        object.__setattr__(self, "rate", int(self.rate))

    @property
    def frames(self) -> int:
        """Samples per channel."""
        return self.samples.shape[0]

    @property
    def channels(self) -> int:
        """How many channels."""
        return self.samples.shape[1]

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.frames / self.rate

    def mono(self) -> Audio:
        """The mean of the channels, as one channel."""
        return self if self.channels == 1 else Audio(self.samples.mean(1, keepdims=True), self.rate)

    def resample(self, rate: int) -> Audio:
        """The same sound at another rate."""
        return self if rate == self.rate else Audio(resample(self.samples, self.rate, rate), rate)

    def __repr__(self) -> str:
        return f"Audio({self.seconds:.2f} s, {self.rate} Hz, {self.channels} channel{'s' * (self.channels != 1)})"


def resample(
    samples: Float[np.ndarray, "frames *channels"], source: int, target: int
) -> Float[np.ndarray, "out *channels"]:
    """Change the rate by soxr's high-quality filter; no delay, at least one frame for one frame.

    >>> resample(np.ones((441, 2), np.float32), 44100, 16000).shape
    (160, 2)
    """
    if source == target:
        return samples
    result = soxr.resample(samples, source, target, quality="HQ")
    return samples[:1].copy() if len(result) == 0 < len(samples) else result


def resample_blocks(
    blocks: Iterable[Float[np.ndarray, "_ channels"]], source: int, target: int, channels: int
) -> Iterator[Float[np.ndarray, "_ channels"]]:
    """Change the rate of a stream, block by block, in constant memory; the joined result equals :func:`resample`'s."""
    if source == target:
        yield from blocks
        return
    stream = soxr.ResampleStream(source, target, channels, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block, np.float32))
    yield stream.resample_chunk(np.zeros((0, channels), np.float32), last=True)


class AudioFile:
    """An audio file open for reading: what its header says, and its samples in blocks. Made by :func:`open_audio`.

    Attributes:
        name: what error messages call it.
        rate: frames per second.
        channels: how many.
        frames: per channel, as the header claims.
        encoding: libsndfile's container and sample format, such as ``("WAV", "PCM_16")``.
    """

    def __init__(self, name: str, handle: soundfile.SoundFile):
        self.name = name
        self.rate, self.channels, self.frames = int(handle.samplerate), int(handle.channels), int(handle.frames)
        self.encoding = Encoding(str(handle.format), str(handle.subtype))
        self._handle = handle

    @property
    def seconds(self) -> float:
        """Duration, as the header claims."""
        return self.frames / self.rate

    def blocks(self, frames: int = BLOCK, overlap: int = 0) -> Iterator[Float[np.ndarray, "_ channels"]]:
        """The whole file from its start, ``frames`` at a time, each repeating the last ``overlap`` of the one before.

        Memory does not grow with the file. The last block may be shorter. Samples are as stored: NaN is not looked for.

        Raises:
            InputError: damaged, or fewer frames than the header claims.
        """
        if not 0 <= overlap < frames:
            raise InputError(f"overlap must be in [0, {frames}), got {overlap}")
        kept = np.zeros((0, self.channels), np.float32)
        count = 0
        try:
            self._handle.seek(0)
            while True:
                fresh = self._handle.read(frames - len(kept), dtype="float32", always_2d=True)
                count += len(fresh)
                if len(fresh) == 0:
                    break
                block = np.concatenate((kept, fresh)) if len(kept) else fresh
                yield block
                kept = block[len(block) - overlap :] if overlap else kept
        except soundfile.SoundFileError as error:
            at = count / self.rate
            raise InputError(f"'{self.name}' is damaged after {at:.2f} s ({reason(error)}): copy it again") from error
        # an MP3 header may count the encoder's padding
        if count < self.frames - (2304 if self.encoding.subtype.startswith("MPEG") else 0):
            raise InputError(
                f"'{self.name}' is truncated: its header claims {self.frames} frames, it holds {count}; copy it again"
            )

    def __repr__(self) -> str:
        return f"AudioFile('{self.name}', {self.seconds:.2f} s, {self.rate} Hz, {self.channels} channels)"


@contextmanager
def open_audio(source: Source) -> Iterator[AudioFile]:
    """Open an audio file for streaming: a path, a binary file object, or ``"-"`` for standard input (spooled to disk).

    Raises:
        InputError: missing, a folder, empty, truncated, not audio, without frames, or out of bounds.

    >>> with open_audio(Path("speech.wav")) as audio:
    ...     pass
    Traceback (most recent call last):
    harken.errors.InputError: cannot read 'speech.wav': no such file
    """
    with _binary(source) as (name, target):
        try:
            handle = soundfile.SoundFile(target)
        except (soundfile.SoundFileError, TypeError, ValueError) as error:
            raise InputError(
                f"cannot read '{name}': not an audio file that libsndfile reads (wav, flac, ogg, mp3...)"
            ) from error
        with handle:
            audio = AudioFile(name, handle)
            _check_layout(f"'{name}'", audio.rate, audio.channels)
            _check_not_cut(audio)
            if audio.frames == 0:
                raise InputError(f"'{name}' holds no samples: nothing to read")
            yield audio


def read(source: Source) -> Audio:
    """Read a whole audio file: a path, a binary file object, or ``"-"`` for standard input.

    Raises:
        InputError: as :func:`open_audio`, and for NaN or infinite samples.

    >>> import io
    >>> stream = io.BytesIO()
    >>> write(stream, Audio(np.zeros((800, 2)), 8000), format="WAV")
    >>> read(io.BytesIO(stream.getvalue()))
    Audio(0.10 s, 8000 Hz, 2 channels)
    """
    with open_audio(source) as audio:
        blocks = list(audio.blocks())
        if not blocks:
            raise InputError(f"'{audio.name}' holds no samples: nothing to read")
        samples = np.concatenate(blocks)
        check_finite(samples, audio.rate, audio.name)
        return Audio(samples, audio.rate)


def check_finite(samples: Float[np.ndarray, "frames *channels"], rate: int, name: str) -> None:
    """Refuse NaN and infinite samples, saying how many there are and when the first comes.

    Raises:
        InputError: there is at least one.
    """
    bad = ~np.isfinite(samples)
    if bad.any():
        first = int(np.flatnonzero(bad.reshape(len(bad), -1).any(1))[0])
        raise not_finite(name, int(bad.sum()), first, rate)


def not_finite(name: str, count: int, first: int, rate: int) -> InputError:
    """The error for ``count`` NaN or infinite samples, the first in frame ``first``."""
    return InputError(
        f"'{name}' holds {count} NaN or infinite sample{'s' * (count != 1)}, the first at {first / rate:.3f} s "
        f"(frame {first}): repair or cut it"
    )


def write(
    target: str | os.PathLike[str] | IO[bytes],
    audio: Audio,
    *,
    subtype: str | None = None,
    format: str | None = None,
) -> None:
    """Write a whole audio file; at a path all or nothing: a reader never sees a part of it.

    A path's format follows its extension unless given; samples beyond full scale are clipped by integer formats.

    Args:
        target: a path, or a binary file object (WAV unless ``format`` says otherwise).
        audio: what to write.
        subtype: libsndfile's sample format, ``"PCM_24"``, ``"FLOAT"``...; its default for the format when None.
        format: libsndfile's container, ``"WAV"``, ``"FLAC"``...

    Raises:
        OutputError: the target cannot be written in that format, or at all.
    """
    if isinstance(target, (str, os.PathLike)):
        with open_writer(
            target, audio.rate, audio.channels, subtype=subtype, format=format, frames=audio.frames
        ) as writer:
            writer.write(audio.samples)
        return
    try:
        handle = soundfile.SoundFile(target, "w", audio.rate, audio.channels, subtype, format=format or "WAV")
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise OutputError(f"cannot write the stream as {format or 'WAV'} ({reason(error)}): choose another") from error
    with handle:
        AudioWriter(Path("the stream"), handle).write(audio.samples)


@contextmanager
def _binary(source: Source) -> Iterator[tuple[str, Any]]:
    """A name for messages, and what soundfile can open and seek in."""
    if isinstance(source, (str, os.PathLike)) and str(source) != "-":
        path = Path(source)
        if path.is_dir():
            raise InputError(f"cannot read '{path}': it is a folder, not an audio file")
        if not path.exists():
            raise InputError(f"cannot read '{path}': no such file")
        if path.is_file() and path.stat().st_size == 0:
            raise InputError(f"cannot read '{path}': the file is empty")
        if not os.access(path, os.R_OK):
            raise InputError(f"cannot read '{path}': permission denied")
        if path.is_file():
            yield str(path), str(path)
            return
        with path.open("rb") as pipe, _spooled(pipe, str(path)) as spool:
            yield str(path), spool
    elif isinstance(source, (str, os.PathLike)):
        if sys.stdin is None:
            raise InputError("cannot read standard input: it is closed")
        with _spooled(sys.stdin.buffer, "standard input") as spool:
            yield "standard input", spool
    elif source.seekable():
        yield str(getattr(source, "name", "stream")), source
    else:
        with _spooled(source, "stream") as spool:
            yield "stream", spool


@contextmanager
def _spooled(pipe: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    """A seekable copy of a pipe, on disk beyond 16 MiB."""
    with tempfile.SpooledTemporaryFile(max_size=16 << 20) as spool:
        size = 0
        while data := pipe.read(1 << 20):
            size += len(data)
            if size > PIPE_LIMIT:
                raise InputError(f"{name} is longer than {PIPE_LIMIT >> 30} GiB: save it to a file first")
            try:
                spool.write(data)
            except OSError as error:
                raise write_failed(Path(tempfile.gettempdir()), error) from error
        if size == 0:
            raise InputError(f"cannot read {name}: it is empty")
        spool.seek(0)
        yield spool


def _check_layout(name: str, rate: int, channels: int) -> None:
    if rate not in RATES:
        raise InputError(f"{name} has a rate of {rate} Hz: expected {RATES.start} to {RATES.stop - 1} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise InputError(f"{name} has {channels} channels: expected 1 to {MAX_CHANNELS}")


def _check_not_cut(audio: AudioFile) -> None:
    """WAV and AIFF say how long their data is; libsndfile quietly takes what is there, and notes it in its log."""
    noted = re.search(r"(?:data|SSND) : (\d+) \(should be (\d+)\)", audio._handle.extra_info)
    if not noted:
        return
    claimed, held = map(int, noted.groups())
    # a program that wrote to a pipe could not know the length and put (nearly) the largest number there
    if claimed < 0x7FFFF000 and claimed - held >= audio.channels:
        raise InputError(
            f"'{audio.name}' is truncated: its header claims {claimed} bytes of samples, it holds {held}; copy it again"
        )
