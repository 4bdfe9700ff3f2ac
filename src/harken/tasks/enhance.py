"""Enhance: a noisy recording in, the voice out; any rate, length, channel count and format."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harken import models
from harken.data.audio import Audio, open_audio, resample_blocks
from harken.errors import CapabilityError, CheckpointError, InputError
from harken.tasks.chunking import plan_chunks, process_in_chunks
from harken.tasks.levels import LevelMeter
from harken.tasks.pictures import Sketch
from harken.tasks.recordings import (
    FirstPass,
    HeldAudio,
    Progress,
    Recording,
    as_came,
    as_samples,
    exactly,
    find_device,
    given_rate,
)

_SHORTEST = 0.25  # seconds: what is shorter is padded for the model
_CHANNELS_AT_ONCE = 4  # bounds memory on recordings of many channels


def enhance(
    source: Any,
    *,
    rate: int | None = None,
    model: str | Any = "mp-senet",
    weights: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    chunk: float | None = 10.0,
    overlap: float = 1.0,
    progress: Progress | None = None,
) -> Any:
    """Take the noise out of one recording and keep its rate, length and channels.

    Each channel is processed on its own, at the model's rate (16 kHz for mp-senet): what lies above half of that rate
    is not in the output. Recordings longer than ``chunk`` are processed in equal overlapping chunks under one level for
    the whole, which differs a little from one pass over everything.

    Args:
        source: a path, ``"-"`` for standard input, an :class:`~harken.data.audio.Audio`, an array ``(frames,)`` or
            ``(frames, channels)``, or a tensor ``(samples,)`` or ``(batch, samples)``; full scale is [-1, 1].
        rate: frames per second of an array or tensor.
        model: the slug of an enhancer, or an enhancer.
        weights: None for the bundled ones, else a folder, file or Hub repository, as for :func:`harken.load`.
        device: where to compute: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"``.
        chunk: seconds that the model sees at once; None for all of it, whatever the memory.
        overlap: seconds in which one chunk fades into the next, at most half of ``chunk``.
        progress: called as ``progress(name, seconds_done, seconds)``.

    Returns:
        What came in: ``Audio`` for a path or ``Audio``, an array for an array, a tensor for a tensor.

    Raises:
        InputError: no audio, no samples, NaN or infinite samples, or an argument out of range.
        CheckpointError: the weights cannot be used.

    >>> task = enhance  # harken.task("enhance")
    >>> task("missing.wav")
    Traceback (most recent call last):
    harken.errors.InputError: cannot read 'missing.wav': no such file
    """
    if isinstance(source, (Audio, np.ndarray, Tensor)):
        audio = source if isinstance(source, Audio) else Audio(as_samples(source), given_rate(rate, source))
        run = Run.load(model, weights, device=device, chunk=chunk, overlap=overlap)
        result = np.concatenate(list(run.stream(HeldAudio(audio), progress=progress)))
        if isinstance(source, Audio):
            return Audio(result, audio.rate)
        return as_came(result, source)
    if rate is not None:
        raise InputError("rate= is for arrays and tensors: a file says its own")
    with open_audio(source) as file:
        run = Run.load(model, weights, device=device, chunk=chunk, overlap=overlap)
        return Audio(np.concatenate(list(run.stream(file, progress=progress))), file.rate)


@dataclass
class Measured:
    """What a run saw of one recording, at the model's rate; complete when its stream is at its end."""

    frames: int  # of the recording, at its own rate
    before: LevelMeter
    after: LevelMeter
    sketches: tuple[Sketch, Sketch] | None = None


