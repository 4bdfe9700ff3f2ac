"""The small training in memory that estimators share: batches from a seed, early stopping, the best weights kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harken.errors import InputError

Loss = Callable[..., Tensor]
OnEpoch = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Budget:
    """How long and how fast.

    Attributes:
        epochs: passes over the training trials, at most.
        batch_size: trials a step; a last batch of one is left out, since batch normalisation cannot use it.
        lr, weight_decay: of Adam, whose decay is an L2 penalty, or of AdamW with ``decoupled``.
        patience: epochs without a better validation loss after which it ends; None goes on to the last.
        schedule: ``"constant"``, or ``"cosine"`` to zero over all epochs after a tenth of rising.
        clip_norm: largest norm of a gradient, 0 for none.
    """

    epochs: int = 100
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.0
    patience: int | None = 20
    schedule: str = "constant"
    decoupled: bool = False
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1 or not 0 < self.lr < math.inf or self.weight_decay < 0:
            raise InputError("expected epochs and batch_size of at least 1, lr above 0 and weight_decay of at least 0")
        if self.schedule not in ("constant", "cosine"):
            raise InputError(f"expected a schedule of constant or cosine, got {self.schedule!r}")


def fit_module(
    module: nn.Module,
    loss: Loss,
    train: Sequence[Tensor],
    validation: Sequence[Tensor] | None,
    budget: Budget,
    *,
    seed: int = 0,
    parameters: Iterable[nn.Parameter] | None = None,
    on_epoch: OnEpoch | None = None,
) -> list[dict[str, float]]:
    """Train a module on tensors in memory; it ends in evaluation mode with the weights of its best epoch.

    Nothing outside follows from the seed: the state of torch's random numbers is put back.

    Args:
        module: what is trained.
        loss: ``loss(module, *batch)``, a mean over the batch.
        train, validation: tensors of one length each; without validation the last epoch's weights are kept.
        budget: how long and how fast.
        seed: of the order, of dropout and of whatever the loss draws from torch.
        parameters: which to train; those that require gradients when None.
        on_epoch: called as ``on_epoch(epoch, {"loss": …, "validation_loss": …})``.

    Returns:
        Those entries, epoch by epoch.

    Raises:
        InputError: the loss is not finite: the learning rate is too high, or the trials are broken.
    """
    trained = [p for p in (module.parameters() if parameters is None else parameters) if p.requires_grad]
    make = torch.optim.AdamW if budget.decoupled else torch.optim.Adam
    optimizer = make(trained, lr=budget.lr, weight_decay=budget.weight_decay)
    history: list[dict[str, float]] = []
    best, best_state, since = math.inf, None, 0
    device = next(module.parameters()).device
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(budget.epochs):
            if budget.schedule == "cosine":
                for group in optimizer.param_groups:
                    group["lr"] = budget.lr * _cosine(epoch / budget.epochs)
            module.train()
            total, count = torch.zeros((), device=device), 0
            for index in torch.randperm(len(train[0]), generator=order).split(budget.batch_size):
                if len(index) == 1 and count:
                    continue
                value = loss(module, *(part[index].to(device) for part in train))
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                if budget.clip_norm:
                    nn.utils.clip_grad_norm_(trained, budget.clip_norm)
                optimizer.step()
                total, count = total + value.detach() * len(index), count + len(index)
            entry = {"loss": float(total) / max(1, count)}
            if validation is not None:
                entry["validation_loss"] = mean_loss(module, loss, validation, budget.batch_size)
            history.append(entry)
            if not all(map(math.isfinite, entry.values())):
                raise InputError(
                    f"the loss is no longer finite after {epoch + 1} epochs: lower lr, or look at the trials"
                )
            if on_epoch:
                on_epoch(epoch, entry)
            if validation is not None:
                since += 1
                if entry["validation_loss"] < best:
                    best, best_state, since = entry["validation_loss"], copy.deepcopy(module.state_dict()), 0
                if budget.patience is not None and since >= budget.patience:
                    break
    if best_state is not None:
        module.load_state_dict(best_state)
    module.eval()
    return history


@torch.no_grad()
def mean_loss(module: nn.Module, loss: Loss, tensors: Sequence[Tensor], batch_size: int) -> float:
    """The loss over all of some tensors, the module in evaluation mode."""
    module.eval()
    device = next(module.parameters()).device
    total = 0.0
    for parts in zip(*(part.split(batch_size) for part in tensors), strict=True):
        total += float(loss(module, *(part.to(device) for part in parts))) * len(parts[0])
    return total / len(tensors[0])


@torch.inference_mode()
def in_batches(module: Callable[[Tensor], Tensor], x: Tensor, device: torch.device, at_once: int = 256) -> Tensor:
    """What a module makes of many trials, some at a time, on the CPU."""
    return torch.cat([module(part.to(device)).float().cpu() for part in x.split(at_once)])


def _cosine(progress: float) -> float:
    return min(1.0, progress / 0.1 + 0.1) * 0.5 * (1 + math.cos(math.pi * progress))
