"""LongVQ: gated attention over a structured memory, with keys from a codebook (arXiv 2404.11163).

The authors published no code: the skeleton is MEGA's gated unit (arXiv 2209.10655), the linear-time evaluation and the
codebook are Transformer-VQ's (arXiv 2309.16354), put together as the abstract says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.attention._base import Attention, Capabilities, Cost, State, precise
from harken.attention._codes import (
    CodeState,
    codewords,
    commitment_loss,
    dense_weights,
    linear_time,
    longvq_attention,
    nearest_codes,
    reach,
    stream,
    update_codebook,
)
from harken.attention._damped_average import DampedAverage
from harken.errors import CapabilityError, CheckpointError, InputError
from harken.observation import emit

__all__ = ["LongVqAttention", "LongVqState", "longvq_attention"]


class LongVqState(NamedTuple):
    """What a stream carries, constant in size.

    Shape:
        - memory: ``(batch, dim, memory_size)``, the moving averages
        - keys, values: ``(batch, heads, window, key_dim or value_dim / heads)``, the latest ones
        - codes: ``(batch, heads, window)``, their codes; ``codebook_size`` where there is no key
        - sums, counts: ``(batch, heads, codebook_size, value_dim / heads)`` and ``(batch, heads, codebook_size)``, the
          values of all earlier keys by code
    """

    memory: Tensor
    keys: Tensor
    values: Tensor
    codes: Tensor
    sums: Tensor
    counts: Tensor


class LongVqAttention(Attention):
    """Attention over codewords, read from a moving average: linear in time, with a stream of constant size.

    With ``m = EMA(x)`` the layer makes ``q`` and ``k`` (scale and offset of one shared projection of ``m``), gates
    ``u, r`` and ``h`` from ``m``, and values ``v`` from ``x``. Each key is replaced by its nearest codeword, so that
    keys farther than ``window`` are met through one count and one sum of values per code, and nearer ones one by one::

        o = softmax(q k_hat^T / sqrt(key_dim) + bias[|i - j|]) v      bias learned for |i - j| < window, else 0
        y = u * silu(h + W_h (o * r))

    A residual around it gives the usual block; MEGA's, ``x + u (silu(...) - x)``, is
    :class:`harken.models.write.longvq.LongVqBlock`. Queries and keys are normalised before the scores unless
    ``normalize`` is off, which keeps keys within reach of the codebook. Training emits the commitment loss as ``loss``,
    and each training pass ends by moving the codebook towards the keys it saw; evaluation leaves it alone. Gradients
    reach keys straight through the codebook, from the queries that meet them one by one.

    Args:
        dim: channels of input and output.
        heads: parallel heads (the paper has one); ``dim``, ``key_dim`` and ``value_dim`` must divide by it.
        causal: position ``t`` sees only positions up to ``t``.
        key_dim: channels of queries and keys, ``dim / 2`` by default.
        value_dim: channels of values, ``2 dim`` by default.
        codebook_size: codewords per head.
        window: positions met one by one, and reach of the learned bias.
        memory_size: moving averages per channel.
        normalize: whether queries and keys are normalised and scaled by ``(key_dim / heads) ** -1/4`` each.
        quantize: False keeps the keys as they are: MEGA's attention, quadratic, as a baseline.
        commitment: weight of the emitted loss, the mean squared distance of keys to their codewords.
        decay: of the codebook's running sums.
        revive_below: a code whose running count falls below this, or below a tenth of the mean count if that is less,
            is moved onto a key.

    Raises:
        InputError: a size is out of range.

    >>> layer = LongVqAttention(dim=16, heads=1, causal=True, codebook_size=8, window=4)
    >>> y, state = layer.step(torch.randn(2, 100, 16), layer.init_state(2))
    >>> y.shape, state.sums.shape
    (torch.Size([2, 100, 16]), torch.Size([2, 1, 8, 32]))
    """

    name: ClassVar[str] = "longvq"
    capabilities: ClassVar[Capabilities] = Capabilities(cross=False, constant_state=True)
    state_type: ClassVar[type[tuple]] = LongVqState
    code_sums: Tensor
    code_counts: Tensor
    passes: Tensor

    def __init__(
        self,
        dim: int,
        heads: int = 1,
        *,
        causal: bool = False,
        key_dim: int | None = None,
        value_dim: int | None = None,
        codebook_size: int = 512,
        window: int = 128,
        memory_size: int = 16,
        normalize: bool = True,
        quantize: bool = True,
        commitment: float = 1e-4,
        decay: float = 0.99,
        revive_below: float = 1.0,
    ):
        super().__init__(dim, heads, causal=causal)
        key_dim, value_dim = key_dim or max(heads, dim // 2), value_dim or 2 * dim
        if key_dim % heads or value_dim % heads:
            raise InputError(f"{key_dim=} and {value_dim=} must be multiples of heads={heads}")
        if codebook_size < 1 or window < 1 or memory_size < 1 or not 0 < decay < 1:
            raise InputError(
                f"{codebook_size=}, {window=} and {memory_size=} must be at least 1, {decay=} between 0 and 1"
            )
        self.key_dim, self.value_dim, self.window, self.codebook_size = key_dim, value_dim, window, codebook_size
        self.normalize, self.quantize, self.commitment = normalize, quantize, commitment
        self.decay, self.revive_below = decay, revive_below
        self.memory = DampedAverage(dim, memory_size, bidirectional=not causal)
        self.v_proj = nn.Linear(dim, value_dim)
        self.memory_proj = nn.Linear(dim, 2 * dim + key_dim + value_dim)
        self.h_proj = nn.Linear(value_dim, dim)
        self.key_scale = nn.Parameter(torch.empty(2, key_dim))
        self.key_offset = nn.Parameter(torch.zeros(2, key_dim))
        self.local_bias = nn.Parameter(torch.zeros(window))
        for linear in (self.v_proj, self.memory_proj, self.h_proj):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        nn.init.normal_(self.key_scale, std=1.0 if normalize else 0.02)
        size = key_dim // heads
        spread = size**-0.25 if normalize else 1.0
        self.register_buffer("code_sums", spread * torch.randn(heads, codebook_size, size))
        self.register_buffer("code_counts", torch.ones(heads, codebook_size))
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))

    @property
    def codebook(self) -> Float[Tensor, "heads codes key_dim"]:
        """The codewords: running sum over running count."""
        return precise(self.code_sums) / precise(self.code_counts).clamp_min(0.01).unsqueeze(-1)

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Tensor]) -> LongVqAttention:
        """MEGA's causal gated attention (``MovingAverageGatedAttention`` without its norm), one head, keys as they are.

        Sizes are read from the tensors. Its relative bias covers ``max_positions`` lags, which become the window.

        Raises:
            CheckpointError: a parameter is missing or has another shape.
        """
        try:
            value_dim, dim = state_dict["v_proj.weight"].shape
            bias = state_dict["rel_pos_bias.rel_pos_bias"]
            window = (bias.shape[0] + 1) // 2
            weights = {
                "key_scale": state_dict["gamma"],
                "key_offset": state_dict["beta"],
                "local_bias": bias[:window].flip(0),  # theirs is ordered from the farthest past to the farthest future
            }
            for ours, theirs in (("v_proj", "v_proj"), ("memory_proj", "mx_proj"), ("h_proj", "h_proj")):
                weights |= {f"{ours}.{part}": state_dict[f"{theirs}.{part}"] for part in ("weight", "bias")}
            average = {name.removeprefix("move."): w for name, w in state_dict.items() if name.startswith("move.")}
            layer = cls(
                dim,
                causal=True,
                key_dim=weights["key_scale"].shape[1],
                value_dim=value_dim,
                window=window,
                memory_size=average["gamma"].shape[1],
                codebook_size=1,
                normalize=False,
                quantize=False,
            )
            layer.memory = DampedAverage.from_authors(average, bidirectional=False)
            layer.load_state_dict(layer.state_dict() | weights)
        except KeyError as missing:
            raise CheckpointError(f"not a MEGA attention: it has no {missing}") from None
        except RuntimeError as problem:
            raise CheckpointError(f"the MEGA attention has other sizes: {str(problem).splitlines()[-1]}") from None
        return layer

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        self._check(x, context, mask, grid)
        gate, y = self.gate_and_value(x, mask=mask)
        return gate * y

    def gate_and_value(
        self, x: Float[Tensor, "batch time dim"], *, mask: Bool[Tensor, "batch keys"] | None = None
    ) -> tuple[Float[Tensor, "batch time dim"], Float[Tensor, "batch time dim"]]:
        """The gate ``u`` and the value ``silu(h + W_h (o * r))``, for a block with a gated residual."""
        parts, _ = self._project(x, mask, None)
        emit(self, "weights", lambda: self._weights(parts, mask))
        emit(self, "gate", lambda: parts.gate)
        if self.quantize:
            emit(self, "codes", lambda: parts.codes)
            emit(self, "loss", lambda: self.commitment * commitment_loss(parts.keys, parts.quantized, mask))
        mixed = self._mix(parts, mask)
        if self.training and self.quantize:
            self._follow(parts, mask)
        return parts.gate, self._finish(parts, mixed)

    def weights(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch heads time keys"]:
        """The softmax over quantised keys; gates and the moving average are not in it."""
        self._check(x, context, mask, grid)
        return self._weights(self._project(x, mask, None)[0], mask)

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> LongVqState:
        if not self.causal:
            raise self._lacks_step()
        weight = self.v_proj.weight
        device = device or weight.device
        dtype = torch.promote_types(dtype or weight.dtype, torch.float32)
        shape = (batch_size, self.heads, self.window)
        sums = torch.zeros(
            batch_size, self.heads, self.codebook_size, self.value_dim // self.heads, device=device, dtype=dtype
        )
        return LongVqState(
            memory=sums.new_zeros(batch_size, self.dim, self.memory.size),
            keys=sums.new_zeros(*shape, self.key_dim // self.heads),
            values=sums.new_zeros(*shape, self.value_dim // self.heads),
            codes=torch.full(shape, self.codebook_size, device=device),
            sums=sums,
            counts=sums.new_zeros(sums.shape[:3]),
        )

    def step(self, x: Float[Tensor, "batch time dim"], state: State) -> tuple[Float[Tensor, "batch time dim"], State]:
        gate, y, state = self.step_gate_and_value(x, state)
        return gate * y, state

    def step_gate_and_value(self, x: Float[Tensor, "batch time dim"], state: Any) -> tuple[Tensor, Tensor, Any]:
        """:meth:`gate_and_value` for the next positions of a stream, with the state after them.

        Raises:
            CapabilityError: the layer is not causal, or does not quantize.
        """
        self._check_stream(x, state)
        if not self.quantize:
            raise CapabilityError("keys that are not quantized cannot stream in constant space: use quantize=True")
        parts, memory = self._project(x, None, state.memory)
        q, k, v = parts.queries, parts.quantized, parts.values
        mixed, after = stream(q, k, v, parts.codes, self.codebook, self.local_bias, CodeState(*state[1:]))
        assert after is not None
        return parts.gate, self._finish(parts, mixed), LongVqState(memory, *after)

    def cost(self, batch: int, time: int) -> Cost:
        positions, keys_values = batch * time, self.key_dim + self.value_dim
        flops = 2 * positions * self.dim * (2 * self.value_dim + 2 * self.dim + keys_values)
        flops += self.memory.flops(batch, time)
        if not self.quantize:
            flops += 2 * positions * time * keys_values
            stored = positions * time * self.heads
        else:
            flops += 2 * positions * self.codebook_size * self.key_dim
            pairs = 0
            for start in range(0, time, self.window):
                near, far = reach(start, time, self.window, self.causal)
                met = near.stop - near.start + (self.codebook_size if far else 0)
                pairs += min(self.window, time - start) * met
            flops += 2 * batch * pairs * keys_values
            stored = positions * self.heads * self.codebook_size + batch * pairs * self.heads
        weights = sum(parameter.numel() for parameter in self.parameters())
        moved = positions * (6 * self.dim + 2 * keys_values) + stored + weights
        item = self.v_proj.weight.element_size()
        carried = self.dim * self.memory.size + (self.window + self.codebook_size) * self.value_dim
        carried += self.window * self.key_dim + self.heads * self.codebook_size
        state = batch * (max(4, item) * carried + 8 * self.heads * self.window) if self.causal else 0
        return Cost(flops=flops, bytes=item * moved, state=state)

    def _project(self, x: Tensor, mask: Tensor | None, memory: Tensor | None) -> tuple[_Parts, Tensor]:
        real = x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0.0)  # or padding would leak into the average
        average, memory = self.memory(real, memory)
        base = self.memory_proj(average)
        gate, z, r, h = base.split((self.dim, self.key_dim, self.value_dim, self.dim), -1)
        shared = F.silu(z).unsqueeze(2) * self.key_scale + self.key_offset
        q, k = shared.unflatten(-1, (self.heads, -1)).permute(2, 0, 3, 1, 4)
        size = q.shape[-1]
        if self.normalize:  # the scores' size ** -1/2 in equal parts on both sides
            q, k = F.layer_norm(q, (size,)) * size**0.25, F.layer_norm(k, (size,)) * size**-0.25
        v = F.silu(self.v_proj(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        codes, quantized = torch.zeros_like(k[..., 0], dtype=torch.long), k
        if self.quantize:
            codes = nearest_codes(k, self.codebook)
            quantized = k + (codewords(codes, self.codebook) - k).detach().to(k.dtype)
        return _Parts(q, k, quantized, codes, v, F.silu(r), h, gate.sigmoid()), memory

    def _mix(self, parts: _Parts, mask: Tensor | None) -> Tensor:
        if not self.quantize:
            return self._weights(parts, mask) @ parts.values
        q, k, v = parts.queries, parts.quantized, parts.values
        return linear_time(q, k, v, parts.codes, self.codebook, self.local_bias, causal=self.causal, mask=mask)

    def _finish(self, parts: _Parts, mixed: Tensor) -> Tensor:
        return F.silu(parts.h + self.h_proj(mixed.transpose(1, 2).flatten(2) * parts.r))

    def _weights(self, parts: _Parts, mask: Tensor | None) -> Tensor:
        return dense_weights(parts.queries, parts.quantized, self.local_bias, causal=self.causal, mask=mask)

    @torch.no_grad()
    def _follow(self, parts: _Parts, mask: Tensor | None) -> None:
        """Move the codebook towards the keys of a pass, by new tensors: the pass itself still needs the old ones."""
        keys, codes = precise(parts.keys), parts.codes
        sums, counts = update_codebook(
            precise(self.code_sums), precise(self.code_counts), keys, codes, decay=self.decay, mask=mask
        )
        batch, _, time, size = keys.shape
        real = torch.ones(batch * time, dtype=torch.bool, device=keys.device) if mask is None else mask.flatten()
        number, flat = real.sum(), keys.transpose(0, 1).reshape(self.heads, batch * time, size)
        share = number / self.codebook_size
        # evenly spread over the real keys, elsewhere in each pass; all codes start there
        picks = torch.arange(self.codebook_size, device=keys.device) * number // self.codebook_size
        picks = (~real).to(torch.uint8).argsort(stable=True)[(picks + 7919 * self.passes) % number.clamp_min(1)]
        dead = counts < (share / 10).clamp_max(self.revive_below)
        dead = (dead | (self.passes == 0)) & (number > 0)
        counts = torch.where(dead, share.clamp_min(1.0), counts)
        sums = torch.where(dead.unsqueeze(-1), flat[:, picks] * counts.unsqueeze(-1), sums)
        self.code_sums, self.code_counts = sums.to(self.code_sums.dtype), counts.to(self.code_counts.dtype)
        self.passes = self.passes + (number > 0)


class _Parts(NamedTuple):
    """What a pass works on; heads apart up to the values, together after them."""

    queries: Tensor
    keys: Tensor
    quantized: Tensor
    codes: Tensor
    values: Tensor
    r: Tensor
    h: Tensor
    gate: Tensor
