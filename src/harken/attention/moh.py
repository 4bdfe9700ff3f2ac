"""Mixture-of-Head attention: every position chooses its heads (arXiv 2410.11842)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.attention._base import Capabilities, Cost, KeyValueCache, State
from harken.attention._local import EVERYTHING, local_attention
from harken.attention.softmax import SoftmaxFamily, allowed_pairs, softmax_weights
from harken.errors import InputError
from harken.observation import emit

Router = Literal["learned", "norm"]
# queries of one head that go together in causal order: each lot reads the keys up to its last query
_LOT = 256
# keys from which on skipping heads was faster than the fused kernel over all of them (one CPU thread, half the heads)
_SPARSE_FROM, _CAUSAL_SPARSE_FROM = 1024, 4096


class MoHAttention(SoftmaxFamily):
    """Softmax attention in which each position uses the shared heads and the best ``routed_heads`` of the others.

    ``y = sum_h g_h head_h W_h``: the gates ``g`` of a position weigh its heads, and are zero for those not chosen. With
    the *learned* router (equations 5 to 7 of the paper, with the scale of the released code)

    - routed: the softmax of ``x W_r`` over the routed heads, the largest ``K`` kept, made to sum to ``K``;
    - shared: ``H_s softmax(x W_s)``;
    - and each kind times its part of ``2 softmax(x W_b)``,

    so that equal logits with all heads chosen are plain multi-head attention. The *norm* router has no parameters: the
    routed heads with the longest queries, with a gate of 1, as a trained model is converted; while training the choice
    has the gradient of the softmax of those lengths (straight through).

    Training emits ``loss``: ``balance_weight`` times the load-balance term of the layer (the paper averages the layers:
    divide the weight by their number). ``routing`` is the gates, ``(batch, time, heads)``. :meth:`weights` is each
    head's own softmax matrix, before its gate. From ``sparse_from`` keys on, only the chosen heads are computed,
    head by head on the rows that chose it; below, and under ``torch.compile``, all heads are, and gated.

    Args:
        dim: channels of input and output.
        heads: parallel heads, shared and routed together.
        causal: position ``t`` sees only positions up to ``t``.
        shared_heads: heads that every position uses, the first ones; a quarter (norm router: half) when None.
        routed_heads: heads a position chooses of the others; a quarter of all when None; 0 when all are shared.
        router: ``learned`` or ``norm``.
        balance_weight: of the load-balance term in the emitted loss.
        sparse_from: keys from which on only the chosen heads are computed; changes speed, not the result. When None,
            where that began to save time on a CPU: 1024, and 4096 in causal order, since rows that skip positions
            cannot use the kernel's causal order.
        **options: of :class:`~harken.attention.softmax.SoftmaxFamily`.

    Raises:
        InputError: a split of the heads that is none, or an unknown router.

    >>> layer = MoHAttention(dim=32, heads=8, shared_heads=2, routed_heads=2)
    >>> gates = layer.route(torch.randn(1, 5, 32))
    >>> (gates > 0).sum(-1)
    tensor([[4, 4, 4, 4, 4]])
    """

    name: ClassVar[str] = "moh"
    capabilities: ClassVar[Capabilities] = Capabilities()
    state_type: ClassVar[type[tuple]] = KeyValueCache

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        shared_heads: int | None = None,
        routed_heads: int | None = None,
        router: Router = "learned",
        balance_weight: float = 0.01,
        sparse_from: int | None = None,
        **options: Any,
    ):
        super().__init__(dim, heads, causal=causal, **options)
        if router not in ("learned", "norm"):
            raise InputError(f"router='{router}' is unknown: 'learned' or 'norm'")
        if shared_heads is None:
            shared_heads = max(1, heads // (2 if router == "norm" else 4))
        if routed_heads is None:
            routed_heads = min(heads - shared_heads, max(1, heads // 4))
        others = heads - shared_heads
        if not 0 <= shared_heads <= heads or not min(1, others) <= routed_heads <= others:
            raise InputError(
                f"shared_heads={shared_heads} and routed_heads={routed_heads} do not split heads={heads}: "
                "choose at least one of the heads that are not shared, and none when all are"
            )
        self.shared_heads, self.routed_heads = shared_heads, routed_heads
        self.router, self.balance_weight, self.sparse_from = router, balance_weight, sparse_from
        learned = router == "learned"
        self.routed = nn.Linear(dim, others, bias=False) if learned and others else None
        self.shared = nn.Linear(dim, shared_heads, bias=False) if learned and shared_heads > 1 else None
        self.between = nn.Linear(dim, 2, bias=False) if learned and others and shared_heads else None

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Tensor], *, heads: int, **options: Any) -> Self:
        """A layer with the authors' weights: ``qkv``, ``proj``, ``wg``, ``wg_0``, ``wg_1``, or a LLaMA layer's.

        Shared heads follow from the shapes of the learned router. A LLaMA layer (``q_proj`` ...) gets the norm router.

        Args:
            state_dict: their parameters, by those names.
            heads: heads in all.
            **options: of the mechanism: ``routed_heads``, ``causal``, ``rotary_base`` ...

        Raises:
            InputError: parameters are missing, or do not fit.
        """
        if "qkv.weight" not in state_dict:
            return super().from_authors(state_dict, heads=heads, **{"router": "norm", **options})
        if "proj.weight" not in state_dict:
            raise InputError(f"expected qkv and proj weights, got {', '.join(sorted(state_dict))}")
        width, dim = state_dict["qkv.weight"].shape
        head_dim = width // 3 // heads
        others = state_dict["wg.weight"].shape[0] if "wg.weight" in state_dict else 0
        layer = cls(
            dim,
            heads,
            head_dim=None if head_dim * heads == dim else head_dim,
            shared_heads=heads - others,
            **options,
        )
        ours = {"qkv": "in_proj", "proj": "out_proj", "wg": "routed", "wg_0": "between", "wg_1": "shared"}
        names = {f"{theirs}.{kind}": f"{our}.{kind}" for theirs, our in ours.items() for kind in ("weight", "bias")}
        weights = {names[name]: tensor for name, tensor in state_dict.items() if name in names}
        if layer.in_proj.bias is not None:  # theirs may have a bias behind the heads only
            weights.setdefault("in_proj.bias", torch.zeros(width))
        try:
            layer.load_state_dict(weights)
        except RuntimeError as problem:
            raise InputError(f"the parameters do not fit heads={heads}: {' '.join(str(problem).split())}") from None
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
        q, k, v = self.project(x, context)
        gates, shares = self._gates(x, q)
        emit(self, "weights", lambda: self.mix_weights(q, k, mask))
        emit(self, "routing", gates)
        if self.training and shares is not None:
            real = mask if context is None else None
            emit(self, "loss", lambda: self.balance_weight * self._balance(gates, shares, real))
        if self._is_sparse(k.shape[2]):
            mixed = moh_attention(q, k, v, gates, self.shared_heads, causal=self.causal, mask=mask)
        else:
            mixed = self.mix(q, k, v, mask) * gates.transpose(1, 2).unsqueeze(-1).to(v.dtype)
        return self.merge(mixed)

    def step(
        self,
        x: Float[Tensor, "batch time dim"],
        state: State,
        *,
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time dim"], State]:
        self._check_stream(x, state)
        self._check(x, None, mask)
        q, k, v = self.project(x, start=self.cache.seen(state))
        gates, _ = self._gates(x, q)
        after: Any
        if isinstance(state, KeyValueCache) and self._is_sparse(state.keys.shape[2] + q.shape[2]):
            after = state.append(k, v, mask)
            mixed = moh_attention(q, after.keys, after.values, gates, self.shared_heads, causal=True, mask=after.real)
        else:
            mixed, after = self.cache.step(q, k, v, state, mask)
            mixed = mixed * gates.transpose(1, 2).unsqueeze(-1).to(v.dtype)
        return self.merge(mixed), after

    def route(self, x: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time heads"]:
        """The gates of all heads, shared ones first; zero for heads not chosen."""
        return self._gates(x, self.project(x)[0])[0]

    def load_balance(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, ""]:
        """``H_r^2 mean_e(p_e c_e)``: mean probability of a routed head times the share of positions that chose it.

        ``routed_heads`` when the load is even, more when some heads are crowded. Padding does not count.

        Raises:
            InputError: all heads are shared.
        """
        gates, shares = self._gates(x, self.project(x)[0])
        if shares is None:
            raise InputError("all heads are shared: there is no load to balance")
        return self._balance(gates, shares, mask)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """All heads, before their gates."""
        gqa = self.kv_heads != self.heads
        if mask is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=gqa)
        allowed = allowed_pairs(q, k, causal=self.causal, mask=mask)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, enable_gqa=gqa)

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return softmax_weights(q, k, allowed_pairs(q, k, causal=self.causal, mask=mask))

    def cost(self, batch: int, time: int) -> Cost:
        routers = sum(r.weight.numel() for r in (self.routed, self.shared, self.between) if r is not None)
        return super().cost(batch, time) + Cost(flops=2 * batch * time * routers, bytes=0)

    def mix_cost(self, batch: int, time: int) -> Cost:
        """With every routed head chosen equally often; what is computed depends on the input only in its order."""
        rows = self.shared_heads * time
        pairs = self.heads * time * time
        if self._is_sparse(time):
            chosen = time * self.routed_heads / (self.heads - self.shared_heads)  # rows of one head
            seen = min(_LOT, chosen) / 2 * time / chosen + time / 2 if self.causal else time
            pairs = rows * time + round(time * self.routed_heads * seen)
        return self._mix_cost(batch, time, 4 * batch * pairs * self.head_dim)

    def extra_repr(self) -> str:
        """With the split of the heads."""
        return f"{super().extra_repr()}, shared_heads={self.shared_heads}, routed_heads={self.routed_heads}"

    def _is_sparse(self, keys: int) -> bool:
        start = self.sparse_from
        if start is None:
            start = _CAUSAL_SPARSE_FROM if self.causal else _SPARSE_FROM
        # rows per head depend on the input, which no compiled graph can hold
        return (
            self.shared_heads + self.routed_heads < self.heads and keys >= start and not torch.compiler.is_compiling()
        )

    def _gates(self, x: Tensor, q: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gates, and the routed heads' shares before the choice (None when there is none), in float32 at least."""
        batch, time, _ = x.shape
        others = self.heads - self.shared_heads
        ones = torch.ones(batch, time, self.shared_heads, device=x.device, dtype=_wide(x.dtype))
        shared = ones if self.shared is None else self.shared_heads * _softmax(self.shared(x))
        if not others:
            return shared, None
        if self.routed is not None:
            logits = self.routed(x).to(ones.dtype)
        else:
            logits = q[:, self.shared_heads :].to(ones.dtype).norm(dim=-1).transpose(1, 2)
            if others > 1:  # the spread changes the gradient only, not the choice
                logits = logits / logits.var(-1, keepdim=True).clamp_min(1e-12).sqrt()
        shares = logits.softmax(-1)
        # a stable order, so that ties fall the same way everywhere
        best = shares.sort(dim=-1, descending=True, stable=True).indices[..., : self.routed_heads]
        chosen = torch.zeros_like(shares).scatter(-1, best, 1.0)
        if self.router == "norm":
            return torch.cat((shared, chosen * (1 + (shares - shares.detach()))), -1), shares
        routed = shares * chosen
        routed = self.routed_heads * routed / routed.sum(-1, keepdim=True).clamp_min(torch.finfo(routed.dtype).eps)
        if self.between is not None:
            first, second = (2 * _softmax(self.between(x))).split(1, -1)
            shared, routed = first * shared, second * routed
        return torch.cat((shared, routed), -1), shares

    def _balance(self, gates: Tensor, shares: Tensor, mask: Tensor | None) -> Tensor:
        chosen = (gates[..., self.shared_heads :] > 0).to(shares.dtype)
        if mask is None:
            mask = torch.ones(shares.shape[:2], dtype=torch.bool, device=shares.device)
        real = mask.unsqueeze(-1)
        count = real.sum().clamp_min(1)
        share, load = ((part * real).sum((0, 1)) / count for part in (shares, chosen))
        return (share * load).mean() * shares.shape[-1] ** 2


