"""Separate: a mixture in, its sources out, at its own rate and length; any rate, length, channel count and format."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harken import models
from harken.data.audio import Audio, open_audio, resample_blocks
from harken.errors import CapabilityError, CheckpointError, InputError
from harken.tasks.chunking import cut_segments, join_segments
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

BUNDLED = ("demucs", "demucs-speech", "conv-tasnet", "conv-tasnet-speech")  # folders of weights that may ship
REST = "rest"
_SLUGS = ("demucs", "conv-tasnet")


def separate(
    source: Any,
    *,
    rate: int | None = None,
    stems: Sequence[str] | None = None,
    rest: bool = False,
    model: str | Any | None = None,
    weights: str | os.PathLike[str] | None = None,
    shifts: int = 0,
    segment: float | None = None,
    overlap: float = 0.25,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Take one recording apart.

    The recording is separated in overlapping segments, each of which hears what surrounds it; what they say of a sample
    is averaged, the middle of a segment counting most.

    Args:
        source: a path, ``"-"`` for standard input, an :class:`~harken.data.audio.Audio`, an array ``(frames,)`` or
            ``(frames, channels)``, or a tensor ``(samples,)`` or ``(channels, samples)``; full scale is [-1, 1].
        rate: frames per second of an array or tensor.
        stems: which sources, in this order; all of the model's when None. Chooses among the weights that ship.
        rest: give ``"rest"`` too, the recording without the stems.
        model: ``"demucs"``, ``"conv-tasnet"``, or a separator; None for whichever the weights are of.
        weights: None for the bundled ones, else a folder, file or Hub repository, as for :func:`harken.load`.
        shifts: average over so many random shifts in time: better by a little, slower by as many times.
        segment: seconds separated at once; the model's own when None. Memory grows with it.
        overlap: share of a segment that the next one repeats.
        device: where to compute: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"``.
        progress: called as ``progress(name, seconds_done, seconds)``.

    Returns:
        For each stem what came in: ``Audio`` for a path or ``Audio``, an array for an array, a tensor for a tensor.

    Raises:
        InputError: no audio, no samples, NaN or infinite samples, an unknown stem, or an argument out of range.
        CheckpointError: the weights cannot be used.
    """
    run = Run.load(
        model, weights, stems=stems, rest=rest, shifts=shifts, segment=segment, overlap=overlap, device=device
    )
    if isinstance(source, (Audio, np.ndarray, Tensor)):
        audio = source if isinstance(source, Audio) else Audio(as_samples(source), given_rate(rate, source))
        parts = run.split(np.concatenate(list(run.stream(HeldAudio(audio), progress=progress))))
        if isinstance(source, Audio):
            return {name: Audio(part, source.rate) for name, part in parts.items()}
        return {name: as_came(part, source) for name, part in parts.items()}
    if rate is not None:
        raise InputError("rate= is for arrays and tensors: a file says its own")
    with open_audio(source) as file:
        parts = run.split(np.concatenate(list(run.stream(file, progress=progress))))
        return {name: Audio(part, file.rate) for name, part in parts.items()}


