"""Speech as wav2vec 2.0 hears it: what brain signals are matched with in arXiv 2208.12266, through ``transformers``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harken.errors import CheckpointError, InputError, MissingExtraError
from harken.models._base import first_line
from harken.signal.speech_features import frames_at

PAPER = "facebook/wav2vec2-large-xlsr-53"
LAYERS = (14, 15, 16, 17, 18)  # hidden states whose mean the paper takes; 0 is what enters the first layer
_STEP = 320 / 16000  # seconds from one frame to the next


def load_wav2vec2(weights: str = PAPER) -> Any:
    """A wav2vec 2.0 of ``transformers``, from a folder or the Hub, ready for :func:`wav2vec2_features`.

    Raises:
        MissingExtraError: ``transformers`` is not installed.
        CheckpointError: there are no such weights.
    """
    try:
        from transformers import Wav2Vec2Model
    except ImportError:
        raise MissingExtraError("transformers", extra="text") from None
    try:
        return Wav2Vec2Model.from_pretrained(weights).eval()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"no wav2vec 2.0 at '{weights}': {first_line(error)}") from None


@torch.inference_mode()
def wav2vec2_features(
    model: Any, waveform: Float[Tensor, "batch samples"], sfreq: float, *, layers: Sequence[int] = LAYERS
) -> Float[Tensor, "batch features frames"]:
    """The mean of some hidden states, ``sfreq`` times a second by the nearest frame.

    Args:
        model: a ``Wav2Vec2Model``.
        waveform: 16 kHz; each row is brought to mean 0 and variance 1, as the model was trained.
        sfreq: rate of the brain signals.
        layers: which hidden states.

    Raises:
        InputError: the model has no such layer, or the sound is too short for it.
    """
    if waveform.shape[-1] < 400:
        raise InputError(f"{waveform.shape[-1]} samples at 16 kHz are too few for wav2vec 2.0: 400 make a frame")
    mean, spread = waveform.mean(-1, keepdim=True), waveform.std(-1, keepdim=True, correction=0)
    states = model((waveform - mean) / (spread + 1e-7), output_hidden_states=True).hidden_states
    if not layers or max(layers) >= len(states) or min(layers) < 0:
        raise InputError(f"the model has hidden states 0 to {len(states) - 1}: asked for {tuple(layers)}")
    chosen = torch.stack([states[number] for number in layers]).mean(0).mT
    return frames_at(chosen.float(), 1 / _STEP, sfreq, int(waveform.shape[-1] * sfreq / 16000))
