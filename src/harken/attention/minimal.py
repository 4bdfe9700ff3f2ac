"""Minimal attention: matrices collapsed into one, shared, or left out (arXiv 2410.13732)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.attention._base import Attention, Capabilities, Cost, KeyValueCache, ProjectedAttention
from harken.attention.softmax import allowed_pairs, softmax_weights
from harken.errors import InputError

QueryKey = Literal["separate", "collapsed", "symmetric", "cholesky"]
Value = Literal["separate", "collapsed", "none"]

# the authors' names of what becomes our stacked projection, by option
_THEIR_PARTS = {"unchanged": ("query", "key", "value"), "Wqk": ("qk", "value"), "Wqk+noWvWo": ("qk",)}


class MinimalAttention(ProjectedAttention):
    """Softmax attention with fewer matrices than four; the defaults leave one.

    A head weighs tokens by ``softmax(x_i W_Q W_K^T x_j^T / sqrt(head_dim))`` and mixes ``x_j W_V W_O``. With
    ``N = dim``:

    ============= ============ ==================================================== =============================
    option        choice       what becomes of the matrices                         parameters
    ============= ============ ==================================================== =============================
    ``query_key`` separate     ``W_Q`` and ``W_K``                                  ``2 N^2``
    ..            collapsed    ``W_K = 1``: exact for one head, weaker for more     ``N^2``
    ..            symmetric    ``W_K = W_Q``                                        ``N^2``
    ..            cholesky     ``T T^T`` on each head's slice of ``x``,             ``N (head_dim + 1) / 2``
                               ``T`` lower triangular: symmetric and positive
    ``value``     separate     ``W_V`` and ``W_O``                                  ``2 N^2``
    ..            collapsed    ``W_O = 1``: exact for one head                      ``N^2``
    ..            none         neither: outputs are weighted means of the inputs    none
    ============= ============ ==================================================== =============================

    A stream keeps what queries meet, and the values only where they are something else: ``collapsed`` with ``none``
    has half the usual cache. Means of inputs smooth from layer to layer, so keep the residual around them.

    Args:
        dim: channels of input and output.
        heads: parallel heads; ``dim`` must divide by it. The paper collapses for one head.
        causal: position ``t`` sees only positions up to ``t``.
        query_key: how tokens are compared.
        value: what is mixed.
        bias: whether the linear maps have one. Then ``collapsed`` is no longer exactly ``W_Q W_K^T``: the bias of the
            keys cancels in the softmax, that of the queries does not.

    Raises:
        InputError: an unknown choice.

    >>> layer = MinimalAttention(dim=16, heads=1)
    >>> layer(torch.randn(2, 7, 16)).shape, sum(p.numel() for p in layer.parameters())
    (torch.Size([2, 7, 16]), 256)
    """

    name: ClassVar[str] = "minimal"
    capabilities: ClassVar[Capabilities] = Capabilities()
    state_type: ClassVar[type[tuple]] = KeyValueCache

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        query_key: QueryKey = "collapsed",
        value: Value = "none",
        bias: bool = False,
    ):
        Attention.__init__(self, dim, heads, causal=causal)  # its own projections, fewer than ProjectedAttention's
        for option, choice, known in (("query_key", query_key, QueryKey), ("value", value, Value)):
            if choice not in get_args(known):
                raise InputError(f"{option}='{choice}' is unknown: one of {', '.join(get_args(known))}")
        self.query_key, self.value = query_key, value
        self.parts = {"separate": 2, "collapsed": 1, "symmetric": 1, "cholesky": 0}[query_key] + (value != "none")
        self.projection = nn.Linear(dim, self.parts * dim, bias=bias) if self.parts else None
        self.output = nn.Linear(dim, dim, bias=bias) if value == "separate" else None
        self.triangle: nn.Parameter | None = None
        if query_key == "cholesky":
            # drawn at 1 instead, scores saturate on the diagonal
            entries = torch.randn(heads, self.head_dim * (self.head_dim + 1) // 2)
            self.triangle = nn.Parameter(entries * self.head_dim**-0.5)
        for linear in (self.projection, self.output):
            if linear is not None:
                nn.init.xavier_uniform_(linear.weight)
                if bias:
                    nn.init.zeros_(linear.bias)

    @classmethod
    def from_authors(
        cls, state_dict: Mapping[str, Tensor], *, option: str, heads: int, causal: bool = False
    ) -> MinimalAttention:
        """A layer with the weights of the independent PyTorch version (the authors published no code).

        Args:
            state_dict: the weights of one of its attention layers.
            option: its ``modification``: ``unchanged``, ``Wqk``, ``Wqk+noWvWo`` or ``symmetry``.
            heads: its ``num_heads``.
            causal: position ``t`` sees only positions up to ``t``; theirs does not know the order.

        Raises:
            InputError: an unknown option, or weights that are another's.
        """
        parts = {**_THEIR_PARTS, "symmetry": ("value",)}.get(option)
        if parts is None:
            raise InputError(f"no option '{option}': one of {', '.join(_THEIR_PARTS)}, symmetry")
        values = "value" in parts
        names = [f"{part}.{kind}" for part in parts for kind in ("weight", "bias")]
        names += ["out.weight", "out.bias"] if values else []
        names += ["trainable_params"] if option == "symmetry" else []
        if set(names) != set(state_dict):
            raise InputError(f"expected the weights {', '.join(names)}, got {', '.join(sorted(state_dict))}")
        query_key: QueryKey = "collapsed"
        if option in ("unchanged", "symmetry"):
            query_key = "separate" if option == "unchanged" else "cholesky"
        dim = state_dict[f"{parts[0]}.weight"].shape[1]
        layer = cls(dim, heads, causal=causal, query_key=query_key, value="separate" if values else "none", bias=True)
        weights = {
            f"projection.{kind}": torch.cat([state_dict[f"{part}.{kind}"] for part in parts])
            for kind in ("weight", "bias")
        }
        if values:
            weights |= {f"output.{kind}": state_dict[f"out.{kind}"] for kind in ("weight", "bias")}
        if option == "symmetry":
            weights["triangle"] = state_dict["trainable_params"]
        layer.load_state_dict(weights)
        return layer

    def project(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What asks, what answers and what is mixed, ``(batch, heads, time, head_dim)`` each."""
        q, k, v = self._roles(x)
        if context is not None:
            _, k, v = self._roles(context)
        return q, k, v

    def _roles(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = self._split(x)
        made = [] if self.projection is None else [self._split(part) for part in self.projection(x).split(self.dim, -1)]
        if self.query_key == "cholesky":
            q = k = own @ self._triangles()
        elif self.query_key == "symmetric":
            q = k = made[0]
        else:
            q, k = made[0], made[1] if self.query_key == "separate" else own
        return q, k, own if self.value == "none" else made[-1]

    def merge(self, mixed: Tensor) -> Tensor:
        """Heads side by side again, through the output matrix where there is one."""
        mixed = mixed.transpose(1, 2).flatten(2)
        return mixed if self.output is None else self.output(mixed)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed_pairs(q, k, causal=self.causal, mask=mask))

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return softmax_weights(q, k, allowed_pairs(q, k, causal=self.causal, mask=mask))

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> KeyValueCache:
        if not self.causal:
            raise self._lacks_step()
        like = self._weight
        shape = (batch_size, self.heads, 0, self.head_dim)
        empty = torch.zeros(shape, device=device or like.device, dtype=dtype or like.dtype)
        return KeyValueCache(empty, empty)

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: KeyValueCache) -> tuple[Tensor, KeyValueCache]:
        state = state.append(k, v[:, :, :0] if self._keys_are_values else v)
        values = state.keys if self._keys_are_values else state.values
        allowed = None if q.shape[2] == 1 else allowed_pairs(q, state.keys, causal=True)
        return F.scaled_dot_product_attention(q, state.keys, values, attn_mask=allowed), state

    @property
    def _keys_are_values(self) -> bool:
        return self.query_key == "collapsed" and self.value == "none"

    def cost(self, batch: int, time: int) -> Cost:
        """The matrices that are left, and :meth:`mix_cost`."""
        weights = sum(parameter.numel() for parameter in self.parameters())
        square = self.parts + (self.value == "separate")
        products = square * self.dim**2 + (self.dim * self.head_dim if self.triangle is not None else 0)
        moved = (2 + self.parts) * batch * time * self.dim + weights
        made = Cost(flops=2 * batch * time * products, bytes=moved * self._item_size)
        return made + self.mix_cost(batch, time)

    def mix_cost(self, batch: int, time: int) -> Cost:
        values = batch * time * self.dim
        state = (1 if self._keys_are_values else 2) * values * self._item_size if self.causal else 0
        return Cost(flops=4 * values * time, bytes=4 * values * self._item_size, state=state)

    def _triangles(self) -> Float[Tensor, "heads head_dim head_dim"]:
        assert self.triangle is not None
        rows, columns = torch.tril_indices(self.head_dim, self.head_dim, device=self.triangle.device)
        whole = self.triangle.new_zeros(self.heads, self.head_dim, self.head_dim)
        return whole.index_put((torch.arange(self.heads, device=whole.device)[:, None], rows, columns), self.triangle)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    @property
    def _item_size(self) -> int:
        return self._weight.element_size()

    @property
    def _weight(self) -> Tensor:
        """The one there always is, whatever was left out."""
        if self.projection is not None:
            return self.projection.weight
        assert self.triangle is not None
        return self.triangle


def _reference(
    x: Tensor, compare: Tensor, value: Tensor, *, heads: int, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """One query of one head at a time: ``compare`` and ``value`` are the products ``W_Q W_K^T`` and ``W_V W_O`` of each
    head, ``(heads, dim, dim)``."""
    out = torch.zeros_like(x)
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            seen = [j for j in range(i + 1 if causal else x.shape[1]) if mask is None or bool(mask[b, j])]
            for h in range(heads):
                scores = x[b, i] @ compare[h] @ x[b, seen].T / (x.shape[-1] // heads) ** 0.5
                out[b, i] += scores.softmax(0) @ x[b, seen] @ value[h]
    return out
