"""Sparsifiner: attend only to the pairs that a small low-rank predictor picks for each image (arXiv 2303.13755)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.attention._base import Capabilities, Cost, ProjectedAttention
from harken.attention._connectivity import ConnectivityPredictor, in_order
from harken.attention.softmax import softmax_weights
from harken.errors import CheckpointError, InputError
from harken.observation import emit

# numbers of gathered keys and values that stay in the cache while a group of query blocks uses them
_GATHERED = 1 << 21


class Pruned(NamedTuple):
    """A grid from which tokens were taken.

    ``positions``, ``(batch, time)``, say where in the whole grid each token that is left lies (None: in its old place,
    the others are masked); ``total`` is the number of tokens there were, of which each query keeps its share (None: it
    keeps its share of what is left); ``zeroed`` the number of removed tokens that the class token still sees, with a
    key and value of zero, as in the released code.
    """

    positions: Tensor | None = None
    total: int | None = None
    zeroed: int = 0


WHOLE = Pruned()


class SparsifinerAttention(ProjectedAttention):
    """Softmax attention on a part of the pairs, chosen per image, head and query by a :class:`ConnectivityPredictor`.

    Every query attends to the ``ceil(keep * time)`` keys of the largest guess (the lower position first among equals);
    the first token, a class token, attends to all. The choice is not differentiated: the predictor learns from the
    ``loss`` that a layer in training emits, ``reconstruction * sum((guess - attention) ** 2)`` against its own full
    attention, whose queries and keys that loss leaves alone. There is no causal form, since the predictor looks at all
    tokens, and therefore no stream.

    On a CPU a choice per query counts fewer FLOPs but takes longer than full attention at every length, since finding
    the largest guesses costs more than attending to everything. ``block_size`` makes it pay: that many neighbouring
    queries share one choice, by the sum of their guesses (ours, not the paper's). With 64 or 128 it overtakes fused
    full attention at about 1000 tokens.

    Args:
        dim: channels of input and output.
        heads: parallel heads; ``dim`` must divide by it.
        causal: must be False.
        bias: whether the projections have one.
        num_tokens: rows of the predictor's tables, the class token's included. A shorter sequence uses the first ones,
            so that padding it changes nothing; for a longer one they are stretched.
        keep: share of the keys that each query attends to.
        score_threshold: attend to the keys whose guess is above it instead, however many there are.
        rank: rows of the basis; a sixth of ``num_tokens`` when None.
        reduced_dim: width of the predictor's queries and keys; half of ``head_dim`` when None.
        coefficients: largest coefficients per query that count in the choice.
        coefficient_threshold: count those above it instead.
        basis_threshold: magnitudes of the basis up to which are zero in the choice.
        tied_basis: one table for both of the predictor's tables.
        class_token: whether the first token is one.
        block_size: queries that share a choice; 1 is the paper's.
        reconstruction: factor of the emitted loss.
        stage: ``"sparse"``, or ``"reconstruct"``: values go through full attention, while only the predictor learns.

    Raises:
        InputError: an option is out of its range, or a threshold is to fill blocks.

    >>> layer = SparsifinerAttention(dim=16, heads=4, num_tokens=65, keep=0.1)
    >>> x = torch.randn(2, 65, 16)
    >>> layer(x).shape, (layer.weights(x)[:, :, 1:] > 0).sum(-1).unique().tolist()
    (torch.Size([2, 65, 16]), [7])
    """

    name: ClassVar[str] = "sparsifiner"
    capabilities: ClassVar[Capabilities] = Capabilities(causal=False, cross=False, step=False)

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        bias: bool = True,
        num_tokens: int = 197,
        keep: float = 0.25,
        score_threshold: float | None = None,
        rank: int | None = None,
        reduced_dim: int | None = None,
        coefficients: int = 8,
        coefficient_threshold: float | None = None,
        basis_threshold: float = 0.02,
        tied_basis: bool = False,
        class_token: bool = True,
        block_size: int = 1,
        reconstruction: float = 0.01,
        stage: Literal["sparse", "reconstruct"] = "sparse",
    ):
        super().__init__(dim, heads, causal=causal, bias=bias)
        rank = max(1, num_tokens // 6) if rank is None else rank
        reduced_dim = max(1, self.head_dim // 2) if reduced_dim is None else reduced_dim
        if not 0 < keep <= 1:
            raise InputError(f"keep={keep} must be a share in (0, 1]")
        if min(num_tokens, rank, reduced_dim, coefficients, block_size) < 1:
            raise InputError("num_tokens, rank, reduced_dim, coefficients and block_size must be at least 1")
        if score_threshold is not None and block_size > 1:
            raise InputError("score_threshold keeps another number of keys for each query: use block_size=1 with it")
        if stage not in ("sparse", "reconstruct"):
            raise InputError(f"stage must be 'sparse' or 'reconstruct', got {stage!r}")
        self.keep, self.score_threshold, self.coefficients = keep, score_threshold, coefficients
        self.coefficient_threshold, self.basis_threshold = coefficient_threshold, basis_threshold
        self.class_token, self.block_size = class_token, block_size
        self.reconstruction, self.stage = reconstruction, stage
        self.predictor = ConnectivityPredictor(
            heads, self.head_dim, num_tokens, rank, reduced_dim, tied_basis=tied_basis
        )

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Tensor], *, heads: int, **options: Any) -> Self:
        """The layer of the released code (``qkv``, ``proj``, ``mask_predictor.*``); sizes are read off.

        Raises:
            CheckpointError: parameters are missing, left over, or of sizes that do not fit each other.
        """
        try:
            dim, (num_tokens, rank) = state_dict["proj.weight"].shape[0], state_dict["mask_predictor.proj_n"].shape
            options["reduced_dim"] = state_dict["mask_predictor.proj_c_q.weight"].shape[0]
            bias = "qkv.bias" in state_dict
            layer = cls(dim, heads, bias=bias, num_tokens=num_tokens, rank=rank, **options)
            state = {our_name(name): tensor for name, tensor in state_dict.items()}
            if not bias:  # theirs has no bias in front and one behind
                layer.out_proj = nn.Linear(dim, dim)
            layer.load_state_dict(state)
        except (KeyError, RuntimeError, ValueError) as error:
            what = " ".join(str(error).split())[:200]
            raise CheckpointError(f"not the parameters of a Sparsifiner layer: {what}") from None
        return layer

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
        pruned: Pruned = WHOLE,
    ) -> Float[Tensor, "batch time dim"]:
        """Mix all tokens at once; ``pruned`` says what was taken from the grid before, if anything."""
        self._check(x, context, mask, grid)
        q, k, v = self.project(x)
        emit(self, "weights", lambda: self.mix_weights(q, k, mask, pruned))
        return self.merge(self.mix(q, k, v, mask, pruned))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, pruned: Pruned = WHOLE) -> Tensor:
        if self.training and self.reconstruction:
            emit(self, "loss", lambda: self.reconstruction * self.reconstruction_error(q, k, mask, pruned))
        emit(self, "mask", lambda: self.connectivity(q, k, mask, pruned))
        if self.stage == "reconstruct":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=_columns(mask))
        if self.block_size > 1:
            return self._by_blocks(q, k, v, mask, pruned)
        allowed = self.connectivity(q, k, mask, pruned)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        if pruned.zeroed and self.class_token:
            mixed = torch.cat((self._class_row(q, k, v, mask, pruned.zeroed), mixed[:, :, 1:]), 2)
        return mixed

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None, pruned: Pruned = WHOLE) -> Tensor:
        if self.stage == "reconstruct":
            return softmax_weights(q, k, _columns(mask))
        weights = softmax_weights(q, k, self.connectivity(q, k, mask, pruned))
        if pruned.zeroed and self.class_token:
            weights = torch.cat((class_weights(q, k, mask, pruned.zeroed), weights[:, :, 1:]), 2)
        return weights

    def mix_cost(self, batch: int, time: int) -> Cost:
        patches = time - self.class_token
        table, reduced = self.predictor.pool, self.predictor.reduce_q.out_features
        rank = table.shape[1]
        # q' and k', their products with the tables, and the guess
        guess = self.head_dim * reduced * (patches + time) + reduced * rank * (time + patches)
        kept = min(time, math.ceil(self.keep * time))
        if self.stage == "reconstruct":
            products, stored = 2 * time**2 * self.head_dim, 0
        elif self.block_size == 1:
            products = guess + patches * rank * time + 2 * time**2 * self.head_dim
            stored = 2 * patches * time  # the guess; the choice is a byte each, read and written
        else:
            blocks = -(-patches // self.block_size)
            products = guess + blocks * rank * time + 2 * self.head_dim * kept * blocks * self.block_size
            products += 2 * self.class_token * time * self.head_dim
            stored = 2 * blocks * (time + 2 * kept * self.head_dim)
        values = batch * time * self.dim
        stored = batch * self.heads * (stored + 2 * patches * rank)
        return Cost(flops=2 * batch * self.heads * products, bytes=(4 * values + stored) * self._item_size)

    def connectivity(
        self,
        q: Float[Tensor, "batch heads time head_dim"],
        k: Float[Tensor, "batch heads time head_dim"],
        mask: Bool[Tensor, "batch time"] | None = None,
        pruned: Pruned = WHOLE,
    ) -> Bool[Tensor, "batch heads time time"]:
        """Which pairs meet: row ``t`` marks the keys of query ``t``."""
        with torch.no_grad():
            first, time = int(self.class_token), q.shape[2]
            scores, real = self._scores(q, k, mask, pruned)
            allowed = torch.zeros(*q.shape[:2], time, time, dtype=torch.bool, device=q.device)
            if self.score_threshold is not None:
                allowed[:, :, first:] = scores > self.score_threshold
            else:
                chosen, within = self._chosen(scores, real, pruned.total)
                if self.block_size > 1:
                    chosen, within = (
                        part.repeat_interleave(self.block_size, 2)[:, :, : time - first] for part in (chosen, within)
                    )
                allowed[:, :, first:].scatter_(-1, chosen, within)
            allowed[:, :, :first] = True
            if mask is not None:
                allowed[:, :, first if pruned.zeroed else 0 :] &= mask[:, None, None]
            return allowed

    def reconstruction_error(
        self, q: Tensor, k: Tensor, mask: Tensor | None = None, pruned: Pruned = WHOLE, teacher: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """Sum of squares between the signed guess and a teacher's attention ``(batch, heads, time, time)``.

        The layer's own full attention teaches when ``teacher`` is None. Only the predictor gets a gradient.
        """
        first, q, k = int(self.class_token), q.detach(), k.detach()
        coefficients = self.predictor(q[:, :, first:], k, mask, pruned.positions)
        if teacher is None:
            teacher = softmax_weights(q, k, _columns(mask))
        error = coefficients @ self.predictor.basis_at(k.shape[2], pruned.positions) - teacher[:, :, first:].detach()
        if mask is not None:
            error = error.masked_fill(~(mask[:, None, first:, None] & mask[:, None, None]), 0.0)
        return error.square().sum()

    def guess(
        self, q: Tensor, k: Tensor, mask: Tensor | None = None, pruned: Pruned = WHOLE
    ) -> tuple[Float[Tensor, "batch heads queries rank"], Float[Tensor, "#batch 1 rank time"]]:
        """The predictor's coefficients and basis as the choice of keys uses them, sparse and not negative.

        In the stage that reconstructs, both are as they are: dense, the basis signed.
        """
        coefficients = self.predictor(q[:, :, int(self.class_token) :], k, mask, pruned.positions)
        basis = self.predictor.basis_at(k.shape[2], pruned.positions)
        if self.stage == "reconstruct":
            return coefficients, basis
        basis = F.threshold(basis.abs(), self.basis_threshold, 0.0)
        if self.coefficient_threshold is not None:
            return F.threshold(coefficients, self.coefficient_threshold, 0.0), basis
        if self.coefficients < coefficients.shape[-1]:
            largest, where = coefficients.topk(self.coefficients, sorted=False)
            coefficients = torch.zeros_like(coefficients).scatter(-1, where, largest)
        return coefficients, basis

    def _scores(self, q: Tensor, k: Tensor, mask: Tensor | None, pruned: Pruned) -> tuple[Tensor, Tensor | None]:
        """The guess for each query, or summed over each block of queries, with padded keys below all others."""
        coefficients, basis = self.guess(q, k, mask, pruned)
        if self.block_size > 1:
            if mask is not None:
                coefficients = coefficients.masked_fill(~mask[:, None, int(self.class_token) :, None], 0.0)
            coefficients = F.pad(coefficients, (0, 0, 0, -coefficients.shape[2] % self.block_size))
            coefficients = coefficients.unflatten(2, (-1, self.block_size)).sum(3)
        scores = coefficients @ basis
        return (scores if mask is None else scores.masked_fill(~mask[:, None, None], -math.inf)), mask

    def _chosen(self, scores: Tensor, real: Tensor | None, total: int | None) -> tuple[Tensor, Tensor]:
        """Positions of the keys to attend to, ``(batch, heads, queries, budget)``, and which of them count."""
        time, ranked = scores.shape[-1], in_order(scores, signed=self.stage == "reconstruct")
        largest = math.ceil(self.keep * (total or time))
        if real is None:
            # the released code counts the patches that are left without the class token
            largest = max(1, min(largest, time if total is None else time - self.class_token))
            chosen = ranked.topk(largest, sorted=False)[1]
            return chosen, torch.ones_like(chosen, dtype=torch.bool)
        chosen, number = ranked.topk(min(largest, time))[1], real.sum(-1)
        if total is None:
            number = torch.ceil(self.keep * number.double())
        else:
            number = number - int(self.class_token)
        within = torch.arange(chosen.shape[-1], device=scores.device) < number[:, None]
        return chosen, within[:, None, None].expand_as(chosen)

    def _by_blocks(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, pruned: Pruned) -> Tensor:
        """Attention with one choice per block of queries: its keys and values are gathered, and meet it densely."""
        first, (batch, heads, time, width) = int(self.class_token), q.shape
        mixed = [self._class_row(q, k, v, mask, pruned.zeroed)] if first else []
        if time == first:
            return mixed[0]
        with torch.no_grad():
            scores, real = self._scores(q, k, mask, pruned)
            chosen, within = self._chosen(scores, real, pruned.total)
            if mask is not None:
                within = within & mask[:, None, None].expand(-1, heads, chosen.shape[2], -1).gather(-1, chosen)
            start = torch.arange(batch * heads, device=q.device) * time
            chosen = chosen.flatten(0, 1) + start[:, None, None]  # rows of all heads' keys, one below the other
        blocks, budget = chosen.shape[1:]
        queries = F.pad(q[:, :, first:], (0, 0, 0, -(time - first) % self.block_size))
        queries = queries.reshape(batch * heads, blocks, self.block_size, width)
        keys, values = k.reshape(-1, width), v.reshape(-1, width)
        step = max(1, _GATHERED // (2 * batch * heads * budget * width))
        parts = []
        for group in range(0, blocks, step):
            index = chosen[:, group : group + step]
            here = (batch * heads, index.shape[1], budget, width)
            counts = None if mask is None else within.flatten(0, 1)[:, group : group + step, None]
            own_keys, own_values = (part.index_select(0, index.flatten()).view(here) for part in (keys, values))
            parts.append(
                F.scaled_dot_product_attention(queries[:, group : group + step], own_keys, own_values, attn_mask=counts)
            )
        together = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        mixed.append(together.view(batch, heads, -1, width)[:, :, : time - first])
        return torch.cat(mixed, 2)

    def _class_row(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, zeroed: int) -> Tensor:
        if zeroed:
            return class_weights(q, k, mask, zeroed) @ v
        return F.scaled_dot_product_attention(q[:, :, :1], k, v, attn_mask=_columns(mask))


def class_weights(
    q: Float[Tensor, "batch heads queries head_dim"],
    k: Float[Tensor, "batch heads time head_dim"],
    mask: Bool[Tensor, "batch time"] | None = None,
    zeroed: int = 0,
) -> Float[Tensor, "batch heads 1 time"]:
    """The first query's attention, which ``zeroed`` removed tokens dilute: each has a score of 0."""
    if not zeroed:
        return softmax_weights(q[:, :, :1], k, _columns(mask))
    scores = q[:, :, :1] @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -math.inf)
    return F.pad(scores, (0, 1), value=math.log(zeroed)).softmax(-1)[..., :-1]


