"""Discriminators of waveforms: by period, and by the amplitude or the phase of their spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from harken.errors import CheckpointError
from harken.models._base import build

_LEAK = 0.1


class Opinion(NamedTuple):
    """What one discriminator says: scores ``(batch, places)``, high for real, and the maps on the way to them."""

    scores: Tensor
    features: list[Tensor]

    def halves(self) -> tuple[Opinion, Opinion]:
        """What was said of the first and of the second half of a batch."""
        scores, features = self.scores.chunk(2), [part.chunk(2) for part in self.features]
        first, second = (Opinion(scores[i], [part[i] for part in features]) for i in (0, 1))
        return first, second


class PeriodDiscriminator(nn.Module):
    """A waveform folded into rows of one period, seen by convolutions along the columns (HiFi-GAN, arXiv 2010.05646).

    Args:
        period: samples a row.
        width: channels of the layers, relative to the paper's 32 to 1024; below 1 for small runs.
    """

    def __init__(self, period: int, width: float = 1.0):
        super().__init__()
        self.period = period
        widths = [1, *(max(1, int(width * channels)) for channels in (32, 128, 512, 1024, 1024))]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(widths[i], widths[i + 1], (5, 1), (3 if i < 4 else 1, 1), (2, 0))) for i in range(5)
        )
        self.out = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, waveform: Float[Tensor, "batch samples"]) -> Opinion:
        """What it says of each waveform."""
        missing = -waveform.shape[-1] % self.period
        x = F.pad(waveform[:, None], (0, missing), mode="reflect").unflatten(-1, (-1, self.period))
        return _judge(x, self.layers, self.out, skip=1)


class SpectrumDiscriminator(nn.Module):
    """One spectrum of a waveform, its amplitude or its phase, as a picture.

    Args:
        n_fft, hop_length, win_length: of the transform, whose window is flat.
        part: ``"amplitude"`` or ``"phase"``.
        channels: of the convolutions.
    """

    def __init__(
        self,
        n_fft: int,
        hop_length: int,
        win_length: int,
        part: Literal["amplitude", "phase"] = "amplitude",
        channels: int = 64,
    ):
        super().__init__()
        self.sizes, self.part = (n_fft, hop_length, win_length), part
        shapes = (((7, 5), (2, 2)), ((5, 3), (2, 1)), ((5, 3), (2, 2)), ((3, 3), (2, 1)), ((3, 3), (2, 2)))
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(channels if i else 1, channels, kernel, stride, (kernel[0] // 2, kernel[1] // 2)))
            for i, (kernel, stride) in enumerate(shapes)
        )
        self.out = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, waveform: Float[Tensor, "batch samples"]) -> Opinion:
        """What it says of each waveform."""
        n_fft, hop, win = self.sizes
        flat = torch.ones(win, device=waveform.device, dtype=waveform.dtype)
        bins = torch.stft(waveform, n_fft, hop, win, flat, center=True, pad_mode="reflect", return_complex=True)
        x = bins.abs() if self.part == "amplitude" else bins.angle()
        return _judge(x[:, None], self.layers, self.out)

    @classmethod
    def from_authors(
        cls, state_dict: Mapping[str, Any], resolution: Sequence[int], part: Literal["amplitude", "phase"]
    ) -> Self:
        """Build from AP-BWE's names: ``convs.N.*``, ``conv_post.*``, weight norm as ``weight_g`` and ``weight_v``."""
        try:
            channels = len(state_dict["convs.0.bias"])
            own = {_own_name(name): tensor for name, tensor in state_dict.items()}
            n_fft, hop, win = resolution
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"not the parameters of a spectral discriminator: {error}") from None
        return build(lambda: cls(n_fft, hop, win, part, channels), own)


class WaveformDiscriminators(nn.Module):
    """All of AP-BWE's: five periods at full weight, three amplitudes and three phases at a tenth.

    Args:
        width: relative to the paper's; 1/8 is for a CPU.

    >>> opinions = WaveformDiscriminators(width=1 / 32)(torch.randn(2, 4000))
    >>> len(opinions)
    11
    """

    def __init__(self, width: float = 1.0):
        super().__init__()
        resolutions = ((512, 128, 512), (1024, 256, 1024), (2048, 512, 2048))
        channels = max(1, int(64 * width))
        members: list[nn.Module] = [PeriodDiscriminator(period, width) for period in (2, 3, 5, 7, 11)]
        members += [SpectrumDiscriminator(*sizes, "amplitude", channels) for sizes in resolutions]
        members += [SpectrumDiscriminator(*sizes, "phase", channels) for sizes in resolutions]
        self.members = nn.ModuleList(members)
        self.weights = (1.0,) * 5 + (0.1,) * 6

    def forward(self, waveform: Float[Tensor, "batch samples"]) -> list[Opinion]:
        """What each says."""
        return [member(waveform) for member in self.members]


def hinge_discriminator_loss(real: Opinion, made: Opinion) -> Float[Tensor, ""]:
    """``mean max(0, 1 - D(x)) + mean max(0, 1 + D(g))``."""
    return F.relu(1 - real.scores).mean() + F.relu(1 + made.scores).mean()


def hinge_generator_loss(made: Opinion) -> Float[Tensor, ""]:
    """``mean max(0, 1 - D(g))``."""
    return F.relu(1 - made.scores).mean()


def feature_loss(real: Opinion, made: Opinion) -> Float[Tensor, ""]:
    """The L1 distances of the maps, summed over them."""
    pairs = zip(real.features, made.features, strict=True)
    return torch.stack([F.l1_loss(ours, theirs.detach()) for theirs, ours in pairs]).sum()


def _judge(x: Tensor, layers: nn.ModuleList, out: nn.Module, skip: int = 0) -> Opinion:
    features = []
    for layer in layers:
        x = F.leaky_relu(layer(x), _LEAK)
        features.append(x)
    x = out(x)
    return Opinion(x.flatten(1), [*features[skip:], x])


def _own_name(name: str) -> str:
    name = name.replace("convs.", "layers.").replace("conv_post.", "out.")
    for theirs, ours in (("weight_g", "original0"), ("weight_v", "original1")):
        name = name.replace(theirs, f"parametrizations.weight.{ours}")
    return name