@dataclass
class Measured:
    """What a run saw of one recording; complete when its stream is at its end.

    Attributes:
        frames: of the recording.
        means, deviations: of each group of channels that the model hears at once, averaged over its channels.
        before: levels of the recording.
        after: levels of each stem.
        sketches: of the recording, and of each stem.
        notes: what a user should know.
    """

    frames: int
    means: Float[np.ndarray, " groups"]
    deviations: Float[np.ndarray, " groups"]
    before: LevelMeter
    after: dict[str, LevelMeter]
    sketches: dict[str, Sketch] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """A separator with its settings, applied to recordings by :meth:`stream`."""

    model: Any
    stems: tuple[str, ...]
    rest: bool
    shifts: int
    segment: int  # samples at the model's rate
    overlap: float
    device: torch.device
    batch: int = 4  # segments at once

    @classmethod
    def load(
        cls,
        model: str | Any | None = None,
        weights: str | os.PathLike[str] | None = None,
        *,
        stems: Sequence[str] | None = None,
        rest: bool = False,
        shifts: int = 0,
        segment: float | None = None,
        overlap: float = 0.25,
        device: str = "cpu",
    ) -> Run:
        """Check the settings, then load the model.

        Raises:
            InputError: a setting is out of range, the device is not there, or a stem is none of the model's.
            CheckpointError: the weights cannot be used, or none ship.
            CapabilityError: the model is not a separator.
        """
        if segment is not None and not 0.1 <= segment <= 3600.0:
            raise InputError(f"segment must be between 0.1 and 3600 seconds, got {segment}")
        if not 0 <= overlap < 0.95 or not 0 <= shifts <= 100:
            raise InputError(f"overlap must be in [0, 0.95) and shifts from 0 to 100, got {overlap} and {shifts}")
        place = find_device(device)
        made: Any = _load(model, weights, tuple(stems or ())) if model is None or isinstance(model, str) else model
        if not hasattr(made, "separate_piece"):
            raise CapabilityError(f"{type(made).__name__} does not separate: one of {', '.join(_SLUGS)}")
        chosen = tuple(made.sources if stems is None else stems)
        unknown = [name for name in chosen if name not in made.sources]
        if unknown or not chosen or len(set(chosen)) != len(chosen):
            wrong = f"'{unknown[0]}' is none of them" if unknown else f"got {', '.join(chosen) or 'none'}"
            raise InputError(f"this model's stems are {', '.join(made.sources)}: {wrong}")
        if rest and REST in chosen:
            raise InputError("a stem of this model is called 'rest': leave --rest out")
        samples = made.config.segment_length if segment is None else max(1, round(segment * made.sample_rate))
        return cls(made.to(place).eval(), chosen, rest, shifts, samples, overlap, place)

    @property
    def names(self) -> tuple[str, ...]:
        """Of what comes out, in order."""
        return (*self.stems, REST) if self.rest else self.stems

    def split(self, columns: Float[np.ndarray, "frames columns"]) -> dict[str, Float[np.ndarray, "frames channels"]]:
        """The columns that :meth:`stream` yields, by name of the stem."""
        return dict(zip(self.names, np.split(columns, len(self.names), axis=1), strict=True))

    def survey(self, recording: Recording, *, sketch: bool = False) -> Measured:
        """The first pass: count the frames, refuse NaN, measure levels."""
        first, level = FirstPass(recording), LevelMeter(recording.channels, recording.rate)
        groups = self._groups(recording.channels)
        sums, squares = np.zeros(len(groups)), np.zeros(len(groups))
        for block in first.blocks():
            level.add(block)
            mono = block[:, groups].mean(2, dtype=np.float64)
            sums += mono.sum(0)
            squares += np.square(mono).sum(0)
        first.check("separate")
        means = sums / first.frames
        variances = np.maximum(squares - first.frames * np.square(means), 0) / max(1, first.frames - 1)
        meters = {name: LevelMeter(recording.channels, recording.rate) for name in self.names}
        measured = Measured(first.frames, means, np.sqrt(variances), level, meters)
        if sketch:
            measured.sketches = {name: Sketch(first.frames, recording.rate) for name in ("mixture", *self.names)}
        if level.peak == 0:
            measured.notes.append("the recording is silent")
        elif recording.rate > self.model.sample_rate:
            band = f"{self.model.sample_rate / 2000:g} kHz"
            where = "go to the rest" if self.rest else "are in no stem (--rest would keep them)"
            measured.notes.append(f"the model hears up to {band}: higher frequencies {where}")
        return measured

    def stream(
        self, recording: Recording, *, measured: Measured | None = None, progress: Progress | None = None
    ) -> Iterator[Float[np.ndarray, "_ columns"]]:
        """The second pass: block by block, the channels of the first stem, then those of the next, at the same rate."""
        measured = measured or self.survey(recording)
        rate, channels, frames = recording.rate, recording.channels, measured.frames
        seconds = frames / rate
        if progress:
            progress(recording.name, 0.0, seconds)
        mixture = _Held(channels)
        blocks: Iterable[np.ndarray] = recording.blocks()
        if "mixture" in measured.sketches:
            blocks = measured.sketches["mixture"].through(blocks)
        if self.rest:
            blocks = mixture.through(blocks)
        own = max(1, round(frames * self.model.sample_rate / rate))
        there = exactly(own, resample_blocks(blocks, rate, self.model.sample_rate, channels))
        layout = {"frames": own, "segment": self.segment, "overlap": self.overlap}
        held = cut_segments(there, channels=channels, context=self.model.context(self.shifts), **layout)
        pieces = _Pieces(self, measured, channels, recording.name)
        made = join_segments(pieces.through(held), **layout)
        columns = len(self.stems) * channels
        back = exactly(frames, resample_blocks(made, self.model.sample_rate, rate, columns))
        done = 0
        for block in self._sketched(self._with_rest(back, mixture, channels), measured):
            for name, part in self.split(block).items():
                measured.after[name].add(part)
            done += len(block)
            if progress:
                progress(recording.name, done / rate, seconds)
            yield block

    def _with_rest(self, blocks: Iterator[np.ndarray], mixture: _Held, channels: int) -> Iterator[np.ndarray]:
        for block in blocks:
            if not self.rest:
                yield block
                continue
            known = block.reshape(len(block), len(self.stems), channels).sum(1)
            yield np.concatenate((block, mixture.take(len(block)) - known), 1)

    def _sketched(self, blocks: Iterator[np.ndarray], measured: Measured) -> Iterator[np.ndarray]:
        """All sketches in step: each is fed the blocks one by one by a stream of its own."""
        if not measured.sketches:
            yield from blocks
            return
        queues: dict[str, deque[np.ndarray]] = {name: deque() for name in self.names}
        taps = {name: measured.sketches[name].through(_drain(queue)) for name, queue in queues.items()}
        for block in blocks:
            for name, part in self.split(block).items():
                queues[name].append(part)
                next(taps[name], None)
            yield block
        for name, queue in queues.items():
            queue.append(np.zeros((0, 1), np.float32))
            for _ in taps[name]:
                pass

    def _groups(self, channels: int) -> np.ndarray:
        """Which channels the model hears together, ``(groups, audio_channels)``; the last one stands in for missing."""
        width = self.model.audio_channels
        count = -(-channels // width)
        return np.minimum(np.arange(count * width).reshape(count, width), channels - 1)


class _Held:
    """The mixture between its reading and its use, some segments later."""

    def __init__(self, channels: int):
        self._blocks: deque[np.ndarray] = deque()
        self._channels = channels

    def through(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for block in blocks:
            self._blocks.append(block)
            yield block

    def take(self, frames: int) -> np.ndarray:
        parts, missing = [], frames
        while missing and self._blocks:
            block = self._blocks.popleft()
            if len(block) > missing:
                self._blocks.appendleft(block[missing:])
                block = block[:missing]
            parts.append(block)
            missing -= len(block)
        return np.concatenate((*parts, np.zeros((missing, self._channels), np.float32)))


class _Pieces:
    """What is done to segments with their surroundings: some at a time, each group of channels, chosen stems out."""

    def __init__(self, run: Run, measured: Measured, channels: int, name: str):
        self.run, self.name, self.channels = run, name, channels
        self.groups = run._groups(channels)
        self.means, self.deviations = measured.means.astype(np.float32), measured.deviations.astype(np.float32)
        self.chosen = [run.model.sources.index(stem) for stem in run.stems]
        self.generator = torch.Generator().manual_seed(0)

    def through(self, held: Iterable[tuple[np.ndarray, int]]) -> Iterator[Float[np.ndarray, "length columns"]]:
        """Segments of one length together: a recurrent network reads its weights once for all of them."""
        for length, parts in groupby(held, key=lambda one: one[1]):
            while together := [part.copy() for part, _ in islice(parts, self.run.batch)]:
                yield from self._of(np.stack(together), length)

    def _of(
        self, held: Float[np.ndarray, "batch held channels"], length: int
    ) -> Float[np.ndarray, "batch length columns"]:
        made = np.zeros((len(held), length, len(self.chosen), self.channels), np.float32)
        for group, mean, deviation in zip(self.groups, self.means, self.deviations, strict=True):
            if deviation < 1e-8:  # silence stays silence, whatever the model makes of it
                continue
            waveform = np.ascontiguousarray((held[..., group].transpose(0, 2, 1) - mean) / deviation)
            stems = self._separate(torch.from_numpy(waveform), length)[:, self.chosen]
            stems = stems * deviation + mean
            for channel in np.unique(group):
                made[..., channel] = stems[:, :, group == channel].mean(2).transpose(0, 2, 1)
        if not np.isfinite(made).all():
            raise CheckpointError(
                f"the model answered '{self.name}' with NaN: its weights are damaged or of another model"
            )
        return made.reshape(len(held), length, -1)

    def _separate(self, waveform: Tensor, length: int) -> Float[np.ndarray, "batch sources channels length"]:
        run = self.run
        try:
            with torch.inference_mode():
                made = run.model.separate_piece(
                    waveform.to(run.device), length, shifts=run.shifts, generator=self.generator
                )
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError) or "alloc" in str(error):
                seconds = run.segment / run.model.sample_rate
                raise InputError(f"not enough memory for segments of {seconds:g} s: choose a smaller one") from error
            raise
        return made.float().cpu().numpy()


def _drain(queue: deque[np.ndarray]) -> Iterator[np.ndarray]:
    """Blocks as they are put in; an empty one ends it."""
    while len(block := queue.popleft()):
        yield block


def _load(model: str | None, weights: str | os.PathLike[str] | None, stems: tuple[str, ...]) -> Any:
    """A separator of its weights; among those that ship, the first that has the stems."""
    if model is not None and model not in _SLUGS:
        raise InputError(f"no separator named '{model}': one of {', '.join(_SLUGS)}")
    if weights is not None:
        return models.load(model or _said(Path(weights)) or "demucs", os.fspath(weights))
    found = []
    for name in BUNDLED:
        folder = models.weights_folder(name)
        if folder is None or (model is not None and _said(folder) != model):
            continue
        sources = json.loads((folder / "config.json").read_text(encoding="utf-8"))["sources"]
        found += sources
        if set(stems) <= set(sources):
            return models.load(_said(folder) or "demucs", folder)
    if found:
        raise InputError(f"no weights that ship have {', '.join(stems)}: they have {', '.join(dict.fromkeys(found))}")
    return models.load(model or "demucs")  # says how to train some


def _said(folder: Path) -> str | None:
    """The slug in a folder's configuration, where there is one."""
    config = (folder if folder.is_dir() else folder.parent) / "config.json"
    try:
        slug = json.loads(config.read_text(encoding="utf-8")).get("slug")
    except (OSError, ValueError, AttributeError):
        return None
    return slug if slug in _SLUGS else None
