"""Softmax attention, fused: every mechanism's yardstick (Vaswani et al., arXiv 1706.03762)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.attention._base import Capabilities, Cost, KeyValueCache, ProjectedAttention, State
from harken.attention.cache import CachePolicy, FullCache, parse_cache
from harken.errors import InputError
from harken.layers.rotary import rotate


class SoftmaxFamily(ProjectedAttention):
    """Base of mechanisms that are softmax attention over some of the pairs, with what language models ask of them.

    Args:
        dim: channels of input and output.
        heads: parallel heads; ``dim`` must divide by it unless ``head_dim`` is given.
        causal: position ``t`` sees only positions up to ``t``.
        bias: whether the projections have one.
        head_dim: channels of a head; ``heads * head_dim`` may differ from ``dim``.
        kv_heads: heads of keys and values, each shared by ``heads // kv_heads`` heads of queries.
        rotary_base: turn queries and keys by their positions (:func:`harken.layers.rotary.rotate`), 10000 as a rule.
        rotary_scale: positions are divided by it, to reach beyond the context that was trained on.
        cache: what a stream keeps, a policy of :mod:`harken.attention.cache` or its name (``"heavy-32-32"``); what the
            span needs when None.

    Raises:
        InputError: heads that do not fit, rotary positions for an odd ``head_dim``, a cache for what cannot stream.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        bias: bool = True,
        head_dim: int | None = None,
        kv_heads: int | None = None,
        rotary_base: float | None = None,
        rotary_scale: float = 1.0,
        cache: CachePolicy | str | None = None,
    ):
        if head_dim is not None and (head_dim < 1 or heads < 1):
            raise InputError(f"heads={heads} and head_dim={head_dim} must be at least 1")
        super().__init__(dim, heads if head_dim is None else 1, causal=causal, bias=bias)
        self.heads, self.head_dim = heads, head_dim or dim // heads
        self.kv_heads = heads if kv_heads is None else kv_heads
        if self.kv_heads < 1 or heads % self.kv_heads:
            raise InputError(f"heads={heads} must be a multiple of kv_heads={self.kv_heads}")
        if rotary_base is not None and self.head_dim % 2:
            raise InputError(f"rotary positions turn pairs of channels: head_dim={self.head_dim} must be even")
        if cache is not None and not causal:
            raise InputError("a cache is for streams: build the layer with causal=True, or without cache")
        self.rotary_base, self.rotary_scale = rotary_base, rotary_scale
        width, kv_width = heads * self.head_dim, self.kv_heads * self.head_dim
        if width + 2 * kv_width != 3 * dim or width != dim:
            self.in_proj = nn.Linear(dim, width + 2 * kv_width, bias=bias)
            self.out_proj = nn.Linear(width, dim, bias=bias)
            nn.init.xavier_uniform_(self.in_proj.weight)
            if bias:
                nn.init.zeros_(self.in_proj.bias)
                nn.init.zeros_(self.out_proj.bias)
        self.use_cache(parse_cache(cache) if isinstance(cache, str) else cache or FullCache())

    def use_cache(self, policy: CachePolicy) -> None:
        """Keep from now on what a policy keeps; a stream that has begun cannot go on with its old state."""
        self.cache = policy
        self.__dict__["state_type"] = policy.state_type

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Tensor], *, heads: int, **options: Any) -> Self:
        """A layer with the weights of a LLaMA-style one: ``q_proj``, ``k_proj``, ``v_proj`` and ``o_proj``.

        Args:
            state_dict: their parameters, by those names.
            heads: heads of queries; those of keys and values follow from the shapes.
            **options: of the mechanism; ``rotary_base`` as a rule.

        Raises:
            InputError: a projection is missing, or has another shape.
        """
        parts = [state_dict.get(f"{name}_proj.weight") for name in ("q", "k", "v", "o")]
        if any(part is None for part in parts):
            raise InputError(f"expected q_proj, k_proj, v_proj and o_proj weights, got {', '.join(sorted(state_dict))}")
        q, k, v, o = (part for part in parts if part is not None)
        dim, head_dim = q.shape[1], q.shape[0] // heads
        options = {"bias": "q_proj.bias" in state_dict, "kv_heads": k.shape[0] // head_dim, **options}
        layer = cls(dim, heads, head_dim=head_dim if head_dim * heads != dim else None, **options)
        weights = {"in_proj.weight": torch.cat((q, k, v)), "out_proj.weight": o}
        if options["bias"]:
            weights["in_proj.bias"] = torch.cat([state_dict[f"{name}_proj.bias"] for name in ("q", "k", "v")])
            weights["out_proj.bias"] = state_dict.get("o_proj.bias", torch.zeros(dim))
        try:
            layer.load_state_dict(weights, strict=False)
        except RuntimeError as problem:
            raise InputError(f"the projections do not fit heads={heads}: {' '.join(str(problem).split())}") from None
        return layer

    def project(
        self, x: Tensor, context: Tensor | None = None, start: int | Tensor = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``(batch, heads, ...)``, keys and values ``(batch, kv_heads, ...)``, turned by position if so built.

        ``start`` is the position of ``x``'s first row, one for all or one for each of the batch.
        """
        q, k, v = self._projected(x, context)
        if self.rotary_base is None:
            return q, k, v
        turned = []
        for part in (q, k):
            positions = torch.arange(part.shape[2], device=part.device)[None]
            positions = positions + (start[:, None] if isinstance(start, Tensor) else start)
            turned.append(rotate(part, positions, base=self.rotary_base, scale=self.rotary_scale))
        return turned[0], turned[1], v

    def _projected(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if self.kv_heads == self.heads and self.heads * self.head_dim == self.dim:
            return super().project(x, context)
        widths = [self.heads * self.head_dim, self.kv_heads * self.head_dim, self.kv_heads * self.head_dim]
        if context is None:
            q, k, v = self.in_proj(x).split(widths, -1)
        else:
            weights = self.in_proj.weight.split(widths)
            biases = (None, None, None) if self.in_proj.bias is None else self.in_proj.bias.split(widths)
            q, k, v = (F.linear(of, w, b) for of, w, b in zip((x, context, context), weights, biases, strict=True))
        heads = (self.heads, self.kv_heads, self.kv_heads)
        q, k, v = (part.unflatten(-1, (h, -1)).transpose(1, 2) for part, h in zip((q, k, v), heads, strict=True))
        return q, k, v

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> tuple:
        if not self.causal:
            raise self._lacks_step()
        weight = self.in_proj.weight
        shape = (batch_size, self.kv_heads, 0, self.head_dim)
        return self.cache.init_state(torch.zeros(shape, device=device or weight.device, dtype=dtype or weight.dtype))

    def step(
        self,
        x: Float[Tensor, "batch time dim"],
        state: State,
        *,
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time dim"], State]:
        """The next positions of a stream; those that ``mask`` calls padding (False) are never seen by later ones."""
        self._check_stream(x, state)
        self._check(x, None, mask)
        q, k, v = self.project(x, start=self.cache.seen(state))
        mixed, state = self.cache.step(q, k, v, state, mask)
        return self.merge(mixed), state

    def cost(self, batch: int, time: int) -> Cost:
        """The projections and :meth:`mix_cost`."""
        weights = sum(parameter.numel() for parameter in self.parameters())
        width = self.in_proj.out_features + self.out_proj.in_features
        moved = batch * time * (2 * self.dim + width) + weights
        flops = 2 * batch * time * (self.in_proj.weight.numel() + self.out_proj.weight.numel())
        return Cost(flops=flops, bytes=self._item_size * moved) + self.mix_cost(batch, time)

    def _mix_cost(self, batch: int, time: int, flops: int) -> Cost:
        """For fused kernels, which read q, k, v and write the mixed values: no scores leave the processor's cache."""
        values = 2 * batch * time * (self.heads + self.kv_heads) * self.head_dim
        state = 0
        if self.causal:
            state = self.cache.size(time, batch, self.kv_heads, self.head_dim, self._item_size)
        return Cost(flops=flops, bytes=values * self._item_size, state=state)


class SoftmaxAttention(SoftmaxFamily):
    """Scaled dot-product attention, ``softmax(q k^T / sqrt(head_dim)) v``, through PyTorch's fused kernel.

    Takes the options of :class:`SoftmaxFamily`.

    >>> layer = SoftmaxAttention(dim=16, heads=4, causal=True)
    >>> layer(torch.randn(2, 7, 16)).shape
    torch.Size([2, 7, 16])
    """

    name: ClassVar[str] = "softmax"
    capabilities: ClassVar[Capabilities] = Capabilities()
    state_type: ClassVar[type[tuple]] = KeyValueCache

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        gqa = self.kv_heads != self.heads
        if mask is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=gqa)
        allowed = allowed_pairs(q, k, causal=self.causal, mask=mask)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, enable_gqa=gqa)

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return softmax_weights(q, k, allowed_pairs(q, k, causal=self.causal, mask=mask))

    def mix_cost(self, batch: int, time: int) -> Cost:
        # the fused kernel skips about half of a causal pass, which the counter (and so we) does not credit
        return self._mix_cost(batch, time, 4 * batch * time * time * self.heads * self.head_dim)


