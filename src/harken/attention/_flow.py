"""The flows of Flow-Attention: what queries take and keys send, over all positions or over the past."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from harken.attention._base import precise
from harken.attention._chunked import in_chunks, masked, out_of_chunks, running_sum

Feature = Literal["sigmoid", "relu"]

FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "relu": lambda x: x.relu() + 1e-6,
}


class FlowForm(NamedTuple):
    """The choices within Flow-Attention; :class:`FlowAttention` says what they mean."""

    feature: Feature = "sigmoid"
    clamp: tuple[float, float] | None = (-1.0, 1.0)
    eps: float = 1e-6
    flow_eps: float = 0.0
    competition: bool = True
    allocation: bool = True


class Flow(NamedTuple):
    """What flows through each query (a sink) and each key (a source), ``(batch, heads, time)`` each.

    ``incoming`` and ``outgoing`` are the raw flows, ``sink`` and ``source`` the same after the other side has been
    normalised to send or take one unit each, ``allocation`` and ``competition`` the weights made of those.
    """

    incoming: Tensor
    outgoing: Tensor
    sink: Tensor
    source: Tensor
    allocation: Tensor
    competition: Tensor


class FlowState(NamedTuple):
    """What a stream has summed up, in float32 at least, since the sums run over the whole past.

    Shape:
        - keys, queries: ``(batch, heads, head_dim)``, the sums of ``f(k)`` and ``f(q)``
        - refined_keys, refined_queries: ``(batch, heads, head_dim)``, each over its flow, times its position
        - competition: ``(batch, heads)``, the sum of the exponentials of the sources
        - keys_values: ``(batch, heads, head_dim, head_dim)``, the sum of ``f(k)^T`` and the values that competed
        - time: ``(batch,)``, how many real positions went in
    """

    keys: Tensor
    queries: Tensor
    refined_keys: Tensor
    refined_queries: Tensor
    competition: Tensor
    keys_values: Tensor
    time: Tensor


def bidirectional_flow(form: FlowForm, q: Tensor, k: Tensor, mask: Tensor | None, query_mask: Tensor | None) -> Flow:
    """Flows between features: five sums over the sequence, each met by a product with a vector."""
    sources = k.shape[2] if mask is None else mask.sum(-1).clamp_min(1)[:, None, None]
    sinks = q.shape[2] if query_mask is None else query_mask.sum(-1).clamp_min(1)[:, None, None]

    incoming, outgoing = _through(form, q, k.sum(2)), _through(form, k, q.sum(2))
    sink = _through(form, q, (outgoing.reciprocal().unsqueeze(-2) @ k).squeeze(-2))
    source = _through(form, k, (incoming.reciprocal().unsqueeze(-2) @ q).squeeze(-2))
    if form.clamp is not None:
        source = source.clamp(*form.clamp)
    competing = source
    if mask is not None:  # the lowest number, not -inf: where all is padding nobody competes, and nothing is NaN
        competing = source.masked_fill(~mask[:, None], torch.finfo(source.dtype).min)
    competition = competing.softmax(-1) * sources if form.competition else torch.ones_like(source)
    if mask is not None:
        competition = competition.masked_fill(~mask[:, None], 0.0)
    return Flow(incoming, outgoing, sink, source, allocated(form, sink * (sinks / sources)), competition)


def allocated(form: FlowForm, sink: Tensor) -> Tensor:
    """What part of its unit each query gets: all of it where nothing is allotted."""
    return sink.sigmoid() if form.allocation else torch.ones_like(sink)


def _through(form: FlowForm, x: Tensor, others: Tensor) -> Tensor:
    """``(x + eps) (others + eps)``, a sum over the others, without a copy of ``x``."""
    others = others + form.eps
    return (x @ others.unsqueeze(-1)).squeeze(-1) + (form.eps * others.sum(-1, keepdim=True) + form.flow_eps)


def causal_flow(
    form: FlowForm, q: Tensor, k: Tensor, mask: Tensor | None, state: FlowState | None, chunk_size: int
) -> tuple[Flow, Tensor, FlowState]:
    """Flows between features, each over the past: all chunks at once, in three rounds, as each flow needs the last.

    Returns:
        The flows; the products ``q_t k_s`` within each chunk, zero ahead of ``t``; the state after the last position,
        its ``keys_values`` untouched.
    """
    batch, _, time, _ = q.shape
    state = empty_flow_state(torch.zeros_like(k[:, :, 0]), k.shape[-1]) if state is None else state
    seen = torch.ones(batch, time, device=q.device, dtype=torch.int64) if mask is None else mask.long()
    count = (seen.cumsum(-1) + state.time[:, None]).to(q.dtype)[:, None]
    n = in_chunks(count, chunk_size).clamp_min(1)  # (batch, 1, chunks, size)
    q, k = in_chunks(q, chunk_size), in_chunks(k, chunk_size)
    products = q @ k.transpose(-1, -2)
    past, ahead = products.tril(), products.triu().transpose(-1, -2)  # ahead: what key t has met, as rows
    width_q, width_k = q.sum(-1), k.sum(-1)

    incoming, keys = _through_past(form, q, width_q, past.sum(-1), k.sum(-2), width_k, state.keys)
    outgoing, queries = _through_past(form, k, width_k, ahead.sum(-1), q.sum(-2), width_q, state.queries)
    by_outgoing, by_incoming = n / outgoing, n / incoming
    sink, refined_keys = _through_past(
        form,
        q,
        width_q,
        (past @ by_outgoing.unsqueeze(-1)).squeeze(-1),
        (by_outgoing.unsqueeze(-2) @ k).squeeze(-2),
        width_k * by_outgoing,
        state.refined_keys,
    )
    source, refined_queries = _through_past(
        form,
        k,
        width_k,
        (ahead @ by_incoming.unsqueeze(-1)).squeeze(-1),
        (by_incoming.unsqueeze(-2) @ q).squeeze(-2),
        width_q * by_incoming,
        state.refined_queries,
    )
    incoming, outgoing, sink, source = (
        out_of_chunks(part, time) for part in (incoming, outgoing, sink / n, source / n)
    )
    if form.clamp is not None:
        source = source.clamp(*form.clamp)
    share = source.exp() if form.competition else torch.ones_like(source)
    if mask is not None:
        share = share.masked_fill(~mask[:, None], 0.0)
    total = share.cumsum(-1) + state.competition.unsqueeze(-1)
    # a stream that opens with padding has had no share yet
    competition = count * share / total.clamp_min(torch.finfo(total.dtype).tiny) if form.competition else share
    after = FlowState(
        keys,
        queries,
        refined_keys,
        refined_queries,
        total[:, :, -1].clone(),
        state.keys_values,
        state.time + seen.sum(-1),
    )
    return Flow(incoming, outgoing, sink, source, allocated(form, sink), competition), past, after


def _through_past(
    form: FlowForm, x: Tensor, width_x: Tensor, met: Tensor, others: Tensor, width: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """``(x_t + eps) (sum of others up to t + eps)`` in chunks, and that sum after the last position.

    Args:
        form: for its small numbers.
        x: features in chunks.
        width_x: their sums over channels.
        met: the part of the flow that comes from within the chunk.
        others: what each chunk adds to the sum.
        width: what each position adds to the sum's own sum over channels.
        start: the sum before the first position.
    """
    after, before = running_sum(others, start)
    width = width.cumsum(-1) + before.sum(-1, keepdim=True)
    rest = form.eps * (width_x + width + x.shape[-1] * form.eps) + form.flow_eps
    return met + (x @ before.unsqueeze(-1)).squeeze(-1) + rest, after


def flow_features(form: FlowForm, x: Tensor, mask: Tensor | None) -> Tensor:
    return masked(FEATURES[form.feature](precise(x).contiguous()), mask)


def empty_flow_state(sums: Tensor, value_dim: int) -> FlowState:
    return FlowState(
        keys=sums,
        queries=sums.clone(),
        refined_keys=sums.clone(),
        refined_queries=sums.clone(),
        competition=sums.new_zeros(sums.shape[:2]),
        keys_values=sums.new_zeros(*sums.shape, value_dim),
        time=torch.zeros(sums.shape[0], device=sums.device, dtype=torch.int64),
    )
