"""What surrounds the mixing in MAViT, the backbone of MALA: rotary positions, a local branch, a gate (2507.00698)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.attention._base import Capabilities, Cost, ProjectedAttention, precise
from harken.attention._chunked import masked
from harken.attention.softmax import allowed_pairs, softmax_weights
from harken.errors import CapabilityError, CheckpointError, InputError
from harken.observation import emit


class LocalGatedAttention(ProjectedAttention):
    """What surrounds the mixing in MAViT: rotary positions, a depth-wise convolution of the values, an output gate."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool,
        bias: bool,
        axes: Literal[1, 2],
        rotary: bool,
        local_kernel: int,
        gate: bool,
    ):
        super().__init__(dim, heads, causal=causal, bias=bias)
        if axes not in (1, 2):
            raise InputError(f"axes={axes} must be 1 (a sequence) or 2 (an image)")
        if causal and axes == 2:
            raise CapabilityError("an image has no causal order: build the layer with axes=1 or causal=False")
        if rotary and self.head_dim % (2 * axes):
            raise InputError(f"rotary positions need a head_dim divisible by {2 * axes}, got {self.head_dim}")
        if local_kernel and local_kernel % 2 == 0:
            raise InputError(f"local_kernel={local_kernel} must be odd (or 0 for no local branch)")
        self.axes, self.rotary, self.local_kernel = axes, rotary, local_kernel
        self.local: nn.Conv2d | None = None
        if local_kernel:
            shape = (local_kernel if axes == 2 else 1, local_kernel)
            self.local = nn.Conv2d(dim, dim, shape, groups=dim)
        self.gate = nn.Linear(dim, dim, bias=bias) if gate else None

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        self._check_options(x, context, mask, grid)
        q, k, v = self.project(x, context)
        angles = self.angles(x, grid)
        emit(self, "weights", lambda: self.mix_weights(q, k, mask, angles))
        mixed = self.mix(q, k, v, mask, angles)
        values = None
        if self.local is not None:
            values = masked(v, mask).transpose(1, 2).flatten(2)
            around = self.local_kernel - 1
            values = F.pad(values, (0, 0, around, 0)) if self.causal else values
        return self._finish(mixed, values, x, grid)

    def weights(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch heads time keys"]:
        self._check_options(x, context, mask, grid)
        q, k, _ = self.project(x, context)
        return self.mix_weights(q, k, mask, self.angles(x, grid))

    def cost(self, batch: int, time: int) -> Cost:
        values = batch * time * self.dim
        extra = Cost(0, 0)
        if self.gate is not None:
            extra += Cost(flops=2 * values * self.dim, bytes=2 * values * self._item_size)
        if self.local is not None:
            extra += Cost(
                flops=2 * values * self.local_kernel**self.axes,
                bytes=2 * values * self._item_size,
                state=batch * (self.local_kernel - 1) * self.dim * self._item_size if self.causal else 0,
            )
        return super().cost(batch, time) + extra

    @abstractmethod
    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, angles: Tensor | None = None) -> Tensor:
        """Values mixed for each query; ``angles`` as :meth:`angles` gives them."""

    @abstractmethod
    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None, angles: Tensor | None = None) -> Tensor:
        """The matrix that :meth:`mix` applies."""

    def angles(self, x: Tensor, grid: tuple[int, int] | None = None, start: Tensor | None = None) -> Tensor | None:
        """How far each pair of channels turns at each position, ``(time, head_dim / 2)``; None without rotary.

        On a grid the first half of the channels turns with the row, the second with the column. ``start``, one number
        per batch item, is where a stream has got to; the angles then have a batch and a heads axis in front.
        """
        if not self.rotary:
            return None
        steps = torch.linspace(0, 1, self.head_dim // (2 * self.axes), device=x.device)
        speeds = 10000.0**-steps
        position = torch.arange(x.shape[1], device=x.device)
        if start is not None:
            position = (start[:, None] + position).unsqueeze(1)
        if self.axes == 1:
            return position.unsqueeze(-1) * speeds
        assert grid is not None
        row, column = position // grid[1], position % grid[1]
        return torch.cat((row.unsqueeze(-1) * speeds, column.unsqueeze(-1) * speeds), -1)

    def _check_options(
        self, x: Tensor, context: Tensor | None, mask: Tensor | None, grid: tuple[int, int] | None
    ) -> None:
        self._check(x, context, mask, grid)
        if context is not None and (self.rotary or self.local is not None):
            raise CapabilityError(
                "queries and context share no positions: cross-attention needs rotary=False and local_kernel=0"
            )
        placed = self.rotary or self.local is not None
        if self.axes == 2 and placed and (grid is None or grid[0] * grid[1] != x.shape[1]):
            raise InputError(f"'{self.name}' with axes=2 needs grid=(H, W), H * W = {x.shape[1]} positions, got {grid}")

    def _finish(self, mixed: Tensor, values: Tensor | None, x: Tensor, grid: tuple[int, int] | None) -> Tensor:
        """The local branch added, the gate, the output projection; ``values`` ``(batch, time, dim)``, padded if causal.

        A sequence goes through the convolution as an image of height 1 whose channels come last in memory: that is the
        layout it has already, and PyTorch is many times faster on it than on ``conv1d``'s.
        """
        mixed = mixed.transpose(1, 2).flatten(2)
        if self.local is not None:
            assert values is not None
            height, width = grid if self.axes == 2 and grid is not None else (1, values.shape[1])
            image = values.unflatten(1, (height, width)).permute(0, 3, 1, 2)
            padding = 0 if self.causal else self.local_kernel // 2
            around = F.conv2d(
                image,
                self.local.weight,
                self.local.bias,
                padding=(padding if self.axes == 2 else 0, padding),
                groups=self.dim,
            )
            mixed = mixed + around.flatten(2).transpose(1, 2)
        if self.gate is not None:
            gate = self.gate(x)
            emit(self, "gate", gate)
            mixed = mixed * gate
        return self.out_proj(mixed)

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Tensor], heads: int) -> Self:
        """The authors' vision layer (``qkvo``, ``lepe``, ``proj``) with their parameters.

        Raises:
            CheckpointError: a parameter is missing or has another shape.
        """
        try:
            qkvo, around = state_dict["qkvo.weight"].flatten(1), state_dict["lepe.weight"]
            dim = qkvo.shape[1]
            options: dict[str, Any] = {"axes": 2, "rotary": True, "local_kernel": around.shape[-1], "gate": True}
            layer = cls(dim, heads, **options)
            bias = state_dict["qkvo.bias"]
            ours = {
                "in_proj.weight": qkvo[: 3 * dim],
                "in_proj.bias": bias[: 3 * dim],
                "gate.weight": qkvo[3 * dim :],
                "gate.bias": bias[3 * dim :],
                "local.weight": around,
                "local.bias": state_dict["lepe.bias"],
                "out_proj.weight": state_dict["proj.weight"].flatten(1),
                "out_proj.bias": state_dict["proj.bias"],
            }
            layer.load_state_dict(ours)
        except KeyError as missing:
            raise CheckpointError(f"not a layer of MALA: no parameter {missing} among {len(state_dict)}") from None
        except RuntimeError as problem:
            raise CheckpointError(f"not a layer of MALA: {' '.join(str(problem).split())}") from None
        return layer


