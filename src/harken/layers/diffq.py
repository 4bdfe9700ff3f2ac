"""DiffQ: learn how many bits each group of weights deserves, by noise in place of rounding (Défossez et al., 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from harken.errors import InputError

MEBIBYTE = 8 * 2**20  # in bits


@dataclass(frozen=True)
class DiffQConfig:
    """How weights are grouped and how many bits they may have; the defaults are those of Demucs.

    Attributes:
        group_size: consecutive weights that share a number of bits.
        min_bits, max_bits: of a group.
        init_bits: of every group, before training.
        min_size: MiB below which a tensor stays in float32; so does one that groups do not fill.
        speed: how fast the logits of the bits learn, relative to the weights (the paper: 1e-3 to 3e-4).
    """

    group_size: int = 8
    min_bits: int = 2
    max_bits: int = 15
    init_bits: float = 8.0
    min_size: float = 0.01
    speed: float = 10 / 3

    def __post_init__(self) -> None:
        if self.group_size < 1 or not 1 <= self.min_bits < self.init_bits < self.max_bits <= 15:
            raise InputError(
                f"expected 1 <= min_bits < init_bits < max_bits <= 15 and groups of at least 1, got {self}"
            )
        if not self.min_size >= 0 or not self.speed > 0:
            raise InputError(f"expected a size of at least 0 and a positive speed, got {self.min_size}, {self.speed}")


class Quantised(NamedTuple):
    """A tensor's levels ``(groups, group_size)``, the bits of each group, and the range that they divide."""

    levels: Int[Tensor, "groups group_size"]
    bits: Int[Tensor, " groups"]
    low: Float[Tensor, ""]
    high: Float[Tensor, ""]


