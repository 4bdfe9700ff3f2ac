"""Deconstructed attention: softmax attention with one design principle relaxed at a time (arXiv 2510.11602)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.attention._base import Attention, Capabilities, Cost, KeyValueCache, ProjectedAttention
from harken.attention.softmax import allowed_pairs, softmax_weights
from harken.errors import InputError
from harken.layers.rotary import rotate

Variant = Literal["standard", "mlp", "approximate", "non-approximate", "rnd-emb-qk", "fixed-seq-qk", "static-emb-qk"]


class DeconstructedAttention(Attention):
    """One of the study's token mixers, chosen by ``variant``; all but ``mlp`` have ``4 dim^2`` parameters.

    ================== ===================== =======================================================================
    variant            relaxes               what it computes
    ================== ===================== =======================================================================
    standard           nothing               ``softmax(q k^T / sqrt(d)) v``
    mlp                mixing of tokens      ``W_down (silu(W_gate x) * W_up x)``, about ``4 dim / 3`` wide
    approximate        the exponential       ``1 + a + a^2 / 2`` in place of ``exp(a)``, ``a = q k / sqrt(d)``
    non-approximate    the dot product       ``softmax_j(silu(q_j) k_j / sqrt(d)) v_j``: one score per key
    rnd-emb-qk         the sequence          q, k from a constant random sequence, v from ``x``
    fixed-seq-qk       the sequence          q, k from a fixed text, v from ``x``
    static-emb-qk      the current layer     q, k from the embeddings of the tokens, v from ``x``
    ================== ===================== =======================================================================

    The last three take ``source=`` in ``forward``, ``step`` and ``weights``: what queries and keys come from, after
    whatever norm the block applies. It is ``(batch, time, dim)`` for ``static-emb-qk`` and ``(time, dim)``, the same
    for the whole batch, for the other two (in a model: what the same blocks make of the fixed sequence up to this
    layer). Without it ``static-emb-qk`` takes ``x``, as in a first layer, and ``rnd-emb-qk`` noise of its own. What a
    variant can do is in its instance's ``capabilities``. Hybrids are models with another variant in every layer.

    Args:
        dim: channels of input and output.
        heads: parallel heads; ``dim`` must divide by it.
        causal: position ``t`` sees only positions up to ``t``, as in the study.
        variant: one of the table.
        **options: of the variant, as its class documents them.

    Raises:
        InputError: an unknown variant.
        TypeError: an option that the variant does not have.

    >>> layer = DeconstructedAttention(dim=16, heads=4, causal=True, variant="non-approximate")
    >>> y, state = layer.step(torch.randn(2, 100, 16), layer.init_state(2))
    >>> y.shape, state.mean.shape
    (torch.Size([2, 100, 16]), torch.Size([2, 4, 4]))
    """

    name: ClassVar[str] = "deconstructed"
    variant: Variant = "standard"

    def __new__(cls, *args: Any, variant: Variant = "standard", **options: Any) -> Self:
        if cls is not DeconstructedAttention:
            return super().__new__(cls)
        if variant not in _VARIANTS:
            raise InputError(f"no variant '{variant}' of attention: one of {', '.join(_VARIANTS)}")
        module, _, name = _VARIANTS[variant].partition(":")
        return super().__new__(getattr(import_module(module), name))

    @classmethod
    def from_authors(
        cls, state_dict: Mapping[str, Tensor], *, heads: int, variant: Variant = "standard", **options: Any
    ) -> DeconstructedAttention:
        """A layer with the weights of a reference mixer.

        Args:
            state_dict: ``wq``, ``wk``, ``wv``, ``wo`` (in Based ``proj_q.weight`` to ``out_proj.weight``), or ``gate``,
                ``up`` and ``down``.
            heads: parallel heads.
            variant: which mixer they are of.
            **options: of the variant; ``causal=True`` as a rule.

        Raises:
            InputError: a weight is missing.
        """
        given = {_OUR_NAMES.get(name, name): tensor for name, tensor in state_dict.items()}
        names = ("gate", "up", "down") if variant == "mlp" else ("wq", "wk", "wv", "wo")
        missing = [name for name in names if name not in given]
        if missing:
            raise InputError(f"expected weights {', '.join(names)}, got {', '.join(sorted(state_dict))}")
        *parts, out = (given[name] for name in names)
        if variant == "mlp":
            options = {"hidden": out.shape[1], **options}
        layer = cls(out.shape[0], heads, variant=variant, **options)
        with torch.no_grad():
            layer.get_parameter("in_proj.weight").copy_(torch.cat(parts))
            layer.get_parameter("out_proj.weight").copy_(out)
        return layer


class StandardAttention(DeconstructedAttention, ProjectedAttention):
    """Softmax attention as the study's baseline has it, and what the variants share with it.

    Args:
        dim: channels of input and output.
        heads: parallel heads; ``dim`` must divide by it.
        causal: position ``t`` sees only positions up to ``t``.
        variant: the class's own.
        bias: whether the projections have one; off, so that all variants have as many parameters.
        rotary_base: turn queries and keys by their positions, 10000 as in the study's models; not when None.
        qk_norm: a root-mean-square norm on each head's queries and keys (the study's 1.7B models).
    """

    variant: Variant = "standard"

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        variant: Variant = "standard",
        bias: bool = False,
        rotary_base: float | None = None,
        qk_norm: bool = False,
    ):
        ProjectedAttention.__init__(self, dim, heads, causal=causal, bias=bias)
        if rotary_base is not None and self.head_dim % 2:
            raise InputError(f"rotary positions turn pairs of channels: head_dim={self.head_dim} must be even")
        self.rotary_base = rotary_base
        self.q_norm = nn.RMSNorm(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(self.head_dim) if qk_norm else nn.Identity()

    def project(
        self, x: Tensor, context: Tensor | None = None, start: int | Tensor = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, normed and turned; ``start`` is the position of ``x``'s first row."""
        q, k, v = super().project(x, context)
        return self._turned(self.q_norm(q), start), self._turned(self.k_norm(k), start), v

    def _turned(self, part: Tensor, start: int | Tensor) -> Tensor:
        if self.rotary_base is None:
            return part
        positions = torch.arange(part.shape[2], device=part.device)[None]
        positions = positions + (start[:, None] if isinstance(start, Tensor) else start)
        return rotate(part, positions, base=self.rotary_base)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed_pairs(q, k, causal=self.causal, mask=mask))

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return softmax_weights(q, k, allowed_pairs(q, k, causal=self.causal, mask=mask))

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> tuple:
        if not self.causal:
            raise self._lacks_step()
        weight = self.in_proj.weight
        return self._empty(batch_size, device or weight.device, dtype or weight.dtype)

    def step(self, x: Float[Tensor, "batch time dim"], state: Any) -> tuple[Float[Tensor, "batch time dim"], Any]:
        self._check_stream(x, state)
        mixed, state = self.mix_step(*self.project(x, start=self._position(state)), state)
        return self.merge(mixed), state

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        state = state.append(k, v)
        allowed = None if q.shape[2] == 1 else allowed_pairs(q, state.keys, causal=True)
        return F.scaled_dot_product_attention(q, state.keys, state.values, attn_mask=allowed), state

    def mix_cost(self, batch: int, time: int) -> Cost:
        values = batch * time * self.dim
        state = 2 * values * self._item_size if self.causal else 0
        return Cost(flops=4 * values * time, bytes=4 * values * self._item_size, state=state)

    state_type: ClassVar[type[tuple]] = KeyValueCache

    def _empty(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> tuple:
        empty = torch.zeros(batch_size, self.heads, 0, self.head_dim, device=device, dtype=dtype)
        return KeyValueCache(empty, empty)

    def _position(self, state: Any) -> int | Tensor:
        return state.keys.shape[2]


class Nothing(NamedTuple):
    """What a stream of the variant ``mlp`` carries: ``(batch, 0)``."""

    past: Tensor


class PositionMLP(DeconstructedAttention):
    """No mixing of positions at all: ``W_down (silu(W_gate x) * W_up x)``, position by position (equation 2).

    Args:
        dim: channels of input and output.
        heads: no meaning here; ``dim`` must divide by it all the same, so that variants can be exchanged.
        causal: no difference here.
        variant: the class's own.
        hidden: width between; None for ``4 dim / 3``, rounded, which matches the parameters of the other variants.
    """

    variant: Variant = "mlp"
    capabilities: ClassVar[Capabilities] = Capabilities(
        cross=False, constant_state=True, weights=False, normalized=False
    )
    state_type: ClassVar[type[tuple]] = Nothing

    def __init__(
        self, dim: int, heads: int, *, causal: bool = False, variant: Variant = "mlp", hidden: int | None = None
    ):
        super().__init__(dim, heads, causal=causal)
        self.hidden = round(4 * dim / 3) if hidden is None else hidden
        if self.hidden < 1:
            raise InputError(f"hidden={hidden} must be at least 1")
        self.in_proj = nn.Linear(dim, 2 * self.hidden, bias=False)
        self.out_proj = nn.Linear(self.hidden, dim, bias=False)

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        self._check(x, context, mask, grid)
        gate, up = self.in_proj(x).chunk(2, -1)
        return self.out_proj(F.silu(gate) * up)

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Nothing:
        if not self.causal:
            raise self._lacks_step()
        weight = self.in_proj.weight
        return Nothing(torch.zeros(batch_size, 0, device=device or weight.device, dtype=dtype or weight.dtype))

    def step(self, x: Float[Tensor, "batch time dim"], state: Any) -> tuple[Float[Tensor, "batch time dim"], Any]:
        self._check_stream(x, state)
        return self.forward(x), state

    def cost(self, batch: int, time: int) -> Cost:
        weights = 3 * self.dim * self.hidden
        moved = batch * time * (2 * self.dim + 3 * self.hidden) + weights
        return Cost(flops=2 * batch * time * weights, bytes=moved * self.in_proj.weight.element_size())


# variant -> where its class lives ("module:class"); those modules stand on this one
_VARIANTS: dict[str, str] = {
    "standard": "harken.attention.deconstructed:StandardAttention",
    "mlp": "harken.attention.deconstructed:PositionMLP",
    "approximate": "harken.attention.taylor:ApproximateAttention",
    "non-approximate": "harken.attention.cumulative:NonApproximateAttention",
    "rnd-emb-qk": "harken.attention.constant_maps:FixedQKAttention",
    "fixed-seq-qk": "harken.attention.constant_maps:FixedQKAttention",
    "static-emb-qk": "harken.attention.constant_maps:StaticQKAttention",
}
_OUR_NAMES = {"proj_q.weight": "wq", "proj_k.weight": "wk", "proj_v.weight": "wv", "out_proj.weight": "wo"}


def _reference(variant: str, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, mask: Tensor | None = None) -> Tensor:
    """The equations as they stand, one query of one head at a time; ``variant`` says what a pair weighs."""
    out = torch.zeros(*v.shape, dtype=v.dtype)
    for b in range(v.shape[0]):
        for h in range(v.shape[1]):
            for i in range(v.shape[2]):
                seen = [j for j in range(i + 1 if causal else v.shape[2]) if mask is None or bool(mask[b, j])]
                if variant == "non-approximate":
                    weights = (F.silu(q[b, h, seen]) * k[b, h, seen]).sum(-1).div(q.shape[-1] ** 0.5).exp()
                else:
                    a = k[b, h, seen] @ q[b, h, i] / q.shape[-1] ** 0.5
                    weights = 1 + a + a**2 / 2 if variant == "approximate" else a.exp()
                out[b, h, i] = (weights / weights.sum()) @ v[b, h, seen]
    return out
