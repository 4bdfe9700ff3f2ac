"""What layers emit reaches whoever observes, and nobody else."""

from __future__ import annotations

from threading import Thread

import pytest
import torch
from torch import Tensor, nn

from harken.observation import emit, observe


class Doubler(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        emit(self, "gate", lambda: x * 2)
        emit(self, "loss", x.sum())
        return x


def test_names_and_paths() -> None:
    model = nn.Sequential(Doubler(), nn.Sequential(Doubler()))
    with observe(model) as seen:
        model(torch.ones(3))
    assert [(path, name) for path, name, _ in seen.entries] == [
        ("0", "gate"), ("0", "loss"), ("1.0", "gate"), ("1.0", "loss"),
    ]  # fmt: skip
    assert seen["gate"]["1.0"].tolist() == [2, 2, 2]
    assert seen.total() == 6
    assert seen["routing"] == {} and seen.total("routing") == 0.0


def test_only_what_was_asked_for_is_computed() -> None:
    def never() -> Tensor:
        raise AssertionError("nobody asked")

    layer = nn.Identity()
    emit(layer, "weights", never)
    with observe(layer, "loss") as seen:
        emit(layer, "weights", never)
        emit(nn.Identity(), "loss", never)
    assert seen.entries == []


def test_every_emission_is_kept_and_the_last_is_shown() -> None:
    layer = Doubler()
    with observe(layer, "gate") as seen:
        layer(torch.ones(1))
        layer(torch.zeros(1))
    assert [t.item() for t in seen.all("gate")] == [2, 0]
    assert seen["gate"][""].item() == 0


def test_observers_nest_and_leave() -> None:
    model = nn.Sequential(Doubler())
    with observe(model, "loss") as outer:
        with pytest.raises(ZeroDivisionError), observe(model[0], "loss") as inner:
            model(torch.ones(1))
            raise ZeroDivisionError
        model(torch.ones(1))
    model(torch.ones(1))
    assert len(outer.entries) == 2 and len(inner.entries) == 1


def test_auxiliary_losses_carry_gradients() -> None:
    model, x = Doubler(), torch.ones(3, requires_grad=True)
    with observe(model, "loss") as seen:
        model(x)
    total = seen.total()
    assert isinstance(total, Tensor)
    total.backward()
    assert x.grad is not None and x.grad.tolist() == [1, 1, 1]


def test_another_thread_is_not_observed() -> None:
    model = Doubler()
    with observe(model) as seen:
        thread = Thread(target=model, args=(torch.ones(1),))
        thread.start()
        thread.join()
    assert seen.entries == []


@pytest.mark.border
def test_a_compiled_model_can_be_observed() -> None:
    model = Doubler()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    compiled(torch.ones(2))
    with observe(model, "gate") as seen:
        compiled(torch.ones(2))
    compiled(torch.ones(2))
    assert [t.tolist() for t in seen.all("gate")] == [[2, 2]]
    torch._dynamo.reset()
