"""What turns waveforms into points: frames as they are, their spectra, or a layer of a pretrained speech model."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import InputError, MissingExtraError
from harken.score._distortion_banks import FRAME

Encoder = Callable[[Float[Tensor, "signals samples"], int], Float[Tensor, "signals frames dim"]]
"""Maps signals at 16 kHz and a number of 20-ms frames to one vector per frame."""

_NAMES = {
    "wavlm": "microsoft/wavlm-large",
    "wavlm-base": "microsoft/wavlm-base",
    "wav2vec2": "facebook/wav2vec2-large-lv60",
    "wav2vec2-base": "facebook/wav2vec2-base",
    "wav2vec2-xlsr": "facebook/wav2vec2-large-xlsr-53",
    "hubert": "facebook/hubert-large-ll60k",
    "hubert-base": "facebook/hubert-base-ls960",
}
ENCODERS = ("raw", "spectrum", *_NAMES)


def raw_frames(waveform: Float[Tensor, "signals samples"], frames: int) -> Float[Tensor, "signals frames dim"]:
    """The 320 samples of each frame: no model, and blind to nothing.

    >>> raw_frames(torch.zeros(2, 1000), 3).shape
    torch.Size([2, 3, 320])
    """
    return waveform[:, : frames * FRAME].unflatten(-1, (frames, FRAME))


def log_spectra(waveform: Float[Tensor, "signals samples"], frames: int) -> Float[Tensor, "signals frames dim"]:
    """Log power spectra of 40-ms Hann windows around each frame: blind to phase, sensitive to spectral holes.

    Powers no smaller than 1e-6 of a full-scale sine's, so that silence is one point.

    >>> log_spectra(torch.zeros(2, 1000), 3).shape
    torch.Size([2, 3, 321])
    """
    n_fft = 2 * FRAME
    window = torch.hann_window(n_fft, dtype=waveform.dtype, device=waveform.device)
    padded = torch.nn.functional.pad(waveform[:, : frames * FRAME], (FRAME // 2, FRAME // 2))
    spectrum = torch.fft.rfft(padded.unfold(-1, n_fft, FRAME) * window)
    power = (2 * spectrum.abs() / window.sum()).square()
    return torch.log10(power + 1e-6)


class SpeechModel:
    """One hidden layer of a wav2vec 2.0, HuBERT or WavLM model from Hugging Face, resized to 20-ms frames.

    Args:
        name: a short name of :data:`ENCODERS`, a repository on the Hub, or a folder.
        layer: which hidden state; 0 is the input of the first layer. Upper layers know words, lower ones sounds.
        model: a model at hand, used instead of loading ``name``.
        batch_size: signals encoded at once.

    Raises:
        InputError: the model cannot be loaded, is none of speech, or has no such layer.
        MissingExtraError: ``transformers`` is not installed.
    """

    def __init__(self, name: str, layer: int = 2, *, model: nn.Module | None = None, batch_size: int = 2):
        self.name, self.layer, self.batch_size = name, layer, batch_size
        self.model = (_loaded(_NAMES.get(name, name)) if model is None else model).eval().requires_grad_(False)
        depth = getattr(getattr(self.model, "config", None), "num_hidden_layers", None)
        if not isinstance(depth, int) or not hasattr(self.model.config, "conv_stride"):
            raise InputError(f"'{name}' is not a speech model that reads waveforms: give a wav2vec2, HuBERT or WavLM")
        if not 0 <= layer <= depth:
            raise InputError(f"'{name}' has {depth} layers, there is no layer {layer}: give 0 to {depth}")

    def __call__(self, waveform: Float[Tensor, "signals samples"], frames: int) -> Float[Tensor, "signals frames dim"]:
        """Signals at 16 kHz to vectors; each is brought to zero mean and unit variance, as in pretraining."""
        parts = []
        for signals in waveform.float().split(self.batch_size):
            signals = signals - signals.mean(-1, keepdim=True)
            signals = signals / (signals.square().mean(-1, keepdim=True) + 1e-7).sqrt()
            hidden = self.model(signals, output_hidden_states=True).hidden_states[self.layer]
            nearest = torch.arange(frames, device=hidden.device) * hidden.shape[1] // frames
            parts.append(hidden[:, nearest])
        return torch.cat(parts)


def find_encoder(name: str | Encoder, layer: int = 2) -> Encoder:
    """The encoder of a name, or the one that was given.

    Raises:
        InputError: see :class:`SpeechModel`.
        MissingExtraError: ``transformers`` is needed and not installed.

    >>> find_encoder("raw") is raw_frames
    True
    """
    if not isinstance(name, str):
        return name
    built_in: dict[str, Encoder] = {"raw": raw_frames, "spectrum": log_spectra}
    return built_in.get(name) or SpeechModel(name, layer)


def _loaded(name: str) -> nn.Module:
    if name not in _NAMES.values() and "/" not in name and not Path(name).is_dir():
        raise InputError(
            f"no encoder named '{name}': choose among {', '.join(ENCODERS)}, or give a Hugging Face repository"
        )
    if find_spec("transformers") is None:
        raise MissingExtraError("transformers", extra="text")
    from transformers import AutoModel

    try:
        return AutoModel.from_pretrained(name, use_safetensors=True, trust_remote_code=False, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as problem:
        why = str(problem).strip().splitlines()[0][:160] if str(problem).strip() else type(problem).__name__
        raise InputError(
            f"cannot load the speech model '{name}' ({why}): name one that is on this machine"
        ) from problem
