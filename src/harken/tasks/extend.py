"""Extend: a recording with a narrow band in, the band above it made up from what is there; any rate, length, format."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harken import models
from harken.data.audio import Audio, open_audio, resample_blocks
from harken.errors import CapabilityError, CheckpointError, InputError
from harken.signal.band_replication import BandReplication
from harken.signal.low_pass import LowPass
from harken.tasks.bandwidth import BandwidthMeter
from harken.tasks.chunking import process_with_context
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

BASELINES = {"copy-up": 12.0, "sinc": math.inf}  # extension without learning -> dB per octave by which copies soften
_CHANNELS_AT_ONCE = 4
_PEAK = 0.5  # the level at which models hear every recording
_FULL = 0.9  # of the band: a recording that reaches so far has nothing to be added


def extend(
    source: Any,
    *,
    rate: int | None = None,
    to: int | None = None,
    model: str | Any = "ap-bwe",
    weights: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    chunk: float = 10.0,
    keep_band: bool = True,
    progress: Progress | None = None,
) -> Any:
    """Give one recording of speech the upper band that it lacks, at the rate ``to``.

    Each channel is processed on its own, piece by piece, which is exactly what one pass over everything would give.
    Where the recording's spectrum ends is measured; what was recorded below stays as it is, unless ``keep_band`` is
    False.

    Args:
        source: a path, ``"-"`` for standard input, an :class:`~harken.data.audio.Audio`, an array ``(frames,)`` or
            ``(frames, channels)``, or a tensor ``(samples,)`` or ``(batch, samples)``; full scale is [-1, 1].
        rate: frames per second of an array or tensor.
        to: frames per second of the result; the model's when None.
        model: ``"ap-bwe"``, a baseline (``"copy-up"``, ``"sinc"``), or an extender.
        weights: None for the bundled ones, else a folder, file or Hub repository, as for :func:`harken.load`.
        device: where to compute: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"``.
        chunk: seconds that a piece brings on: memory, not the result, depends on it.
        keep_band: put the recording's own band in the place of the model's, with a cross-over just below its end.
        progress: called as ``progress(name, seconds_done, seconds)``.

    Returns:
        What came in, at the rate ``to``: ``Audio`` for a path or ``Audio``, an array for an array, a tensor for a
        tensor.

    Raises:
        InputError: no audio, no samples, NaN or infinite samples, or an argument out of range.
        CheckpointError: the weights cannot be used, or are for another rate.

    >>> extend(np.zeros(8000), rate=8000, to=16000, model="copy-up").shape
    (16000,)
    """
    run = Run.load(model, weights, to=to, device=device, chunk=chunk, keep_band=keep_band)
    if isinstance(source, (Audio, np.ndarray, Tensor)):
        audio = source if isinstance(source, Audio) else Audio(as_samples(source), given_rate(rate, source))
        result = np.concatenate(list(run.stream(HeldAudio(audio), progress=progress)))
        return Audio(result, run.to) if isinstance(source, Audio) else as_came(result, source)
    if rate is not None:
        raise InputError("rate= is for arrays and tensors: a file says its own")
    with open_audio(source) as file:
        return Audio(np.concatenate(list(run.stream(file, progress=progress))), run.to)


@dataclass
class Measured:
    """What a run saw of one recording; complete when its stream is at its end.

    Attributes:
        frames: of the recording, at its own rate.
        bandwidth: where its spectrum ends, Hz.
        before, after: levels of the recording at its rate, and of the result at its own.
        sketches: of the recording at the result's rate, and of the result.
        notes: what a user should know.
    """

    frames: int
    bandwidth: float
    before: LevelMeter
    after: LevelMeter
    sketches: tuple[Sketch, Sketch] | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """An extender with its settings, applied to recordings by :meth:`stream`."""

    model: Any
    to: int
    source_rate: int | None  # None for a baseline: it takes what there is
    lowest_source_rate: int | None
    device: torch.device
    chunk: float
    keep_band: bool

    @classmethod
    def load(
        cls,
        model: str | Any = "ap-bwe",
        weights: str | os.PathLike[str] | None = None,
        *,
        to: int | None = None,
        source_rate: int | None = None,
        device: str = "cpu",
        chunk: float = 10.0,
        keep_band: bool = True,
    ) -> Run:
        """Check the settings, then load the model.

        Args:
            source_rate: what a bare checkpoint of the authors was trained for; it does not say itself.

        Raises:
            InputError: a setting is out of range, or the device is not there.
            CheckpointError: the weights cannot be used, or are for another rate.
            CapabilityError: the model is not an extender.
        """
        if not 0.1 <= chunk <= 3600.0:
            raise InputError(f"chunk must be between 0.1 and 3600 seconds, got {chunk}")
        if to is not None and not 2000 <= to <= 192_000:
            raise InputError(f"the new rate must be between 2000 and 192000 Hz, got {to}")
        place = find_device(device)
        if isinstance(model, str) and model in BASELINES:
            if weights is not None:
                raise InputError(f"'{model}' computes and has no weights: leave --weights out")
            return cls(model, to or 16000, None, None, place, chunk, keep_band)
        if isinstance(model, str):
            model = _load(model, weights, to, source_rate)
        if not hasattr(model, "extend"):
            known = ", ".join(("ap-bwe", *BASELINES))
            raise CapabilityError(f"{type(model).__name__} does not extend: one of {known}")
        if to not in (None, model.sample_rate):
            raise CheckpointError(
                f"these weights make {model.sample_rate} Hz, not {to}: choose --to {model.sample_rate}, or others"
            )
        made = model.to(place).eval() if isinstance(model, torch.nn.Module) else model
        config = model.config
        lowest = config.lowest_source_rate or config.source_rate
        return cls(made, model.sample_rate, config.source_rate, lowest, place, chunk, keep_band)

    def survey(self, recording: Recording, *, sketch: bool = False) -> Measured:
        """The first pass: count the frames, refuse NaN, measure levels and where the spectrum ends."""
        first, level = FirstPass(recording), LevelMeter(recording.channels, recording.rate)
        band = BandwidthMeter(recording.rate)
        for block in first.blocks():
            level.add(block)
            band.add(block)
        first.check("extend")
        frames = self.frames_of(first.frames, recording.rate)
        sketches = (Sketch(frames, self.to), Sketch(frames, self.to)) if sketch else None
        measured = Measured(first.frames, band.bandwidth, level, LevelMeter(recording.channels, self.to), sketches)
        measured.notes += self._notes(recording.rate, band.bandwidth)
        return measured

    def frames_of(self, frames: int, rate: int) -> int:
        """How many frames the result of so many has."""
        return max(1, round(frames * self.to / rate))

    def stream(
        self, recording: Recording, *, measured: Measured | None = None, progress: Progress | None = None
    ) -> Iterator[Float[np.ndarray, "_ channels"]]:
        """The second pass: the extended recording, block by block, at the rate ``to``."""
        measured = measured or self.survey(recording)
        frames, channels = self.frames_of(measured.frames, recording.rate), recording.channels
        blocks = exactly(frames, resample_blocks(recording.blocks(), recording.rate, self.to, channels))
        if measured.sketches:
            blocks = measured.sketches[0].through(blocks)
        if progress:
            progress(recording.name, 0.0, frames / self.to)
        if self._has_all(measured.bandwidth):
            results = blocks
        else:
            process = _Piece(self, measured, recording.name)
            hop = process.hop
            results = process_with_context(
                blocks,
                process,
                frames=frames,
                channels=channels,
                chunk=max(hop, round(self.chunk * self.to)),
                context=process.context,
                hop=hop,
            )
        if measured.sketches:
            results = measured.sketches[1].through(results)
        done = 0
        for block in results:
            measured.after.add(block)
            done += len(block)
            if progress:
                progress(recording.name, done / self.to, frames / self.to)
            yield block

    def _has_all(self, bandwidth: float) -> bool:
        return bandwidth == 0 or bandwidth >= _FULL * self.to / 2

    def _notes(self, rate: int, bandwidth: float) -> list[str]:
        if bandwidth == 0:
            return ["the recording is silent"]
        ends, notes = f"{bandwidth / 1000:.1f} kHz", []
        if self._has_all(bandwidth):
            return [f"nothing added: the recording reaches {ends} already"]
        if bandwidth < _FULL * rate / 2:
            notes.append(f"the recording ends at {ends} though it has {rate / 1000:g} kHz")
        if self.source_rate is not None and self.lowest_source_rate is not None:
            lowest, highest = self.lowest_source_rate / 2, self.source_rate / 2
            if bandwidth > 1.1 * highest:
                notes.append(f"the model hears it up to {highest / 1000:g} kHz of {ends}: others would hear more")
            elif bandwidth < 0.75 * lowest:
                notes.append(f"the model was made for what ends at {lowest / 1000:g} kHz: expect a gap above {ends}")
        return notes


class _Piece:
    """What is done to one piece of a recording, and how far its samples see."""

    def __init__(self, run: Run, measured: Measured, name: str):
        self.run, self.name = run, name
        level = measured.before
        self.sounding = np.flatnonzero(level.rms > 0)
        self.gain = _PEAK / level.peak
        bandwidth = min(measured.bandwidth, 0.49 * run.to)
        self.model = run.model
        if run.source_rate is None:
            self.model = BandReplication(run.to, int(2 * bandwidth), BASELINES[run.model]).to(run.device)
        # what the model was not made to hear is taken away first; what was recorded is put back last
        hears = math.inf if run.source_rate is None else run.source_rate / 2
        self.before = LowPass(0.95 * hears, run.to, 0.1).to(run.device) if bandwidth > 1.1 * hears else None
        self.crossover = LowPass(0.92 * bandwidth, run.to).to(run.device) if run.keep_band else None
        self.hop = int(self.model.hop_length)
        reach = self.model.context + sum(part.context for part in (self.before, self.crossover) if part is not None)
        self.context = -(-reach // self.hop) * self.hop

    def __call__(self, samples: Float[np.ndarray, "frames channels"]) -> Float[np.ndarray, "frames channels"]:
        """One piece through the model; a silent channel stays silent."""
        result = np.zeros_like(samples)
        for start in range(0, len(self.sounding), _CHANNELS_AT_ONCE):
            rows = self.sounding[start : start + _CHANNELS_AT_ONCE]
            waveform = torch.from_numpy(samples[:, rows].T * np.float32(self.gain)).to(self.run.device)
            try:
                with torch.inference_mode():
                    made = self._extend(waveform)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if isinstance(error, torch.OutOfMemoryError) or "alloc" in str(error):
                    raise InputError(
                        f"not enough memory for chunks of {self.run.chunk} s: choose a smaller chunk"
                    ) from error
                raise
            result[:, rows] = made.float().cpu().numpy().T / np.float32(self.gain)
        if not np.isfinite(result).all():
            raise CheckpointError(
                f"the model answered '{self.name}' with NaN: its weights are damaged or of another model"
            )
        return result

    def _extend(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
        heard = waveform if self.before is None else self.before(waveform)
        made = self.model.extend(heard)
        return made if self.crossover is None else made + self.crossover(waveform - made)


def _load(model: str, weights: str | os.PathLike[str] | None, to: int | None, source_rate: int | None) -> Any:
    """A model of its weights; those that ship lie in a folder for each rate."""
    if weights is None:
        folder = models.weights_folder(model if to in (None, 16000) else f"{model}-{to // 1000}k")
        if folder is None and to not in (None, 16000):
            raise CheckpointError(
                f"'{model}' ships no weights for {to} Hz: train some with 'harken train {model} --to {to}', "
                f"pass --weights, or try --model copy-up"
            )
        return models.load(model, folder)
    made = models.load(model, os.fspath(weights))
    path = Path(weights)
    is_bare = path.is_file() and not path.with_name("config.json").is_file()
    if is_bare and hasattr(made, "at_rates") and (to or source_rate):
        rate = to or made.sample_rate
        return made.at_rates(rate, source_rate or rate // 2)
    return made
