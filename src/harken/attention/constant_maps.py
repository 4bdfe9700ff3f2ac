"""Attention whose maps do not depend on the layer's input: queries and keys from embeddings or a constant sequence."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from harken.attention._base import Capabilities, Cost
from harken.attention._chunked import checked_chunk_size, joined, segments
from harken.attention.deconstructed import StandardAttention, Variant
from harken.attention.softmax import allowed_pairs, softmax_weights
from harken.errors import InputError
from harken.observation import emit


class StaticQKAttention(StandardAttention):
    """Softmax attention whose queries and keys come from ``source``, the embeddings of the tokens themselves.

    ``softmax((e W_q) (e W_k)^T / sqrt(head_dim)) x W_v`` (equation 13 of the paper): the maps of all layers are known
    before the first has run. ``source`` is ``(batch, time, dim)``, ``x`` itself when None.
    """

    variant: Variant = "static-emb-qk"
    capabilities: ClassVar[Capabilities] = Capabilities(cross=False)

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
        source: Float[Tensor, "*shared positions dim"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        self._check(x, context, mask, grid)
        q, k, v = self._sourced(x, source, mask=mask)
        emit(self, "weights", lambda: self.mix_weights(q, k, mask).expand(x.shape[0], -1, -1, -1))
        return self.merge(self.mix(q, k, v, mask))

    def step(
        self,
        x: Float[Tensor, "batch time dim"],
        state: Any,
        *,
        source: Float[Tensor, "*shared positions dim"] | None = None,
    ) -> tuple[Float[Tensor, "batch time dim"], Any]:
        """The next positions of a stream; ``source`` at those positions."""
        self._check_stream(x, state)
        q, k, v = self._sourced(x, source, start=state.keys.shape[2])
        q, k = (part.expand(x.shape[0], -1, -1, -1) for part in (q, k))
        mixed, state = self.mix_step(q, k, v, state)
        return self.merge(mixed), state

    def weights(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
        source: Float[Tensor, "*shared positions dim"] | None = None,
    ) -> Float[Tensor, "batch heads time keys"]:
        self._check(x, context, mask, grid)
        q, k, _ = self._sourced(x, source, mask=mask)
        return self.mix_weights(q, k, mask).expand(x.shape[0], -1, -1, -1)

    def project(
        self, x: Tensor, context: Tensor | None = None, start: int | Tensor = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self._sourced(x, None, start=start)

    def _sourced(
        self, x: Tensor, source: Tensor | None, *, mask: Tensor | None = None, start: int | Tensor = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        source = x if source is None else source
        if source.shape != x.shape:
            raise InputError(f"expected source of shape {tuple(x.shape)}, got {tuple(source.shape)}")
        return self._from(source, x, start)

    def _from(self, source: Tensor, x: Tensor, start: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if source is x:
            return super().project(x, start=start)
        widths = (2 * self.dim, self.dim)
        weight_qk, weight_v = self.in_proj.weight.split(widths)
        bias_qk, bias_v = (None, None) if self.in_proj.bias is None else self.in_proj.bias.split(widths)
        qk = F.linear(source, weight_qk, bias_qk).unflatten(-1, (2, self.heads, self.head_dim))
        q, k = qk.permute(2, 0, 3, 1, 4).unbind(0)
        v = F.linear(x, weight_v, bias_v).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
        return self._turned(self.q_norm(q), start), self._turned(self.k_norm(k), start), v


class FixedQKAttention(StaticQKAttention):
    """Softmax attention whose queries and keys come from a constant sequence: the same maps whatever the input.

    ``softmax((X W_q) (X W_k)^T / sqrt(head_dim)) x W_v`` (equations 10 and 12 of the paper). ``source`` is the constant
    sequence as it arrives at this layer, ``(time, dim)`` or longer; in ``step`` its rows at the new positions. One map
    serves the whole batch. Under a mask each item's real positions count from its first one, wherever padding lies.

    Args:
        max_length: positions of the noise that ``rnd-emb-qk`` keeps for when there is no ``source``, drawn from a
            standard normal distribution, which is what a block's norm makes of noise of any size.
        seed: what that noise is drawn from.
        chunk_size: queries of a batch that meet the shared keys together; changes speed and memory, not the result.
        **options: of :class:`StandardAttention`.
    """

    variant: Variant = "rnd-emb-qk"

    stream: Tensor | None

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        variant: Variant = "rnd-emb-qk",
        max_length: int = 2048,
        seed: int = 0,
        chunk_size: int = 128,
        **options: Any,
    ):
        super().__init__(dim, heads, **options)
        if max_length < 1:
            raise InputError(f"max_length={max_length} must be at least 1")
        self.chunk_size = checked_chunk_size(chunk_size)
        self.variant = variant
        noise = torch.randn(max_length, dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("stream", noise if variant == "rnd-emb-qk" else None)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if v.shape[0] == 1 or mask is not None or q.shape[0] > 1:
            q, k = (part.expand(v.shape[0], -1, -1, -1) for part in (q, k))
            return super().mix(q, k, v, mask)
        side_by_side = v.permute(1, 2, 0, 3).flatten(2)  # one product with the values of the whole batch
        mixed, q, k = [], q[0], k[0]
        for part in segments(q.shape[1], self.chunk_size):
            keys = part.stop if self.causal else k.shape[1]
            allowed = allowed_pairs(q[None, :, part], k[None, :, :keys], causal=True) if self.causal else None
            weights = softmax_weights(q[None, :, part], k[None, :, :keys], allowed)[0]
            mixed.append((weights @ side_by_side[:, :keys]).unsqueeze(0))
        return joined(mixed)[0].unflatten(-1, (v.shape[0], -1)).permute(2, 0, 1, 3)

    def cost(self, batch: int, time: int) -> Cost:
        """Queries and keys are projected once for the whole batch, and meet once."""
        shared, values = time * self.dim, batch * time * self.dim
        pairs = sum(
            (part.stop - part.start) * (part.stop if self.causal and batch > 1 else time)
            for part in segments(time, self.chunk_size)
        )
        weights = sum(parameter.numel() for parameter in self.parameters())
        return Cost(
            flops=4 * self.dim * (shared + values) + 2 * self.dim * (1 + batch) * pairs,
            bytes=(weights + 3 * shared + 4 * values) * self._item_size,
            state=2 * values * self._item_size if self.causal else 0,
        )

    def _sourced(
        self, x: Tensor, source: Tensor | None, *, mask: Tensor | None = None, start: int | Tensor = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        time = x.shape[1]
        if source is None:
            if self.stream is None:
                raise InputError("'fixed-seq-qk' takes queries and keys from a text of yours: pass its rows as source=")
            source = self.stream[start : start + time]
            if source.shape[0] < time:
                raise InputError(f"{start + time} positions are more than max_length={self.stream.shape[0]}")
        if source.ndim != 2 or source.shape[0] < time or source.shape[1] != self.dim:
            raise InputError(f"expected source of shape ({time} or more, {self.dim}), got {tuple(source.shape)}")
        q, k, v = self._from(source[None, :time], x, start)
        if mask is None:
            return q, k, v
        places = (mask.cumsum(1) - 1).clamp_min(0)
        return q[0][:, places].transpose(0, 1), k[0][:, places].transpose(0, 1), v
