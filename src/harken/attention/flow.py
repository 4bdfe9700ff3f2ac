"""Flow-Attention: linear attention from the conservation of flow (arXiv 2202.06258)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harken.attention._base import Capabilities, Cost, ProjectedAttention, precise
from harken.attention._chunked import (
    SEGMENT,
    checked_chunk_size,
    in_chunks,
    joined,
    masked,
    out_of_chunks,
    pieces,
    running_sum,
    segments,
    whole_chunks,
)
from harken.attention._flow import (
    FEATURES,
    Feature,
    Flow,
    FlowForm,
    FlowState,
    allocated,
    bidirectional_flow,
    causal_flow,
    empty_flow_state,
    flow_features,
)
from harken.errors import CheckpointError, InputError
from harken.observation import emit


class FlowAttention(ProjectedAttention):
    """Linear attention in which values compete for queries and queries are allotted what they can take.

    With ``f = sigmoid``, queries take ``I_i = f(q_i) sum_j f(k_j)`` and keys send ``O_j = f(k_j) sum_i f(q_i)``. With
    the other side normalised to one unit each, these become ``I'_i = f(q_i) sum_j f(k_j) / O_j`` and ``O'_j = f(k_j)
    sum_i f(q_i) / I_i``. Values compete, ``c = n softmax(O')``, queries are allotted, ``a = sigmoid(I')``, and
    ``y_i = a_i f(q_i) / I_i sum_j f(k_j)^T c_j v_j``. The rows of the implied matrix do not sum to 1.

    In the causal form every sum runs over the positions up to ``t`` and the competition of a value is settled when it
    arrives, as in the authors' code. Theirs keeps a matrix for each position; here chunks meet directly and all that
    came before through sums, so memory does not depend on ``head_dim`` squared times the length.

    Their dropout of the output is left to the model around the layer.

    Args:
        dim: channels of input and output.
        heads: parallel heads; ``dim`` must divide by it.
        causal: position ``t`` sees only positions up to ``t``.
        bias: whether the projections have one.
        feature: ``f``: ``"sigmoid"``, or ``"relu"`` (plus 1e-6) as in the authors' long-range experiments.
        clamp: bounds of ``O'`` before the exponential; the authors use (-1, 1), and (-5, 5) and (-10, 10) in their
            language model and decision transformer; None for none.
        eps: added to both factors of each flow.
        flow_eps: added to each flow besides (1e-6 in the authors' vision model).
        competition, allocation: whether values compete and queries are allotted; without one, its weights are 1.
        chunk_size: positions that meet directly in the causal form; changes speed and memory, not the result.

    >>> layer = FlowAttention(dim=16, heads=4, causal=True)
    >>> y, state = layer.step(torch.randn(2, 100, 16), layer.init_state(2))
    >>> y.shape, state.keys_values.shape
    (torch.Size([2, 100, 16]), torch.Size([2, 4, 4, 4]))
    """

    name: ClassVar[str] = "flow"
    capabilities: ClassVar[Capabilities] = Capabilities(constant_state=True, normalized=False)
    state_type: ClassVar[type[tuple]] = FlowState

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        bias: bool = True,
        feature: Feature = "sigmoid",
        clamp: tuple[float, float] | None = (-1.0, 1.0),
        eps: float = 1e-6,
        flow_eps: float = 0.0,
        competition: bool = True,
        allocation: bool = True,
        chunk_size: int = 64,
    ):
        super().__init__(dim, heads, causal=causal, bias=bias)
        if feature not in FEATURES:
            raise InputError(f"feature='{feature}' must be one of {', '.join(FEATURES)}")
        if clamp is not None and clamp[0] >= clamp[1]:
            raise InputError(f"clamp={clamp} must be (lowest, highest)")
        if eps <= 0:
            raise InputError(f"eps={eps} must be positive: flows are divided by")
        self.chunk_size = checked_chunk_size(chunk_size)
        self.form = FlowForm(feature, clamp, eps, flow_eps, competition, allocation)

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
        query_mask = mask if context is None else None  # padded queries would take their share of the flow
        emit(self, "weights", lambda: self.mix_weights(q, k, mask, query_mask))
        return self.merge(self.mix(q, k, v, mask, query_mask))

    def weights(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch heads time keys"]:
        self._check(x, context, mask, grid)
        q, k, _ = self.project(x, context)
        return self.mix_weights(q, k, mask, mask if context is None else None)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, query_mask: Tensor | None = None) -> Tensor:
        return flow_attention(
            q,
            k,
            v,
            causal=self.causal,
            mask=mask,
            query_mask=query_mask,
            form=self.form,
            chunk_size=self.chunk_size,
        )

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None, query_mask: Tensor | None = None) -> Tensor:
        q, k = flow_features(self.form, q, mask if self.causal else query_mask), flow_features(self.form, k, mask)
        if self.causal:
            flow, scores, _ = causal_flow(self.form, q, k, mask, None, q.shape[2])
            scores = scores.squeeze(2)
        else:
            flow, scores = bidirectional_flow(self.form, q, k, mask, query_mask), q @ k.transpose(-1, -2)
        taken = flow.allocation / flow.incoming
        return (taken.unsqueeze(-1) * scores * flow.competition.unsqueeze(-2)).to(self.in_proj.weight.dtype)

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> FlowState:
        if not self.causal:
            raise self._lacks_step()
        weight = self.in_proj.weight
        dtype = torch.promote_types(dtype or weight.dtype, torch.float32)
        sums = torch.zeros(batch_size, self.heads, self.head_dim, device=device or weight.device, dtype=dtype)
        return empty_flow_state(sums, self.head_dim)

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: FlowState) -> tuple[Tensor, FlowState]:
        if q.shape[2] == 1:
            return _one_position(self.form, q, k, v, state)
        return _stream(self.form, q, k, v, None, state, self.chunk_size)

    def mix_cost(self, batch: int, time: int) -> Cost:
        sequences, d = batch * self.heads, self.head_dim
        sums, state, flops = (d + 4) * d, 0, 0
        if self.causal:
            state = sequences * (sums + 1) * max(4, self._item_size) + batch * 8
            stored = 0
            for part in segments(time, whole_chunks(SEGMENT, self.chunk_size)):
                length = part.stop - part.start
                size = min(self.chunk_size, length)
                chunks = -(-length // size)
                flops += sequences * chunks * size * (4 * size * (d + 1) + (12 + 4 * d) * d)
                stored += sequences * chunks * (2 * size * size + sums)
        else:
            flops = sequences * time * (12 + 4 * d) * d
            stored = sequences * sums
        moved = 6 * batch * time * self.dim + stored  # q, k, v, their features, and the mixed values
        return Cost(flops=flops, bytes=moved * self._item_size, state=state)

    @classmethod
    def from_authors(
        cls, state_dict: Mapping[str, Tensor], heads: int, *, causal: bool = False, chunk_size: int = 64
    ) -> Self:
        """The authors' module (``query_projection`` … ``out_projection``) with their parameters.

        Raises:
            CheckpointError: a parameter is missing, or input, inside and output differ in width, which theirs may.
        """
        names = [f"{part}_projection" for part in ("query", "key", "value", "out")]
        missing = [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]
        missing = [name for name in missing if name not in state_dict]
        if missing:
            raise CheckpointError(f"not a layer of Flowformer: no parameter {missing[0]} among {len(state_dict)}")
        widths = {width for name in names for width in state_dict[f"{name}.weight"].shape}
        if len(widths) > 1:
            raise CheckpointError(
                f"a layer keeps its width, this one has {sorted(widths)}: use flow_attention between projections"
            )
        layer = cls(widths.pop(), heads, causal=causal, chunk_size=chunk_size)
        ours = {}
        for kind in ("weight", "bias"):
            ours[f"in_proj.{kind}"] = torch.cat([state_dict[f"{name}.{kind}"] for name in names[:3]])
            ours[f"out_proj.{kind}"] = state_dict[f"out_projection.{kind}"]
        layer.load_state_dict(ours)
        return layer


_DEFAULT = FlowForm()


def flow_attention(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch heads keys head_dim"],
    v: Float[Tensor, "batch heads keys value_dim"],
    *,
    causal: bool = False,
    mask: Bool[Tensor, "batch keys"] | None = None,
    query_mask: Bool[Tensor, "batch time"] | None = None,
    form: FlowForm = _DEFAULT,
    chunk_size: int = 64,
) -> Float[Tensor, "batch heads time value_dim"]:
    """Values mixed by conserved flow (see :class:`FlowAttention`); half precision is summed in float32.

    Queries are sinks that share what there is, so padded ones count unless ``query_mask`` says that they are none; the
    causal form, whose queries and keys are the same positions, takes ``mask`` for both.

    >>> q = k = v = torch.ones(1, 2, 5, 4)
    >>> mixed = flow_attention(q, k, v)
    >>> torch.allclose(mixed, torch.sigmoid(torch.ones(())).expand_as(v), atol=1e-5)  # all alike: each takes one unit
    True
    """
    if causal:
        return _stream(form, q, k, v, mask, None, chunk_size)[0]
    q, k, values = flow_features(form, q, query_mask), flow_features(form, k, mask), masked(precise(v), mask)
    flow = bidirectional_flow(form, q, k, mask, query_mask)
    sums = k.transpose(-1, -2) @ (values * flow.competition.unsqueeze(-1))
    return ((flow.allocation / flow.incoming).unsqueeze(-1) * (q @ sums)).to(v.dtype)


def flow_conservation(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch heads keys head_dim"],
    *,
    causal: bool = False,
    mask: Bool[Tensor, "batch keys"] | None = None,
    query_mask: Bool[Tensor, "batch time"] | None = None,
    form: FlowForm = _DEFAULT,
    chunk_size: int = 64,
) -> Flow:
    """The flows behind :func:`flow_attention`, for whoever wants to look at them."""
    q, k = flow_features(form, q, mask if causal else query_mask), flow_features(form, k, mask)
    if causal:
        return causal_flow(form, q, k, mask, None, chunk_size)[0]
    return bidirectional_flow(form, q, k, mask, query_mask)


def _stream(
    form: FlowForm, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, state: FlowState | None, chunk_size: int
) -> tuple[Tensor, FlowState]:
    """The causal form, segment by segment; also the state after it."""
    mixed = []
    for part, q_part, k_part, v_part in pieces(whole_chunks(SEGMENT, chunk_size), q, k, v):
        real = None if mask is None else mask[:, part]
        queries, keys = flow_features(form, q_part, real), flow_features(form, k_part, real)
        values = masked(precise(v_part), real)
        state = empty_flow_state(torch.zeros_like(keys[:, :, 0]), v.shape[-1]) if state is None else state
        flow, scores, after = causal_flow(form, queries, keys, real, state, chunk_size)
        taken = (flow.allocation / flow.incoming).unsqueeze(-1)
        values = in_chunks(values * flow.competition.unsqueeze(-1), chunk_size)
        sums, before = running_sum(in_chunks(keys, chunk_size).transpose(-1, -2) @ values, state.keys_values)
        y = (scores @ values).add_(in_chunks(queries, chunk_size) @ before)
        mixed.append((taken * out_of_chunks(y, queries.shape[2])).to(v.dtype))
        state = after._replace(keys_values=sums)
    assert state is not None
    return joined(mixed), state


def _one_position(form: FlowForm, q: Tensor, k: Tensor, v: Tensor, state: FlowState) -> tuple[Tensor, FlowState]:
    """The causal form for one position: the recurrence itself."""
    q, k = (flow_features(form, x.squeeze(2), None) for x in (q, k))
    time = state.time + 1
    n = time.to(q.dtype)[:, None, None]
    q_eps, k_eps = q + form.eps, k + form.eps
    keys, queries = state.keys + k, state.queries + q
    incoming = (q_eps * (keys + form.eps)).sum(-1, keepdim=True) + form.flow_eps
    outgoing = (k_eps * (queries + form.eps)).sum(-1, keepdim=True) + form.flow_eps
    refined_keys = torch.addcmul(state.refined_keys, k, n / outgoing)
    refined_queries = torch.addcmul(state.refined_queries, q, n / incoming)
    sink = ((q_eps * (refined_keys + form.eps)).sum(-1, keepdim=True) + form.flow_eps) / n
    source = ((k_eps * (refined_queries + form.eps)).sum(-1, keepdim=True) + form.flow_eps) / n
    share = torch.ones_like(source)
    if form.competition:
        share = (source if form.clamp is None else source.clamp(*form.clamp)).exp()
    total = state.competition.unsqueeze(-1) + share
    competition = n * share / total if form.competition else share
    values = precise(v) * competition.unsqueeze(-1)
    keys_values = state.keys_values + k.unsqueeze(-1) @ values
    y = (allocated(form, sink) / incoming * q).unsqueeze(2) @ keys_values
    after = FlowState(keys, queries, refined_keys, refined_queries, total.squeeze(-1), keys_values, time)
    return y.to(v.dtype), after


def _reference(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, mask: Tensor | None = None, eps: float = 1e-6
) -> Tensor:
    """One sequence of one head at a time, the flows as the equations have them; ``mask`` is of queries and keys."""
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=v.dtype)
    for b in range(q.shape[0]):
        query_real = torch.ones(q.shape[2], dtype=torch.bool) if mask is None else mask[b]
        key_real = torch.ones(k.shape[2], dtype=torch.bool) if mask is None else mask[b]
        for h in range(q.shape[1]):
            fq, fk, values = q[b, h, query_real].sigmoid(), k[b, h, key_real].sigmoid(), v[b, h, key_real]
            out[b, h, query_real] = (_causal_reference if causal else _bidirectional_reference)(fq, fk, values, eps)
    return out


def _bidirectional_reference(q: Tensor, k: Tensor, v: Tensor, eps: float) -> Tensor:
    incoming = (q + eps) @ (k.sum(0) + eps)
    outgoing = (k + eps) @ (q.sum(0) + eps)
    sink = (q + eps) @ ((k / outgoing[:, None]).sum(0) + eps)
    source = ((k + eps) @ ((q / incoming[:, None]).sum(0) + eps)).clamp(-1, 1)
    competition = source.softmax(0) * len(k)
    mixed = (q / incoming[:, None]) @ k.T @ (competition[:, None] * v)
    return (sink * len(q) / len(k)).sigmoid()[:, None] * mixed


def _causal_reference(q: Tensor, k: Tensor, v: Tensor, eps: float) -> Tensor:
    keys, queries, refined_keys, refined_queries = (torch.zeros_like(k[0]) for _ in range(4))
    total, sums, out = torch.zeros((), dtype=k.dtype), torch.zeros(k.shape[1], v.shape[1], dtype=k.dtype), []
    for n, (query, key, value) in enumerate(zip(q, k, v, strict=True), start=1):
        keys, queries = keys + key, queries + query
        incoming, outgoing = (query + eps) @ (keys + eps), (key + eps) @ (queries + eps)
        refined_keys, refined_queries = refined_keys + key * n / outgoing, refined_queries + query * n / incoming
        sink = (query + eps) @ (refined_keys + eps) / n
        share = ((key + eps) @ (refined_queries + eps) / n).clamp(-1, 1).exp()
        total = total + share
        sums = sums + torch.outer(key, n * share / total * value)
        out.append(sink.sigmoid() * (query / incoming) @ sums)
    return torch.stack(out)