def moh_attention(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch kv_heads keys head_dim"],
    v: Float[Tensor, "batch kv_heads keys value_dim"],
    gates: Float[Tensor, "batch time heads"],
    shared_heads: int = 0,
    *,
    causal: bool = False,
    mask: Bool[Tensor, "batch keys"] | None = None,
) -> Float[Tensor, "batch heads time value_dim"]:
    """Softmax attention times its gates, computed where a gate is positive and in all of the first ``shared_heads``.

    In causal order the last query meets the last key.

    >>> q = k = v = torch.randn(1, 4, 6, 8)
    >>> gates = torch.tensor([2.0, 0.0, 1.0, 0.0]).expand(1, 6, 4)
    >>> moh_attention(q, k, v, gates)[0, 1].any()
    tensor(False)
    """
    heads = q.shape[1]
    group = heads // k.shape[1]
    if q.shape[2] == 1:
        return _single(q, k, v, gates, mask)
    parts = []
    if shared_heads:
        kv = [x[:, : -(-shared_heads // group)].repeat_interleave(group, 1) if group > 1 else x for x in (k, v)]
        first = [x[:, :shared_heads] for x in (q, *kv)]
        if causal:
            mixed = local_attention(first[0], first[1], first[2], EVERYTHING, causal=True, mask=mask)
        else:
            allowed = None if mask is None else mask[:, None, None]
            mixed = F.scaled_dot_product_attention(first[0], first[1], first[2], attn_mask=allowed)
        parts.append(mixed * gates[..., :shared_heads].transpose(1, 2).unsqueeze(-1).to(v.dtype))
    if shared_heads < heads:
        parts.append(_routed(q, k, v, gates, shared_heads, causal=causal, mask=mask))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _routed(
    q: Tensor, k: Tensor, v: Tensor, gates: Tensor, shared: int, *, causal: bool, mask: Tensor | None
) -> Tensor:
    """The routed heads, each on the rows that chose it."""
    batch, heads, time, keys = *q.shape[:3], k.shape[2]
    group, others = heads // k.shape[1], heads - shared
    gates = gates[..., shared:].transpose(1, 2)
    of, head, row = (gates > 0).nonzero(as_tuple=True)  # in the order of batch, head, position
    queries = q[:, shared:][of, head, row]
    at = row + keys - time
    counts = (gates > 0).sum(-1).flatten().tolist()
    lots, start = [], 0
    for number, count in enumerate(counts):
        size = _LOT if causal else max(count, 1)
        lots += [(number, begin, min(begin + size, start + count)) for begin in range(start, start + count, size)]
        start += count
    reach = (at[[stop - 1 for *_, stop in lots]] + 1).tolist() if causal and lots else [keys] * len(lots)
    mixed = []
    for (number, begin, stop), end in zip(lots, reach, strict=True):
        b, h = number // others, (shared + number % others) // group
        near_k, near_v = (x[b : b + 1, h : h + 1, :end] for x in (k, v))
        allowed = None if mask is None else mask[b : b + 1, None, None, :end]
        if causal and time > 1:
            past = torch.arange(end, device=q.device) <= at[begin:stop, None]
            allowed = past[None, None] if allowed is None else allowed & past
        lot = queries[None, None, begin:stop]
        mixed.append(F.scaled_dot_product_attention(lot, near_k, near_v, attn_mask=allowed)[0, 0])
    out = v.new_zeros(batch, others, time, v.shape[-1])
    if not mixed:
        return out
    weighed = torch.cat(mixed) * gates[of, head, row].unsqueeze(-1).to(v.dtype)
    return out.index_put((of, head, row), weighed)


def _single(q: Tensor, k: Tensor, v: Tensor, gates: Tensor, mask: Tensor | None) -> Tensor:
    """One position: runs of heads that it chose, as views of the cache."""
    group = q.shape[1] // k.shape[1]
    out = v.new_zeros(*q.shape[:3], v.shape[-1])
    for b, chosen in enumerate((gates[:, 0] > 0).tolist()):
        allowed = None if mask is None else mask[b : b + 1, None, None]
        head = 0
        while head < len(chosen):
            stop = head + 1
            while group == 1 and chosen[head] and stop < len(chosen) and chosen[stop]:
                stop += 1
            if chosen[head]:
                near_k, near_v = (x[b : b + 1, head // group : (stop - 1) // group + 1] for x in (k, v))
                mixed = F.scaled_dot_product_attention(q[b : b + 1, head:stop], near_k, near_v, attn_mask=allowed)
                out[b, head:stop] = mixed[0] * gates[b, 0, head:stop, None, None].to(v.dtype)
            head = stop
    return out


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _softmax(logits: Tensor) -> Tensor:
    return logits.to(_wide(logits.dtype)).softmax(-1)


def _reference(
    q: Tensor, k: Tensor, v: Tensor, gates: Tensor, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """Every head of every query as the textbook writes it, times its gate."""
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=v.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            shared_by = h // (q.shape[1] // k.shape[1])
            for t in range(q.shape[2]):
                visible = torch.ones(k.shape[2], dtype=torch.bool) if mask is None else mask[b].clone()
                if causal:
                    visible[t + 1 + k.shape[2] - q.shape[2] :] = False
                scores = k[b, shared_by, visible] @ q[b, h, t] / q.shape[-1] ** 0.5
                out[b, h, t] = gates[b, t, h] * (scores.softmax(0) @ v[b, shared_by, visible])
    return out
