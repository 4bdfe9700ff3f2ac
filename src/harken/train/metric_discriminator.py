"""A discriminator that learns a metric: its score of a pair approaches PESQ (MetricGAN, arXiv 1905.04874)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from harken.errors import CheckpointError
from harken.models._base import build


class MetricDiscriminator(nn.Module):
    """Two compressed magnitude spectra to a score in (0, 1): 1 for equal ones.

    Four strided, spectrally normalised convolutions, the maximum over time and frequency, two linear layers, and a
    sigmoid with a learned slope. 0.18 M parameters at the default width.

    Shape:
        - reference, estimate: ``(batch, bins, frames)``
        - score: ``(batch, 1)``
    """

    def __init__(self, width: int = 16):
        super().__init__()
        widths = [2, width, 2 * width, 4 * width, 8 * width]
        convolutions: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            convolutions += [
                spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False)),
                nn.InstanceNorm2d(outputs, affine=True),
                nn.PReLU(outputs),
            ]
        self.convolutions = nn.Sequential(*convolutions)
        self.head = nn.Sequential(
            spectral_norm(nn.Linear(8 * width, 4 * width)),
            nn.Dropout(0.3),
            nn.PReLU(4 * width),
            spectral_norm(nn.Linear(4 * width, 1)),
        )
        self.slope = nn.Parameter(torch.ones(1))

    def forward(
        self, reference: Float[Tensor, "batch bins frames"], estimate: Float[Tensor, "batch bins frames"]
    ) -> Float[Tensor, "batch 1"]:
        """The score of each pair."""
        features = self.convolutions(torch.stack((reference, estimate), 1)).amax((2, 3))
        return torch.sigmoid(self.slope * self.head(features))

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any]) -> Self:
        """Build from MP-SENet's released names, ``layers.N.*`` with spectral norm as ``weight_{orig,u,v}``.

        Raises:
            CheckpointError: parameters are missing, left over, or of another size.
        """
        try:
            width = len(state_dict["layers.1.weight"])
        except (KeyError, TypeError):
            raise CheckpointError("not MP-SENet's metric discriminator: 'layers.1.weight' is missing") from None
        names = {"14": "head.0", "16": "head.2", "17": "head.3", "18": "slope"}
        own: dict[str, Tensor] = {}
        for name, tensor in state_dict.items():
            layer, _, rest = name.removeprefix("layers.").partition(".")
            prefix = names.get(layer, f"convolutions.{layer}")
            rest = _SPECTRAL_NORM.get(rest, rest)
            own["slope" if prefix == "slope" else f"{prefix}.{rest}"] = tensor
        return build(lambda: cls(width), own)


_SPECTRAL_NORM = {
    "weight_orig": "parametrizations.weight.original",
    "weight_u": "parametrizations.weight.0._u",
    "weight_v": "parametrizations.weight.0._v",
}
