"""The second stage of SSVEP-DNN: one copy of a network for each person, all trained at once (arXiv 2011.08562)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import vmap

from harken.errors import InputError
from harken.models.brain.ssvep_dnn import SSVEPNet, logits_by_products

State = dict[str, Tensor]
OnEpoch = Callable[[int, float], None]
NOBODY = -1  # the label of a row that only fills up
_WIDEST = 64  # filters up to which one person's products leave a core idle


@dataclass(frozen=True)
class PersonalBudget:
    """Epochs of a full batch, learning rate of Adam and L2 penalty of weights, biases left out."""

    epochs: int = 50
    lr: float = 1e-3
    weight_decay: float = 1e-3


def fit_each(
    net: SSVEPNet,
    x: Float[Tensor, "people trials bands channels samples"],
    y: Int[Tensor, "people trials"],
    budget: PersonalBudget,
    *,
    seed: int = 0,
    together: bool | None = None,
    on_epoch: OnEpoch | None = None,
) -> State:
    """Train a copy of a network on each person's trials; people with fewer trials have rows of label -1.

    Together, the copies' parameters are stacked and the network is mapped over them: a step of all people is one step
    of larger products. Adam works number by number, so the result is that of training one after the other, but for the
    random numbers of dropout.

    Args:
        net: where everybody starts, with the dropout of this stage.
        x, y: sub-bands and labels.
        budget: how long, how fast.
        seed: of dropout.
        together: or one after the other; by the size of the network where None, since a processor that is busy with
            one person's products gains nothing from more of them.
        on_epoch: called as ``on_epoch(epoch, mean loss)``.

    Returns:
        Parameters by name, each with a first dimension of people.

    Raises:
        InputError: the loss is not finite.
    """
    if together is None:
        together = net.config.filters <= _WIDEST or x.is_cuda
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        if together:
            return _together(net, x, y, budget, on_epoch)
        return _one_by_one(net, x, y, budget, on_epoch)


def _together(net: SSVEPNet, x: Tensor, y: Tensor, budget: PersonalBudget, on_epoch: OnEpoch | None) -> State:
    stacked = {
        name: parameter.detach().expand(len(x), *parameter.shape).clone().requires_grad_()
        for name, parameter in net.named_parameters()
    }
    decayed = [parameter for name, parameter in stacked.items() if "bias" not in name]
    optimizer = torch.optim.Adam(stacked.values(), lr=budget.lr)
    is_trial = (y != NOBODY).to(x.dtype)
    is_trial /= is_trial.sum(1, keepdim=True)
    of_all = vmap(partial(logits_by_products, dropout=net.config.dropout), randomness="different")
    for epoch in range(budget.epochs):
        losses = F.cross_entropy(of_all(stacked, x).transpose(1, 2), y.clamp(min=0), reduction="none") * is_trial
        optimizer.zero_grad(set_to_none=True)
        # the sum over people: each one's parameters see their own loss alone
        (losses.sum() + budget.weight_decay / 2 * sum(w.square().sum() for w in decayed)).backward()
        optimizer.step()
        _told(epoch, float(losses.detach().sum()) / len(x), on_epoch)
    return {name: parameter.detach() for name, parameter in stacked.items()}


def _one_by_one(net: SSVEPNet, x: Tensor, y: Tensor, budget: PersonalBudget, on_epoch: OnEpoch | None) -> State:
    people = []
    for trials, labels in zip(x, y, strict=True):
        own = copy.deepcopy(net).train()
        optimizer = torch.optim.Adam(own.parameters(), lr=budget.lr)
        kept = labels != NOBODY
        for epoch in range(budget.epochs):
            loss = F.cross_entropy(own(trials[kept]), labels[kept])
            optimizer.zero_grad(set_to_none=True)
            (loss + budget.weight_decay * own.penalty()).backward()
            optimizer.step()
            _told(epoch, float(loss.detach()), on_epoch)
        people.append({name: parameter.detach() for name, parameter in own.named_parameters()})
    return {name: torch.stack([state[name] for state in people]) for name in people[0]}


def _told(epoch: int, loss: float, on_epoch: OnEpoch | None) -> None:
    if not math.isfinite(loss):
        raise InputError(f"the loss is no longer finite after {epoch + 1} epochs: lower lr, or look at the trials")
    if on_epoch is not None:
        on_epoch(epoch, loss)
