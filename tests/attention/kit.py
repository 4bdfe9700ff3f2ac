"""The battery that every attention mechanism is run through, whoever wrote it.

``battery(Mechanism)`` gives the checks that apply to its capabilities, as ``pytest`` parameters; ``test_contract.py``
runs it over all registered mechanisms. Checks are plain functions of a :class:`Subject`.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harken.attention import Attention, ProjectedAttention, move_state, select_state
from harken.errors import CapabilityError, InputError
from harken.observation import observe

DIM, HEADS = 16, 2


@dataclass(frozen=True)
class Subject:
    """A mechanism in one order, built small, with inputs to try it on."""

    mechanism: type[Attention]
    causal: bool

    def build(self, **options: object) -> Attention:
        parameters = inspect.signature(self.mechanism).parameters
        if "chunk_size" in parameters:
            options = {"chunk_size": 4, **options}  # so that short inputs cross the borders of chunks
        if "span_size" in parameters:
            options = {"span_size": 5, **options}
        if "map_width" in parameters:
            options = {"map_width": 8, "keys": 3, "sparse_from": 6, **options}  # so that short inputs leave keys out
        if "codebook_size" in parameters:
            options = {"codebook_size": 8, "window": 4, **options}
        torch.manual_seed(0)
        return self.mechanism(DIM, HEADS, causal=self.causal, **options)

    def call(self, layer: Attention, x: Tensor, *context: Tensor, mask: Tensor | None = None) -> Tensor:
        return layer(x, *context, mask=mask, grid=self.grid(x))

    def grid(self, x: Tensor) -> tuple[int, int] | None:
        able, time = self.mechanism.capabilities, x.shape[1]
        if not able.grid:
            return None
        # a map where there is one: the squarest; streams come column by column
        sides = (side for side in range(int(time**0.5), 0, -1) if time % side == 0)
        height = 1 if able.step else next(sides, 1)
        return (height, time // height)


Check = Callable[[Subject], None]
_CHECKS: list[tuple[Check, dict[str, bool], tuple[pytest.MarkDecorator, ...]]] = []


def check(*, border: bool = False, **needs: bool) -> Callable[[Check], Check]:
    """Add a check to the battery for subjects that are ``causal`` as given and have the other capabilities named."""

    def add(function: Check) -> Check:
        _CHECKS.append((function, needs, (pytest.mark.border,) if border else ()))
        return function

    return add


def battery(mechanism: type[Attention]) -> list:
    """The checks for a mechanism, as parameters ``(check, subject)``."""
    able = mechanism.capabilities
    orders = [order for order, exists in ((False, able.bidirectional), (True, able.causal)) if exists]
    return [
        pytest.param(
            function,
            Subject(mechanism, causal),
            marks=marks,
            id=f"{mechanism.name}-{'causal' if causal else 'bidirectional'}-{function.__name__}",
        )
        for causal in orders
        for function, needs, marks in _CHECKS
        if all((causal if need == "causal" else getattr(able, need)) is value for need, value in needs.items())
    ]


def signal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@check()
def keeps_the_shape(subject: Subject) -> None:
    layer = subject.build()
    for time in (1, 2, 7, 21):
        x = signal(3, time, DIM)
        y = subject.call(layer, x)
        assert y.shape == x.shape
        assert y.isfinite().all()


@check()
def the_same_seed_builds_the_same_layer(subject: Subject) -> None:
    one, other = subject.build(), subject.build()
    for (name, parameter), its_twin in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, its_twin), name
    x = signal(2, 5, DIM)
    close(subject.call(one.eval(), x), subject.call(other.eval(), x), 0.0)


@check()
def a_row_of_a_batch_is_a_batch_of_one(subject: Subject) -> None:
    layer, x = subject.build().eval(), signal(3, 9, DIM)
    close(subject.call(layer, x)[1:2], subject.call(layer, x[1:2]))


@check(causal=True)
def the_future_does_not_exist(subject: Subject) -> None:
    layer, x = subject.build().eval(), signal(1, 13, DIM)
    y = subject.call(layer, x)
    for now in (0, 3, 4, 11):
        changed = x.clone()
        changed[:, now + 1 :] = 100 * signal(1, 12 - now, DIM, seed=1)
        close(subject.call(layer, changed)[:, : now + 1], y[:, : now + 1])


@check(causal=True)
def the_past_does(subject: Subject) -> None:
    layer, x = subject.build().eval(), signal(1, 6, DIM)
    changed = x.clone()
    changed[:, 3] = signal(1, DIM, seed=1)
    difference = (subject.call(layer, changed) - subject.call(layer, x)).abs().amax(-1)[0]
    assert difference[4] > 1e-4


@check()
def padding_changes_nothing_that_is_real(subject: Subject) -> None:
    layer, x = subject.build().eval(), signal(2, 11, DIM)
    lengths = torch.tensor([11, 6])
    mask = torch.arange(11) < lengths[:, None]
    y = subject.call(layer, x, mask=mask)
    noisy = torch.where(mask[..., None], x, 50 * signal(2, 11, DIM, seed=1))
    close(subject.call(layer, noisy, mask=mask)[mask], y[mask])
    if not subject.mechanism.capabilities.grid:  # a shorter sequence is another grid
        close(y[1:, :6], subject.call(layer, x[1:, :6]))
    close(y[:1], subject.call(layer, x[:1]))


@check()
def gaps_may_lie_anywhere(subject: Subject) -> None:
    layer, x = subject.build().eval(), signal(2, 9, DIM)
    mask = torch.tensor([[0, 0, 1, 1, 0, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0, 0, 0, 1]], dtype=torch.bool)
    noisy = torch.where(mask[..., None], x, 50 * signal(2, 9, DIM, seed=1))
    close(subject.call(layer, noisy, mask=mask)[mask], subject.call(layer, x, mask=mask)[mask])


@check()
def nothing_but_padding_stays_finite(subject: Subject) -> None:
    layer, x = subject.build(), signal(2, 5, DIM).requires_grad_()
    y = subject.call(layer, x, mask=torch.tensor([[True] * 5, [False] * 5]))
    y.square().sum().backward()
    assert y.isfinite().all()
    assert x.grad is not None and x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters() if parameter.grad is not None)


@check(causal=False, cross=True)
def another_sequence_can_answer(subject: Subject) -> None:
    layer, x, context = subject.build().eval(), signal(2, 5, DIM), signal(2, 9, DIM, seed=1)
    assert subject.call(layer, x, context).shape == x.shape
    close(subject.call(layer, x, x.clone()), subject.call(layer, x))
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    y = subject.call(layer, x, context, mask=mask)
    close(y[1:], subject.call(layer, x[1:], context[1:, :4]))


@check()
def gradients_are_finite_and_reach_everything(subject: Subject) -> None:
    layer = subject.build()
    for time in (1, 6):
        layer.zero_grad()
        x = signal(2, time, DIM).requires_grad_()
        with observe(layer, "loss") as seen:  # as training does: some parameters learn from what is emitted alone
            y = subject.call(layer, x)
        (y.square().sum() + seen.total()).backward()
        assert x.grad is not None and x.grad.isfinite().all() and x.grad.abs().max() > 0
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@check()
def half_precision_stays_close(subject: Subject) -> None:
    layer, x = subject.build().eval(), signal(2, 33, DIM)
    with observe(layer, "mask") as seen:
        y = subject.call(layer, x)
    with observe(layer.bfloat16(), "mask") as seen_roughly:
        rough = subject.call(layer, x.bfloat16())
    assert rough.dtype == torch.bfloat16
    if "" in seen["mask"]:  # who chooses its pairs may choose others between equals: compare where it chose the same
        same = (seen["mask"][""] == seen_roughly["mask"][""]).flatten(3).all(-1).all(1)
        assert same.float().mean() > 0.8
        rough, y = rough[same], y[same]
    assert (rough.float() - y).norm() / y.norm() < 0.03


@check(weights=True)
def the_matrix_is_what_it_says(subject: Subject) -> None:
    layer, x = subject.build().eval(), signal(2, 9, DIM)
    mask = torch.arange(9) < torch.tensor([[9], [5]])
    weights = layer.weights(x, mask=mask, grid=subject.grid(x))
    assert weights.shape == (2, layer.heads, 9, 9)
    assert weights[1, :, :, 5:].abs().max() == 0
    if subject.causal:
        assert weights.triu(1).abs().max() == 0
    if subject.mechanism.capabilities.normalized:
        close(weights.sum(-1)[mask[:, None].expand(-1, layer.heads, -1)], torch.ones(layer.heads * 14))
    if isinstance(layer, ProjectedAttention):
        q, k, v = layer.project(x)
        close((weights @ v)[0], layer.mix(q, k, v, mask)[0])


@check(weights=True)
def whoever_observes_sees_the_matrix(subject: Subject) -> None:
    layer, x = subject.build().eval(), signal(1, 7, DIM)
    unseen = subject.call(layer, x)
    with observe(layer, "weights") as seen:
        close(subject.call(layer, x), unseen, 0.0)
    close(seen["weights"][""], layer.weights(x, grid=subject.grid(x)), 1e-6)


@check()
def the_cost_is_what_a_counter_counts(subject: Subject) -> None:
    layer = subject.build().eval()
    for time in (1, 12, 24, 50):
        x = signal(2, time, DIM)
        # the fused kernel for the CPU is not counted, so count the one it stands for
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            subject.call(layer, x)
        assert layer.cost(2, time).flops == pytest.approx(counter.get_total_flops(), rel=0.05), f"time={time}"


@check(border=True)
def it_compiles_in_one_graph(subject: Subject) -> None:
    layer, x = subject.build().eval(), signal(2, 9, DIM)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    close(subject.call(compiled, x, mask=mask), subject.call(layer, x, mask=mask))
    torch._dynamo.reset()


@check(border=True)
def mistakes_get_a_line_each(subject: Subject) -> None:
    with pytest.raises(InputError, match="multiple of heads"):
        subject.mechanism(DIM, 5, causal=subject.causal)
    layer, x = subject.build(), signal(2, 4, DIM)
    for wrong in (x[0], x[..., :-1]):
        with pytest.raises(InputError, match=r"expected x of shape \(batch, time, 16\)"):
            subject.call(layer, wrong)
    with pytest.raises(InputError, match="time must be at least 1"):
        subject.call(layer, x[:, :0])
    for mask in (torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 4), torch.ones(4, dtype=torch.bool)):
        with pytest.raises(InputError, match=r"boolean mask of shape \(2, 4\)"):
            subject.call(layer, x, mask=mask)
    if subject.causal or not subject.mechanism.capabilities.cross:
        with pytest.raises(CapabilityError, match="cross-attention"):
            subject.call(layer, x, x)
    else:
        with pytest.raises(InputError, match="expected context of shape"):
            subject.call(layer, x, x[:1])


@check(border=True)
def what_it_lacks_it_says(subject: Subject) -> None:
    able, layer, x = subject.mechanism.capabilities, subject.build(), signal(1, 4, DIM)
    for causal, exists in ((True, able.causal), (False, able.bidirectional)):
        if not exists:
            with pytest.raises(CapabilityError, match="causal"):
                subject.mechanism(DIM, HEADS, causal=causal)
    if not (able.step and (subject.causal or able.lookahead)):
        with pytest.raises(CapabilityError, match="stream"):
            layer.init_state(1)
        with pytest.raises(CapabilityError, match="stream"):
            layer.step(x, ())
    if not able.weights:
        with pytest.raises(CapabilityError, match="no attention matrix"):
            layer.weights(x)
    if able.grid:
        with pytest.raises(InputError, match="needs grid"):
            layer(x)


@check(causal=True, step=True)
def a_stream_equals_the_whole(subject: Subject) -> None:
    layer = subject.build().eval()

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(cuts=st.lists(st.integers(1, 9), min_size=1, max_size=6))
    def any_cut(cuts: list[int]) -> None:
        x = signal(2, sum(cuts), DIM)
        state, parts = layer.init_state(2), []
        for part in x.split(cuts, dim=1):
            y, state = layer.step(part, state)
            parts.append(y)
        close(torch.cat(parts, 1), subject.call(layer, x))

    any_cut()


@check(causal=True, step=True)
def beams_can_be_chosen(subject: Subject) -> None:
    layer, x = subject.build().eval(), signal(3, 8, DIM)
    chosen = torch.tensor([2, 0, 2, 1])
    _, state = layer.step(x[:, :5], layer.init_state(3))
    y, _ = layer.step(x[chosen, 5:], select_state(state, chosen))
    close(y, subject.call(layer, x[chosen])[:, 5:])


@check(causal=True, step=True)
def a_stream_can_be_put_away(subject: Subject) -> None:
    layer, x = subject.build().eval(), signal(2, 8, DIM)
    _, state = layer.step(x[:, :5], layer.init_state(2))
    file = io.BytesIO()
    torch.save(list(state), file)
    file.seek(0)
    y, _ = layer.step(x[:, 5:], type(state)(*torch.load(file, weights_only=True)))
    close(y, subject.call(layer, x)[:, 5:])


@check(causal=True, step=True)
def a_state_moves_and_its_size_is_known(subject: Subject) -> None:
    layer, x = subject.build().eval(), signal(2, 8, DIM)
    _, early = layer.step(x[:, :5], layer.init_state(2))
    _, late = layer.step(x[:, 5:], early)
    assert _bytes(late) == layer.cost(2, 8).state
    assert (_bytes(early) == _bytes(late)) is subject.mechanism.capabilities.constant_state
    moved = move_state(late, device="cpu", dtype=torch.float64)
    assert type(moved) is type(late)
    assert all(t.dtype == torch.float64 for t in moved if isinstance(t, Tensor) and t.is_floating_point())


@check(causal=True, step=True, border=True)
def a_wrong_state_is_refused(subject: Subject) -> None:
    layer, x = subject.build(), signal(2, 4, DIM)
    _, state = layer.step(x, layer.init_state(2))
    with pytest.raises(InputError, match="the state is of a batch of 2, x of 1"):
        layer.step(x[:1], state)
    with pytest.raises(InputError, match="init_state"):
        layer.step(x, ())


@check(causal=True, step=True, border=True)
def a_step_compiles_in_one_graph(subject: Subject) -> None:
    layer, x = subject.build().eval(), signal(2, 6, DIM)
    step = torch.compile(layer.step, fullgraph=True, backend="eager")
    y, state = step(x[:, :5], layer.init_state(2))
    last, _ = step(x[:, 5:], state)
    close(torch.cat((y, last), 1), subject.call(layer, x))
    torch._dynamo.reset()


@check(causal=True, block_causal=True)
def later_columns_do_not_exist_and_the_own_one_does(subject: Subject) -> None:
    layer, x = subject.build().eval(), signal(1, 3 * 8, DIM)
    y = layer(x, grid=(3, 8))
    for now in (0, 4):
        changed = x.clone()
        changed[:, 3 * (now + 1) :] = 100 * signal(1, 3 * (7 - now), DIM, seed=1)
        close(layer(changed, grid=(3, 8))[:, : 3 * (now + 1)], y[:, : 3 * (now + 1)])
    changed = x.clone()
    changed[:, 3 * 4 + 2] = signal(1, DIM, seed=1)  # the last row of the fifth column
    assert (layer(changed, grid=(3, 8)) - y)[:, 3 * 4].abs().max() > 1e-5


@check(causal=True, block_causal=True, step=True)
def a_stream_takes_whole_columns(subject: Subject) -> None:
    layer, x = subject.build().eval(), signal(2, 3 * 15, DIM)
    state, parts = layer.init_state(2, channels=3), []
    for part in x.split([3, 9, 3, 30], dim=1):
        y, state = layer.step(part, state)
        parts.append(y)
    close(torch.cat(parts, 1), layer(x, grid=(3, 15)))
    assert _bytes(state) == layer.cost(2, 45, grid=(3, 15)).state
    with pytest.raises(InputError, match="whole moments of 3 channels, got 4"):
        layer.step(x[:, :4], state)


@check(causal=False, lookahead=True)
def it_sees_no_further_than_it_says(subject: Subject) -> None:
    layer, x = _halfway(subject.build()), signal(1, 21, DIM)
    y = layer(x)
    for now in (0, 3, 11):
        changed, hidden = x.clone(), now + layer.lookahead + 1
        changed[:, hidden:] = 100 * signal(1, 21 - hidden, DIM, seed=1)
        close(layer(changed)[:, : now + 1], y[:, : now + 1])


@check(causal=False, lookahead=True)
def a_stream_catches_up(subject: Subject) -> None:
    layer = _halfway(subject.build())

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(cuts=st.lists(st.integers(1, 9), min_size=1, max_size=6))
    def any_cut(cuts: list[int]) -> None:
        x = signal(2, sum(cuts), DIM)
        state, parts = layer.init_state(2), []
        for part in x.split(cuts, dim=1):
            y, state = layer.step(part, state)
            parts.append(y)
        rest = layer.flush(state)
        assert rest.shape[1] <= layer.lookahead
        close(torch.cat((*parts, rest), 1), layer(x))

    any_cut()


def _halfway(layer: Attention) -> Attention:
    """As if in the middle of training, where what a layer decides differs from position to position."""
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter += 0.5 * signal(*parameter.shape, seed=seed)
    return layer.eval()


def _bytes(state: tuple) -> int:
    parts = [part for part in state if part is not None]
    return sum(_bytes(t) if isinstance(t, tuple) else t.numel() * t.element_size() for t in parts)