class DiffQ(nn.Module):
    """Numbers of bits for the groups of a model's larger tensors, learned with the model.

    While training, rounding is replaced by what it does on average: noise as large as a step,
    ``W + (max W - min W) / (2^b - 1) n / 2`` with normal ``n`` and the range of the whole tensor, so that the loss has
    a gradient with respect to ``b = min + (max - min) sigmoid(logit)``. Adding ``lambda`` times :meth:`size` to the
    loss sells the bits that buy least (arXiv 2104.09987, as used by arXiv 1911.13254).

    Args:
        model: whose parameters are grouped; nothing of it is kept but names and shapes.
        config: see :class:`DiffQConfig`.

    >>> layer = nn.Linear(16, 8)
    >>> bits = DiffQ(layer, DiffQConfig(min_size=1e-4))
    >>> bits.names, round(bits.true_size(layer) * 2**20)  # bytes: 128 weights of 8 bits, what describes them, the bias
    (['weight'], 175)
    """

    def __init__(self, model: nn.Module, config: DiffQConfig | None = None):
        super().__init__()
        self.config = c = config or DiffQConfig()
        start = (c.init_bits - c.min_bits) / (c.max_bits - c.min_bits)
        logit = math.log(start / (1 - start)) / c.speed
        self.names: list[str] = []
        self.logits = nn.ParameterList()
        for name, weight in _own_parameters(model):
            if weight.numel() * 32 >= c.min_size * MEBIBYTE and weight.numel() % c.group_size == 0:
                self.names.append(name)
                self.logits.append(torch.full((weight.numel() // c.group_size,), logit, device=weight.device))

    def bits(self) -> dict[str, Float[Tensor, " groups"]]:
        """Of each quantised tensor's groups, differentiable."""
        return {name: group_bits(logit * self.config.speed, self.config) for name, logit in self._named()}

    def _named(self) -> Iterable[tuple[str, Tensor]]:
        return zip(self.names, self.logits, strict=True)

    def noisy(self, model: nn.Module, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The quantised tensors with noise as large as their steps, by name: what :func:`torch.func.functional_call`
        takes."""
        weights = dict(_own_parameters(model))
        made = {}
        for name, bits in self.bits().items():
            weight = weights[name]
            noise = torch.randn(weight.shape, generator=generator, device=weight.device, dtype=weight.dtype)
            made[name] = add_pseudo_noise(weight, bits, noise)
        return made

    def size(self, model: nn.Module) -> Float[Tensor, ""]:
        """MiB of the model as stored, differentiable; exact where all bits are whole."""
        bits = self.bits()
        total = sum(stored_bits(b, self.config) for b in bits.values())
        rest = sum(weight.numel() * 32 for name, weight in _own_parameters(model) if name not in bits)
        return torch.as_tensor(total + rest) / MEBIBYTE

    @torch.no_grad()
    def true_size(self, model: nn.Module) -> float:
        """MiB of the model with its bits rounded."""
        bits = self.bits()
        total = sum(float(stored_bits(whole_bits(b, self.config).float(), self.config)) for b in bits.values())
        rest = sum(weight.numel() * 32 for name, weight in _own_parameters(model) if name not in bits)
        return (total + rest) / MEBIBYTE

    @torch.no_grad()
    def quantise(self, model: nn.Module) -> dict[str, Quantised]:
        """The tensors on their levels, by name."""
        weights = dict(_own_parameters(model))
        return {name: quantise(weights[name], whole_bits(bits, self.config)) for name, bits in self.bits().items()}

    @contextmanager
    def quantised(self, model: nn.Module) -> Iterator[None]:
        """Within the block, the model computes with its truly quantised weights."""
        weights = dict(_own_parameters(model))
        kept = {name: weights[name].detach().clone() for name in self.names}
        try:
            with torch.no_grad():
                for name, found in self.quantise(model).items():
                    weights[name].copy_(dequantise(found).view_as(weights[name]))
            yield
        finally:
            with torch.no_grad():
                for name, weight in kept.items():
                    weights[name].copy_(weight)


def group_bits(logit: Float[Tensor, " groups"], config: DiffQConfig) -> Float[Tensor, " groups"]:
    """``min + (max - min) sigmoid(logit)``."""
    return config.min_bits + (config.max_bits - config.min_bits) * torch.sigmoid(logit)


def whole_bits(bits: Float[Tensor, " groups"], config: DiffQConfig) -> Int[Tensor, " groups"]:
    """Rounded to what can be stored."""
    return bits.detach().round().clamp(1, 15).long()


def add_pseudo_noise(
    weight: Float[Tensor, "*shape"], bits: Float[Tensor, " groups"], noise: Float[Tensor, "*any"]
) -> Float[Tensor, "*shape"]:
    """``W + (max W - min W) / (2^b - 1) noise / 2``, a number of bits for each group."""
    low, high = torch.aminmax(weight)
    step = (high - low) / (2**bits - 1)
    return weight + (step[:, None] * noise.reshape(len(bits), -1) / 2).view_as(weight)


def quantise(weight: Float[Tensor, "*shape"], bits: Int[Tensor, " groups"]) -> Quantised:
    """``round((W - min) / (max - min) (2^b - 1))``, over the range of the whole tensor."""
    low, high = torch.aminmax(weight.detach())
    span = torch.where(high > low, high - low, torch.ones_like(high))
    steps = (2**bits - 1).to(weight.dtype)
    levels = (weight.detach().reshape(len(bits), -1) - low) / span * steps[:, None]
    return Quantised(levels.round().int(), bits.int(), low, high)


def dequantise(found: Quantised) -> Float[Tensor, "groups group_size"]:
    """``min + level / (2^b - 1) (max - min)``."""
    steps = (2 ** found.bits.long() - 1).to(found.low.dtype)
    return found.low + found.levels / steps[:, None] * (found.high - found.low)


def stored_bits(bits: Float[Tensor, " groups"], config: DiffQConfig) -> Float[Tensor, ""]:
    """Of a tensor: its levels, two floats for its range, a byte, and how many bits each of its groups has."""
    width = index_width(int(bits.detach().max().round()), config.min_bits)
    return config.group_size * bits.sum() + 64 + 8 + width * len(bits)


def index_width(most: int, least: int) -> int:
    """Bits that tell numbers from ``least`` to ``most`` apart."""
    return math.ceil(math.log2(1 + max(0, most - least)))


def straight_through(weight: Float[Tensor, "*shape"], bits: int) -> Float[Tensor, "*shape"]:
    """The weight on ``2^bits`` levels, with the gradient of the weight itself: plain quantisation-aware training."""
    found = quantise(weight, torch.full((1,), bits, device=weight.device))
    return weight + (dequantise(found).view_as(weight) - weight.detach())


def uniform_size(model: nn.Module, names: Iterable[str], bits: int) -> float:
    """MiB of a model whose named tensors have ``bits`` each, with two floats for a range."""
    weights: Mapping[str, Tensor] = dict(_own_parameters(model))
    chosen = set(names)
    total = sum(bits * weights[name].numel() + 64 for name in chosen)
    return (total + sum(32 * weight.numel() for name, weight in weights.items() if name not in chosen)) / MEBIBYTE


def _own_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Those of the model, without those of a quantiser that lives in it."""
    within = {id(p) for part in model.modules() if isinstance(part, DiffQ) for p in part.parameters()}
    return [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) not in within]