class LocalGatedSoftmax(LocalGatedAttention):
    """The softmax layer of MAViT's later stages: MALA's surroundings, with rotary softmax attention inside.

    >>> layer = LocalGatedSoftmax(dim=16, heads=2)
    >>> layer(torch.randn(1, 12, 16), grid=(3, 4)).shape
    torch.Size([1, 12, 16])
    """

    name: ClassVar[str] = "mala-softmax"
    capabilities: ClassVar[Capabilities] = Capabilities(causal=False, step=False)

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        bias: bool = True,
        axes: Literal[1, 2] = 2,
        rotary: bool = True,
        local_kernel: int = 5,
        gate: bool = True,
    ):
        super().__init__(
            dim, heads, causal=causal, bias=bias, axes=axes, rotary=rotary, local_kernel=local_kernel, gate=gate
        )

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, angles: Tensor | None = None) -> Tensor:
        q, k = turned(q, angles), turned(k, angles)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed_pairs(q, k, mask=mask))

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None, angles: Tensor | None = None) -> Tensor:
        q, k = turned(q, angles), turned(k, angles)
        return softmax_weights(q, k, allowed_pairs(q, k, mask=mask))

    def mix_cost(self, batch: int, time: int) -> Cost:
        values = batch * time * self.dim
        return Cost(flops=4 * values * time, bytes=4 * values * self._item_size)


def turned(x: Tensor, angles: Tensor | None) -> Tensor:
    """``(..., time, head_dim)`` with each pair of neighbouring channels turned by its angle, ``(..., time, half)``."""
    if angles is None:
        return x
    wide = precise(x).contiguous()
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)))
    angles = angles.to(wide.dtype)
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2).to(x.dtype)
