"""Writing audio files, all or nothing: a file appears under its name when it is whole, or not at all (libsndfile)."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float

from harken.errors import OutputError

_BLOCK = 16_384  # frames handed over at once: libsndfile's Vorbis encoder overflows its stack on large blocks

# extension -> libsndfile's format, and the subtype where the extension means one
FORMATS: dict[str, tuple[str, str | None]] = {
    ".wav": ("WAV", None),
    ".flac": ("FLAC", None),
    ".ogg": ("OGG", None),
    ".oga": ("OGG", None),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", None),
    ".aiff": ("AIFF", None),
    ".aif": ("AIFF", None),
    ".aifc": ("AIFF", None),
    ".au": ("AU", None),
    ".caf": ("CAF", None),
    ".w64": ("W64", None),
    ".rf64": ("RF64", None),
}
_WAV_FAMILY = {"WAV", "WAVEX", "RF64"}


class Encoding(NamedTuple):
    """How libsndfile stores samples: the container (``"WAV"``) and the sample format (``"PCM_16"``)."""

    format: str
    subtype: str


class AudioWriter:
    """An audio file being written, block by block. Made by :func:`open_writer`."""

    def __init__(self, target: Path, handle: soundfile.SoundFile):
        self.target, self.frames = target, 0
        self.encoding = Encoding(str(handle.format), str(handle.subtype))
        self._handle = handle

    def write(self, samples: Float[np.ndarray, "frames *channels"]) -> None:
        """Append a block.

        Raises:
            OutputError: the disk is full, or the encoder refuses.
        """
        with _writing(self.target):
            for start in range(0, len(samples), _BLOCK):
                block = samples[start : start + _BLOCK]
                self._handle.write(block)
                self.frames += len(block)


@contextmanager
def open_writer(
    path: str | os.PathLike[str],
    rate: int,
    channels: int,
    *,
    like: Encoding | None = None,
    subtype: str | None = None,
    format: str | None = None,
    frames: int | None = None,
) -> Iterator[AudioWriter]:
    """Stream samples into a file that appears under its name only when it is whole.

    Samples go to a hidden file beside the target, which is renamed at the end of the ``with`` block and removed if the
    block is left by any exception, Ctrl-C included.

    Args:
        path: the target.
        rate: frames per second.
        channels: how many.
        like: an input's ``encoding``, to keep where the target's extension allows.
        subtype: as for :func:`write`.
        format: as for :func:`write`.
        frames: how many are coming; a WAV beyond 4 GiB is then written as RF64.

    Raises:
        OutputError: the target is a folder or a device, its folder is missing or read-only, the format cannot hold such
            audio, or the disk is full.
    """
    target = Path(path)
    check_target(target)
    format, subtype = output_format(target, like=like, format=format, subtype=subtype)
    if not soundfile.check_format(format, subtype):
        raise OutputError(f"cannot write '{target}': {format} does not hold {subtype} samples; choose another format")
    if format in ("WAV", "WAVEX") and frames and frames * channels * _sample_bytes(subtype) > 0xFFFF0000:
        format = "RF64"
    partial = target.with_name(f".{target.stem[:40]}.{secrets.token_hex(4)}.partial")
    try:
        try:
            handle = soundfile.SoundFile(partial, "x", rate, channels, subtype, format=format)
        except (soundfile.SoundFileError, OSError) as error:
            raise _refused(target, rate, channels, format, error) from error
        writer = AudioWriter(target, handle)
        try:
            yield writer
        except BaseException:
            with suppress(soundfile.SoundFileError):
                handle.close()
            raise
        with _writing(target):
            handle.close()
            _check_whole(partial, writer)
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except (soundfile.SoundFileError, AssertionError, OSError) as error:  # soundfile asserts that all frames went out
        raise write_failed(target, error) from error


def output_format(
    path: str | os.PathLike[str],
    *,
    like: Encoding | None = None,
    format: str | None = None,
    subtype: str | None = None,
) -> Encoding:
    """The container and sample format for a target: what is asked for, else the input's where the extension allows.

    Raises:
        OutputError: the extension names no format that libsndfile writes.
    """
    suffix = Path(path).suffix.lower()
    if format is None:
        if suffix not in FORMATS:
            raise OutputError(f"cannot write '{path}': end its name in one of {', '.join(sorted(FORMATS))}")
        format, implied = FORMATS[suffix]
        subtype = subtype or implied
        if like and format == "WAV" and like.format in ("WAVEX", "RF64"):
            format = like.format
    if subtype is None and like and like.format in {format, *(_WAV_FAMILY if format in _WAV_FAMILY else ())}:
        subtype = like.subtype
    if subtype is None and like:  # another container: keep the precision
        finest = like.subtype if soundfile.check_format(format, like.subtype) else "PCM_24"
        deep = like.subtype in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE")
        subtype = finest if deep and soundfile.check_format(format, finest) else None
    return Encoding(format, subtype or soundfile.default_subtype(format))


def check_target(path: str | os.PathLike[str]) -> None:
    """Find out early whether a file can be put at ``path``.

    Raises:
        OutputError: it is a folder or a device, read-only, or its folder is missing or read-only.
    """
    target = Path(path)
    folder = target.parent
    if target.is_dir():
        raise OutputError(f"cannot write '{target}': it is a folder; name a file in it")
    if not folder.is_dir():
        raise OutputError(f"cannot write '{target}': no folder '{folder}'; make it first")
    if target.exists() and not target.is_file():
        raise OutputError(f"cannot write '{target}': not a regular file; name a file in a folder, or - to pipe")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write '{target}': the folder '{folder}' is read-only; choose another")
    if target.exists() and not os.access(target, os.W_OK):
        raise OutputError(f"cannot write '{target}': it is read-only; choose another name")


def _check_whole(partial: Path, writer: AudioWriter) -> None:
    """Encoders that buffer may hit a full disk after the last ``write``, where nobody reports it."""
    lossy = writer.encoding.subtype in ("VORBIS", "OPUS", "MPEG_LAYER_III")
    held = soundfile.info(str(partial)).frames if writer.frames else 0
    if (held == 0 < writer.frames) or (not lossy and held != writer.frames):
        raise OSError(errno.EIO, "fewer samples arrived than were written")


def _refused(target: Path, rate: int, channels: int, format: str, error: Exception) -> OutputError:
    if _disk_is_full(target.parent, error):
        return write_failed(target, error)
    return OutputError(
        f"cannot write '{target}': {format} does not hold {channels} channels at {rate} Hz "
        f"({reason(error)}); choose .wav or .flac"
    )


def write_failed(target: Path, error: BaseException) -> OutputError:
    """The one-line error for a write that ``error`` ended."""
    if _disk_is_full(target.parent, error):
        return OutputError(f"cannot write '{target}': the disk is full; free some space or choose another folder")
    said = reason(error) or "not all samples were taken"
    return OutputError(f"cannot write '{target}' ({said}): is the disk full, or a quota reached?")


def _disk_is_full(folder: Path, error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    with suppress(OSError):
        return "No space left" in str(error) or shutil.disk_usage(folder).free < 1 << 20
    return False


def reason(error: BaseException) -> str:
    """What libsndfile or the system said, without the file's name."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.rsplit(": ", 1)[-1].strip().rstrip(".").splitlines()[0] if text.strip() else ""


def _sample_bytes(subtype: str) -> int:
    return {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "DOUBLE": 8}.get(subtype, 4)