def allowed_pairs(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch kv_heads keys head_dim"],
    *,
    causal: bool = False,
    mask: Bool[Tensor, "batch keys"] | None = None,
) -> Bool[Tensor, "#batch 1 #time keys"] | None:
    """Which (query, key) pairs may meet, broadcastable to ``(batch, heads, time, keys)``; None when all may.

    In causal order the last query meets the last key: fewer queries than keys are the end of a stream.
    """
    allowed = None if mask is None else mask[:, None, None, :]
    if causal:
        time, keys = q.shape[2], k.shape[2]
        past = torch.ones(1, 1, time, keys, dtype=torch.bool, device=q.device).tril(keys - time)
        allowed = past if allowed is None else past & allowed
    return allowed


def softmax_weights(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch kv_heads keys head_dim"],
    allowed: Bool[Tensor, "#batch #heads #time keys"] | None = None,
) -> Float[Tensor, "batch heads time keys"]:
    """``softmax(q k^T / sqrt(head_dim))`` written out; a row with nothing allowed is all zeros."""
    if k.shape[1] != q.shape[1]:
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if allowed is None:
        return scores.softmax(-1)
    # the lowest finite score, not -inf, so that an empty row has a gradient (of zero) instead of NaN
    weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(~allowed, 0.0)


def _reference(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, mask: Tensor | None = None) -> Tensor:
    """Attention as the textbook writes it, one query of one head at a time; what the fused form is compared with."""
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=v.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for t in range(q.shape[2]):
                visible = torch.ones(k.shape[2], dtype=torch.bool) if mask is None else mask[b].clone()
                if causal:
                    visible[t + 1 :] = False
                scores = k[b, h, visible] @ q[b, h, t] / q.shape[-1] ** 0.5
                out[b, h, t] = scores.softmax(0) @ v[b, h, visible]
    return out
