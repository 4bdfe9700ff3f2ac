"""SSVEP-DNN: sub-bands, spatial filters and two short convolutions name the flicker looked at (arXiv 2011.08562)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import CheckpointError, InputError
from harken.models._base import Model, build

_WIDTH = 10  # of the last convolution: an even kernel, one zero more behind than before


@dataclass(frozen=True)
class SSVEPNetConfig:
    """Sizes of :class:`SSVEPNet`; the defaults are those of 0.4 s at 250 Hz of nine occipital electrodes.

    Attributes:
        channels, samples, classes: of a trial, and what there is to choose from.
        bands: sub-bands that it comes in.
        filters: spatial filters, and features of the convolutions.
        dropout: behind the spatial filters, the first and the second convolution. The paper's values are made for forty
            classes and thousands of trials; 0.95 leaves nothing to learn from where there are a hundred.
    """

    channels: int = 9
    samples: int = 100
    classes: int = 40
    bands: int = 3
    filters: int = 120
    dropout: tuple[float, float, float] = (0.1, 0.1, 0.95)

    def __post_init__(self) -> None:
        for name in ("channels", "samples", "classes", "bands", "filters"):
            if getattr(self, name) < 1:
                raise InputError(f"expected {name} of 1 or more, got {getattr(self, name)}")
        if self.samples < 2:
            raise InputError("expected trials of 2 samples or more")
        if not all(0 <= p < 1 for p in self.dropout):
            raise InputError(f"expected dropout of 0 up to, but not, 1, got {self.dropout}")

    @classmethod
    def small(cls) -> Self:
        """Five channels, a quarter second at 256 Hz, two classes: seconds to train."""
        return cls(channels=5, samples=64, classes=2, filters=16, dropout=(0.1, 0.1, 0.5))


class SSVEPNet(Model):
    """Linear in space, nearly linear in time: one ReLU in the whole network.

    A weighted sum of sub-bands, ``filters`` mixtures of the channels, a convolution that halves the rate, ReLU, a
    convolution of ten samples, and a matrix to the logits. In evaluation the layers before the ReLU are one matrix, and
    so are those behind it: :meth:`fused` gives that network.

    Shape:
        - sub-bands: ``(batch, bands, channels, samples)``, of :func:`harken.signal.filter_bank.split_bands`
        - logits: ``(batch, classes)``

    >>> net = SSVEPNet(SSVEPNetConfig.small()).eval()
    >>> net(torch.zeros(2, 3, 5, 64)).shape
    torch.Size([2, 2])
    >>> sum(p.numel() for p in SSVEPNet().parameters())  # nine channels, forty classes, 0.4 s
    414283
    """

    slug = "ssvep-dnn"
    Config: ClassVar[type[SSVEPNetConfig]] = SSVEPNetConfig
    config: SSVEPNetConfig

    def __init__(self, config: SSVEPNetConfig | None = None):
        super().__init__(config)
        sizes = self.config
        self.band_layer = nn.Conv2d(sizes.bands, 1, 1, bias=False)
        self.spatial_layer = nn.Conv2d(1, sizes.filters, (sizes.channels, 1))
        self.time1_layer = nn.Conv2d(sizes.filters, sizes.filters, (1, 2), stride=(1, 2))
        self.time2_layer = nn.Conv2d(sizes.filters, sizes.filters, (1, _WIDTH))
        self.fc_layer = nn.Linear(sizes.filters * (sizes.samples // 2), sizes.classes)
        nn.init.ones_(self.band_layer.weight)
        for layer in (self.spatial_layer, self.time1_layer, self.time2_layer, self.fc_layer):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "batch bands channels samples"]) -> Float[Tensor, "batch classes"]:
        p1, p2, p3 = self.config.dropout
        spatial = F.dropout(self.spatial_layer(self.band_layer(x)), p1, self.training)
        halved = F.relu(F.dropout(self.time1_layer(spatial), p2, self.training))
        before = (_WIDTH - 1) // 2
        smoothed = self.time2_layer(F.pad(halved, (before, _WIDTH - 1 - before)))
        return self.fc_layer(F.dropout(smoothed, p3, self.training).flatten(1))

    def penalty(self) -> Float[Tensor, ""]:
        """Half the sum of the squared weights, biases left out: times 1e-3, what the paper adds to the loss."""
        return sum((w.square().sum() for name, w in self.named_parameters() if "bias" not in name), torch.zeros(())) / 2

    @torch.no_grad()
    def fused(self) -> FusedSSVEPNet:
        """The same function in evaluation as two matrices around a ReLU, a fraction of the arithmetic."""
        sizes = self.config
        mixed = torch.einsum("fgt,gc->fct", self.time1_layer.weight[:, :, 0], self.spatial_layer.weight[:, 0, :, 0])
        first = torch.einsum("b,fct->fbct", self.band_layer.weight[0, :, 0, 0], mixed)
        state = dict(self.named_parameters())
        bias = self.time1_layer.weight[:, :, 0].sum(-1) @ state["spatial_layer.bias"] + state["time1_layer.bias"]
        # a linear layer behind a convolution: its weights, convolved the other way round
        head = self.fc_layer.weight.view(sizes.classes, sizes.filters, -1)
        before, length = (_WIDTH - 1) // 2, sizes.samples // 2
        last = F.conv_transpose1d(head, self.time2_layer.weight[:, :, 0])[..., before : before + length]
        offset = self.fc_layer.bias + head.sum(-1) @ state["time2_layer.bias"]
        return FusedSSVEPNet(first.flatten(1, 2), bias, last.flatten(1), offset)

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: SSVEPNetConfig | None = None) -> Self:
        """From the parameter names of MetaBCI's PyTorch version (the authors' own code is MATLAB).

        The number of samples is known to one: half of them, rounded down, is what the last matrix tells. Pass a
        configuration where it is odd.

        Raises:
            CheckpointError: parameters are missing, left over, or of another size.
        """
        state = {str(name).removeprefix("model."): tensor for name, tensor in state_dict.items()}
        if config is None:
            try:
                spatial, matrix = state["spatial_layer.weight"], state["fc_layer.weight"]
                filters, channels, bands = spatial.shape[0], spatial.shape[2], state["band_layer.weight"].shape[1]
                samples, classes = 2 * (matrix.shape[1] // filters), matrix.shape[0]
            except (KeyError, AttributeError, IndexError, ZeroDivisionError):
                raise CheckpointError(
                    "these are not the weights of an SSVEP-DNN: no band, spatial and fc layers"
                ) from None
            try:
                config = SSVEPNetConfig(channels, samples, classes, bands, filters)
            except InputError as error:
                raise CheckpointError(f"these weights do not describe an SSVEP-DNN: {error}") from None
        return build(lambda: cls(config), state)


def logits_by_products(
    state: Mapping[str, Tensor],
    x: Float[Tensor, "batch bands channels samples"],
    dropout: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Float[Tensor, "batch classes"]:
    """What an :class:`SSVEPNet` with these parameters gives, written as products of few, large matrices.

    Mapped over stacked parameters (``torch.func.vmap``) the products of many networks become batched products, where
    convolutions would become grouped ones, which are slow on a CPU.
    """
    batch, _, _, samples = x.shape
    weight = {name.removesuffix(".weight"): tensor for name, tensor in state.items()}
    p1, p2, p3 = dropout
    mixed = torch.einsum("nbct,b->cnt", x, weight["band_layer"][0, :, 0, 0]).flatten(1)
    spatial = weight["spatial_layer"][:, 0, :, 0] @ mixed + weight["spatial_layer.bias"][:, None]
    spatial = F.dropout(spatial, p1).unflatten(1, (batch, samples))[..., : samples // 2 * 2]
    pairs = spatial.flatten(1).unflatten(1, (-1, 2))
    halve = weight["time1_layer"][:, :, 0]
    halved = halve[..., 0] @ pairs[..., 0] + halve[..., 1] @ pairs[..., 1] + weight["time1_layer.bias"][:, None]
    rows = F.relu(F.dropout(halved, p2)).unflatten(1, (batch, samples // 2)).transpose(0, 1)
    before = (_WIDTH - 1) // 2
    smoothed = F.conv1d(F.pad(rows, (before, _WIDTH - 1 - before)), weight["time2_layer"][:, :, 0])
    smoothed = F.dropout(smoothed + weight["time2_layer.bias"][:, None], p3)
    return smoothed.flatten(1) @ weight["fc_layer"].mT + weight["fc_layer.bias"]


class FusedSSVEPNet(nn.Module):
    """An :class:`SSVEPNet` for inference: ``logits = B relu(A [x_2t, x_2t+1]) + b``. Exports as it is."""

    def __init__(
        self,
        first: Float[Tensor, "filters inputs two"],
        bias: Float[Tensor, " filters"],
        last: Float[Tensor, "classes features"],
        offset: Float[Tensor, " classes"],
    ):
        super().__init__()
        self.halve = nn.Conv1d(first.shape[1], first.shape[0], 2, stride=2)
        self.decide = nn.Linear(last.shape[1], last.shape[0])
        for parameter, values in zip(self.parameters(), (first, bias, last, offset), strict=True):
            parameter.data = values.clone()
        self.eval().requires_grad_(False)

    def forward(self, x: Float[Tensor, "batch bands channels samples"]) -> Float[Tensor, "batch classes"]:
        return self.decide(F.relu(self.halve(x.flatten(1, 2))).flatten(1))
