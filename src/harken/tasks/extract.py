"""Extract: of several talkers keep the one whom an example names; any rate, length and format, one or two channels."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from harken import models
from harken.data.audio import Audio, open_audio, read, resample_blocks
from harken.errors import CapabilityError, CheckpointError, InputError
from harken.models.separate.look_once import LookOnceToHear
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

ENCODERS = ("speaker-encoder", "look-once-enrolment", "resemblyzer")
SHORTEST_EXAMPLE, LONGEST_EXAMPLE = 0.5, 30.0  # seconds of an enrolment: fewer tell nothing, more tell nothing new
_SILENT = 1e-5  # RMS of full scale below which there is nobody to hear
_AT_ONCE = 4.0  # seconds of a file through the network together


def extract(
    source: Any,
    enroll: Any,
    *,
    rate: int | None = None,
    model: str | Any = "look-once-to-hear",
    weights: str | os.PathLike[str] | None = None,
    encoder: str | Any = "speaker-encoder",
    encoder_weights: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Any:
    """Keep one talker of a recording: the one who speaks in ``enroll``.

    Two channels are the two ears, left first: where the talker is heard to be stays. One channel is heard by both ears
    alike. The network never looks further ahead than 12 ms; a recording as a whole gives what a live stream would.

    Args:
        source: a path, ``"-"`` for standard input, an :class:`~harken.data.audio.Audio`, an array ``(frames,)`` or
            ``(frames, 2)``, or a tensor ``(samples,)`` or ``(2, samples)``; full scale is [-1, 1].
        enroll: an example of the talker's voice, 0.5 to 30 s, in the same forms, or a list of them. Others and noise
            may be heard in it if it has two channels and the talker was straight ahead.
        rate: frames per second of arrays and tensors.
        model: ``"look-once-to-hear"``, or such an extractor.
        weights: None for the bundled ones, else a folder, file or Hub repository, as for :func:`harken.load`.
        encoder: what makes an embedding of the example: one of :data:`ENCODERS`, or such a model.
        encoder_weights: of the encoder, likewise.
        device: where to compute: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"``.
        progress: called as ``progress(name, seconds_done, seconds)``.

    Returns:
        What came in, with one talker: ``Audio`` for a path or ``Audio``, an array for an array, a tensor for a tensor.

    Raises:
        InputError: no audio, no samples, NaN or infinite samples, more than two channels, or a useless example.
        CheckpointError: the weights cannot be used, or do not belong together.
    """
    run = Run.load(
        enroll,
        enroll_rate=rate,
        model=model,
        weights=weights,
        encoder=encoder,
        encoder_weights=encoder_weights,
        device=device,
    )
    if isinstance(source, (Audio, np.ndarray, Tensor)):
        audio = source if isinstance(source, Audio) else Audio(as_samples(source), given_rate(rate, source))
        made = np.concatenate(list(run.stream(HeldAudio(audio), progress=progress)))
        return Audio(made, audio.rate) if isinstance(source, Audio) else as_came(made, source)
    with open_audio(source) as file:
        return Audio(np.concatenate(list(run.stream(file, progress=progress))), file.rate)


@dataclass
class Measured:
    """What a run saw of one recording; complete when its stream is at its end.

    Attributes:
        frames: of the recording.
        before, after: levels of the recording and of the result.
        sketches: of both.
        chunks, seconds: how many chunks the network took, and for how long it worked.
        notes: what a user should know.
    """

    frames: int
    before: LevelMeter
    after: LevelMeter
    sketches: tuple[Sketch, Sketch] | None = None
    chunks: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """An extractor that knows whom to keep, applied to recordings by :meth:`stream`."""

    model: Any
    embedding: Float[Tensor, "1 embedding"]
    device: torch.device
    notes: tuple[str, ...] = ()

    @classmethod
    def load(
        cls,
        enroll: Any,
        *,
        enroll_rate: int | None = None,
        model: str | Any = "look-once-to-hear",
        weights: str | os.PathLike[str] | None = None,
        encoder: str | Any = "speaker-encoder",
        encoder_weights: str | os.PathLike[str] | None = None,
        device: str = "cpu",
    ) -> Run:
        """Read the example, load both networks, and make the talker's embedding.

        Raises:
            InputError: no such device, or a useless example.
            CheckpointError: the weights cannot be used, or do not belong together.
            CapabilityError: the model is not an extractor, or the encoder no encoder.
        """
        place = find_device(device)
        examples = [_example(one, enroll_rate) for one in (enroll if isinstance(enroll, (list, tuple)) else [enroll])]
        if not examples:
            raise InputError("whom to keep? give an example of their voice: --enroll clip.wav")
        extractor = _load(model, weights)
        listener = _load_encoder(encoder, encoder_weights)
        if not isinstance(extractor, LookOnceToHear):
            raise CapabilityError(f"{type(extractor).__name__} does not extract a talker: use look-once-to-hear")
        if not hasattr(listener, "embed"):
            raise CapabilityError(f"{type(listener).__name__} makes no embeddings: one of {', '.join(ENCODERS)}")
        made, wanted = listener.config.embedding_dim, extractor.config.embedding_dim
        if made != wanted:
            raise CheckpointError(
                f"the encoder makes embeddings of {made} numbers, the extractor takes {wanted}: they do not fit"
            )
        listener, extractor = listener.to(place).eval(), extractor.to(place).eval()
        embedding = embed(listener, examples, place)
        notes = []
        if min(example.seconds for example in examples) < 2:
            notes.append("the example is shorter than 2 s: a longer one tells more")
        return cls(extractor, embedding, place, tuple(notes))

    def check(self, recording: Recording) -> None:
        """Raise where a recording has other channels than one or two."""
        if recording.channels > 2:
            raise InputError(
                f"'{recording.name}' has {recording.channels} channels: one is expected, or two, the left ear first; "
                "pick two"
            )

    def survey(self, recording: Recording, *, sketch: bool = False) -> Measured:
        """The first pass: count the frames, refuse NaN, measure the level."""
        self.check(recording)
        first, level = FirstPass(recording), LevelMeter(recording.channels, recording.rate)
        for block in first.blocks():
            level.add(block)
        first.check("extract from")
        after = LevelMeter(recording.channels, recording.rate)
        sketches = (Sketch(first.frames, recording.rate), Sketch(first.frames, recording.rate)) if sketch else None
        notes = list(self.notes)
        if recording.channels == 1:
            notes.append("one channel: both ears hear the same, and voices tell the talkers apart alone")
        if not level.rms.any():
            notes.append("the recording is silent")
        return Measured(first.frames, level, after, sketches, notes=notes)

    def stream(
        self, recording: Recording, *, measured: Measured | None = None, progress: Progress | None = None
    ) -> Iterator[Float[np.ndarray, "_ channels"]]:
        """The second pass: the wanted talker, block by block, at the recording's rate."""
        measured = measured or self.survey(recording)
        rate, channels = recording.rate, recording.channels
        blocks: Iterator[np.ndarray] = iter(recording.blocks())
        if measured.sketches:
            blocks = measured.sketches[0].through(blocks)
        if progress:
            progress(recording.name, 0.0, measured.frames / rate)
        if measured.before.rms.any():
            narrow = resample_blocks(blocks, rate, self.model.sample_rate, channels)
            blocks = resample_blocks(self._network(narrow, measured, recording), self.model.sample_rate, rate, channels)
            blocks = exactly(measured.frames, blocks)
        if measured.sketches:
            blocks = measured.sketches[1].through(blocks)
        done = 0
        for block in blocks:
            measured.after.add(block)
            done += len(block)
            if progress:
                progress(recording.name, done / rate, measured.frames / rate)
            yield block

    def _network(
        self, blocks: Iterator[np.ndarray], measured: Measured, recording: Recording
    ) -> Iterator[Float[np.ndarray, "_ channels"]]:
        """Blocks at the network's rate through a stream, at the level it was trained at."""
        gain = np.float32(1 / float(np.sqrt(np.square(measured.before.rms).mean())))
        stream = self.model.stream(self.embedding, real_time=False)
        most = round(_AT_ONCE * self.model.sample_rate)
        for block in blocks:
            for start in range(0, len(block), most):
                ears = as_ears(block[start : start + most] * gain).to(self.device)
                yield self._timed(stream.push, measured, recording, gain, ears)
        yield self._timed(stream.flush, measured, recording, gain)

    def _timed(
        self, work: Any, measured: Measured, recording: Recording, gain: np.float32, *given: Tensor
    ) -> Float[np.ndarray, "_ channels"]:
        began = time.perf_counter()
        made = work(*given)
        if made.shape[-1]:
            measured.chunks += -(-made.shape[-1] // self.model.config.hop_length)
            measured.seconds += time.perf_counter() - began
        samples = from_ears(made, recording.channels) / gain
        if not np.isfinite(samples).all():
            raise CheckpointError(
                f"the model answered '{recording.name}' with NaN: its weights are damaged or of another model"
            )
        return samples


def embed(encoder: Any, examples: Sequence[Audio], device: torch.device) -> Float[Tensor, "1 embedding"]:
    """The embedding of a talker, of unit length: the mean over examples."""
    found = []
    with torch.inference_mode():
        for example in examples:
            clip = as_ears(example.resample(encoder.sample_rate).samples).to(device)
            found.append(F.normalize(encoder.embed(clip), dim=-1))
        embedding = F.normalize(torch.stack(found).mean(0), dim=-1)
    if not bool(torch.isfinite(embedding).all()):
        raise CheckpointError("the encoder answered with NaN: its weights are damaged or of another model")
    return embedding


def as_ears(samples: Float[np.ndarray, "frames channels"]) -> Float[Tensor, "1 2 frames"]:
    """One or two channels as two ears."""
    both = np.broadcast_to(samples, (len(samples), 2)) if samples.shape[1] == 1 else samples
    return torch.from_numpy(np.ascontiguousarray(both.T, np.float32))[None]


def from_ears(made: Float[Tensor, "1 2 frames"], channels: int) -> Float[np.ndarray, "frames channels"]:
    """Two ears as one or two channels."""
    both = made[0].float().cpu().numpy().T
    return both.mean(1, keepdims=True) if channels == 1 else both


def _example(source: Any, rate: int | None) -> Audio:
    """The first half a minute of an enrolment, checked."""
    if isinstance(source, Audio):
        audio, name = source, "the example"
    elif isinstance(source, (np.ndarray, Tensor)):
        audio, name = Audio(as_samples(source), given_rate(rate, source)), "the example"
    elif str(source) == "-":
        raise InputError("the example of a voice must be a file: standard input is for the mixture")
    else:
        audio, name = _beginning(source), f"'{source}'"
    if audio.channels > 2:
        raise InputError(f"{name} has {audio.channels} channels: an example has one, or two, the left ear first")
    if audio.seconds < SHORTEST_EXAMPLE:
        raise InputError(
            f"{name} lasts {audio.seconds:.2f} s: {SHORTEST_EXAMPLE} s of a voice are needed, 5 are better"
        )
    audio = Audio(audio.samples[: round(LONGEST_EXAMPLE * audio.rate)], audio.rate)
    if not np.isfinite(audio.samples).all():
        raise InputError(f"{name} holds NaN or infinite samples: repair or cut it")
    if float(np.sqrt(np.square(audio.samples, dtype=np.float64).mean())) < _SILENT:
        raise InputError(f"{name} is silent: nobody to listen for")
    return audio


def _beginning(source: str | os.PathLike[str]) -> Audio:
    """A file's first half a minute, however long it is."""
    with open_audio(source) as file:
        if file.frames <= LONGEST_EXAMPLE * file.rate:
            pass
        else:
            kept: list[np.ndarray] = []
            for block in file.blocks():
                kept.append(block)
                if sum(map(len, kept)) >= LONGEST_EXAMPLE * file.rate:
                    break
            return Audio(np.concatenate(kept), file.rate)
    return read(source)


def _load(model: str | Any, weights: str | os.PathLike[str] | None) -> Any:
    if not isinstance(model, str):
        return model
    if model != "look-once-to-hear":
        raise InputError(f"no extractor named '{model}': look-once-to-hear")
    return models.load(model, None if weights is None else os.fspath(weights))


def _load_encoder(encoder: str | Any, weights: str | os.PathLike[str] | None) -> Any:
    if not isinstance(encoder, str):
        return encoder
    if encoder not in ENCODERS:
        raise InputError(f"no encoder named '{encoder}': one of {', '.join(ENCODERS)}")
    if encoder == "resemblyzer":  # the network is the same: its package brings the weights
        return models.load("speaker-encoder", os.fspath(weights) if weights is not None else _of_resemblyzer())
    if weights is None and models.weights_folder(encoder) is None:
        how = "--encoder tf-gridnet" if encoder == "look-once-enrolment" else ""
        raise CheckpointError(
            f"'{encoder}' ships no weights: train some with 'harken train look-once --part enrolment {how}".rstrip()
            + "', or pass --encoder-weights"
        )
    return models.load(encoder, None if weights is None else os.fspath(weights))


def _of_resemblyzer() -> Path:
    """The weights inside the installed package, which is found without being imported."""
    from importlib.util import find_spec

    found = find_spec("resemblyzer")
    path = Path(found.origin).with_name("pretrained.pt") if found is not None and found.origin else None
    if path is None or not path.is_file():
        raise InputError("the encoder 'resemblyzer' is in a package: pip install --no-deps resemblyzer")
    return path