def our_name(name: str) -> str:
    """Our name of a parameter of the released attention layer."""
    for theirs, ours in _NAMES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


_NAMES = {
    "mask_predictor.proj_c_q": "predictor.reduce_q",
    "mask_predictor.proj_c_k": "predictor.reduce_k",
    "mask_predictor.proj_back_n": "predictor.basis",
    "mask_predictor.proj_n": "predictor.pool",
    "qkv.": "in_proj.",
    "proj.": "out_proj.",
}


def _columns(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[:, None, None]


def _reference(
    layer: SparsifinerAttention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, block_size: int = 1
) -> Tensor:
    """Query by query: guess, sort, keep the first, softmax over those; what the batched forms are compared with."""
    out = torch.zeros_like(q)
    predictor, first = layer.predictor, int(layer.class_token)
    for b in range(q.shape[0]):
        here = [t for t in range(q.shape[2]) if mask is None or mask[b, t]]
        budget = math.ceil(layer.keep * len(here))
        for h in range(q.shape[1]):
            pooled = sum(torch.outer(predictor.reduce_k(k[b, h, t]), predictor.pool[t]) for t in here)
            guesses = {}
            for t in here:
                coefficients = (predictor.reduce_q(q[b, h, t]) @ pooled * layer.heads**-0.5).softmax(0)
                smallest = coefficients.sort(descending=True).values[: layer.coefficients][-1]
                basis = predictor.basis.abs() * (predictor.basis.abs() > layer.basis_threshold)
                guesses[t] = basis @ (coefficients * (coefficients >= smallest))
            for t in here:
                kept = here
                if t >= first:
                    block = (t - first) // block_size
                    guess = sum(guesses[other] for other in here if (other - first) // block_size == block)
                    kept = sorted(here, key=lambda key: (-float(guess[key]), key))[:budget]
                out[b, h, t] = (k[b, h, kept] @ q[b, h, t] / layer.head_dim**0.5).softmax(0) @ v[b, h, kept]
    return out