@dataclass(frozen=True)
class Run:
    """An enhancer with its settings, applied to recordings by :meth:`stream`."""

    model: Any
    device: torch.device
    chunk: float | None
    overlap: float

    @classmethod
    def load(
        cls,
        model: str | Any,
        weights: str | os.PathLike[str] | None = None,
        *,
        device: str = "cpu",
        chunk: float | None = 10.0,
        overlap: float = 1.0,
    ) -> Run:
        """Check the settings, then load the model.

        Raises:
            InputError: a setting is out of range, or the device is not there.
            CapabilityError: the model is not an enhancer.
        """
        if chunk is not None and not 1.0 <= chunk <= 3600.0:
            raise InputError(f"chunk must be between 1 and 3600 seconds, got {chunk}")
        if not 0.0 <= overlap <= (chunk or overlap * 2) / 2:
            raise InputError(f"overlap must be between 0 and half a chunk ({(chunk or 0) / 2} s), got {overlap}")
        place = find_device(device)
        if isinstance(model, str):
            model = models.load(model, os.fspath(weights) if weights is not None else None)
        if not hasattr(model, "enhance"):
            raise CapabilityError(f"{type(model).__name__} is not an enhancer: one of {models.list_models('enhance')}")
        return cls(model.to(place).eval() if isinstance(model, torch.nn.Module) else model, place, chunk, overlap)

    def survey(self, recording: Recording, *, sketch: bool = False) -> Measured:
        """The first pass: count the frames, refuse NaN, measure the level of each channel at the model's rate."""
        rate = self.model.sample_rate
        first = FirstPass(recording)
        before = LevelMeter(recording.channels, rate)
        for block in resample_blocks(first.blocks(), recording.rate, rate, recording.channels):
            before.add(block)
        first.check("enhance")
        sketches = (Sketch(before.frames, rate), Sketch(before.frames, rate)) if sketch else None
        return Measured(first.frames, before, LevelMeter(recording.channels, rate), sketches)

    def stream(
        self, recording: Recording, *, measured: Measured | None = None, progress: Progress | None = None
    ) -> Iterator[Float[np.ndarray, "_ channels"]]:
        """The second pass: the enhanced recording, block by block, as many frames as it has itself."""
        measured = measured or self.survey(recording)
        rate, channels = self.model.sample_rate, recording.channels
        frames = max(1, measured.before.frames)
        chunk = frames if self.chunk is None else round(self.chunk * rate)
        overlap = 0 if self.chunk is None else round(self.overlap * rate)
        ends = [stop / rate for _, stop in plan_chunks(frames, chunk, overlap)]
        level = measured.before.rms
        if progress:
            progress(recording.name, 0.0, frames / rate)

        def process(samples: np.ndarray) -> np.ndarray:
            result = self._forward(samples, level, recording.name)
            if progress:
                progress(recording.name, ends.pop(0), frames / rate)
            return result

        def enhanced() -> Iterator[np.ndarray]:
            source = resample_blocks(recording.blocks(), recording.rate, rate, channels)
            if measured.sketches:
                source = measured.sketches[0].through(source)
            results = process_in_chunks(source, process, frames=frames, channels=channels, chunk=chunk, overlap=overlap)
            if measured.sketches:
                results = measured.sketches[1].through(results)
            for block in results:
                measured.after.add(block)
                yield block

        yield from exactly(measured.frames, resample_blocks(enhanced(), rate, recording.rate, channels))

    def _forward(
        self, samples: Float[np.ndarray, "frames channels"], level: Float[np.ndarray, " channels"], name: str
    ) -> Float[np.ndarray, "frames channels"]:
        """One chunk through the model; a silent channel stays silent."""
        result = np.zeros_like(samples)
        sounding = np.flatnonzero((level > 0) & samples.any(0))
        padding = max(0, round(_SHORTEST * self.model.sample_rate) - len(samples))
        for start in range(0, len(sounding), _CHANNELS_AT_ONCE):
            rows = sounding[start : start + _CHANNELS_AT_ONCE]
            waveform = torch.from_numpy(np.pad(samples[:, rows].T, ((0, 0), (0, padding)))).to(self.device)
            levels = torch.tensor(level[rows], dtype=torch.float32, device=self.device)
            try:
                with torch.inference_mode():
                    enhanced = self.model.enhance(waveform, level=levels)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if isinstance(error, torch.OutOfMemoryError) or "alloc" in str(error):
                    raise InputError(
                        f"not enough memory for chunks of {self.chunk} s: choose a smaller chunk"
                    ) from error
                raise
            result[:, rows] = enhanced.float().cpu().numpy()[:, : len(samples)].T
        if not np.isfinite(result).all():
            raise CheckpointError(f"the model answered '{name}' with NaN: its weights are damaged or of another model")
        return result
