"""A system so small that a step takes a millisecond, with dropout, buffers and a discriminator to look after.

``python -m tests.train.toy FOLDER STEPS WHEN`` trains it, and kills itself (SIGKILL) at WHEN.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from harken.models._base import Model
from harken.train.loop import LoopConfig, Recipe, train

QUICK = LoopConfig(steps=6, batch_size=2, lr=0.05, warmup=1, validate_every=2, save_every=2, ema=0.9, seed=3)


@dataclass(frozen=True)
class ToyConfig:
    width: int = 4
    dropout: float = 0.5


class Toy(Model):
    slug = "toy"
    Config = ToyConfig

    def __init__(self, config: ToyConfig | None = None):
        super().__init__(config)
        width = self.config.width
        self.layers = nn.Sequential(
            nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(self.config.dropout), nn.Linear(width, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)

    @classmethod
    def from_authors(cls, state_dict: Any, config: Any = None) -> Toy:
        raise NotImplementedError


class Items(Dataset):
    """Item ``i`` is drawn from a generator of its own; a batch with an item of ``bad`` is not a number."""

    def __init__(self, length: int, bad: tuple[int, ...] = ()):
        self.length, self.bad = length, bad

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(3, generator=torch.Generator().manual_seed(index))
        return x, x.sum(0, keepdim=True) * (torch.nan if index in self.bad else 1)


class ToyRecipe(Recipe):
    def __init__(self, *, adversary: bool = False, bad: tuple[int, ...] = (), config: ToyConfig | None = None):
        torch.manual_seed(0)
        self.model = Toy(config)
        self.adversary = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.3), nn.Linear(4, 1)) if adversary else None
        self.bad = bad
        self.heard: list[float] = []
        self.validations: list[float] = []

    def dataset(self, items: int, seed: int) -> Items:
        return Items(items, self.bad)

    def generate(self, model: nn.Module, batch: Any, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = batch
        return model(x), y

    def losses(self, made: Any, step: int) -> dict[str, torch.Tensor]:
        output, target = made
        loss = F.mse_loss(output, target)
        if self.adversary is not None:
            loss = loss + 0.1 * F.mse_loss(self.adversary(output), torch.ones_like(output))
        return {"total": loss}

    def adversary_losses(self, adversary: nn.Module, made: Any, step: int) -> dict[str, torch.Tensor] | None:
        output, target = made
        self.heard += [float(p.grad.abs().sum()) for p in self.adversary.parameters() if p.grad is not None]
        both = adversary(torch.cat((target, output.detach())))
        return {"total": F.mse_loss(both, torch.cat((torch.ones_like(target), torch.zeros_like(output))))}

    def validate(self, model: Model) -> dict[str, float]:
        torch.rand(7)  # a judge that draws random numbers
        x, y = zip(*(Items(64)[1000 + i] for i in range(16)), strict=True)
        loss = float(F.mse_loss(model(torch.stack(x)), torch.stack(y)).detach())
        self.validations.append(loss)
        return {"loss": loss}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """What a run has learnt, with its averages and its optimisers' moments, by name."""
    state = torch.load(folder / "state.pt", weights_only=True)
    flat = {}
    for part in ("model", "averaged", "adversary"):
        flat |= {f"{part}.{name}": tensor for name, tensor in (state[part] or {}).items()}
    for part in ("optimizer", "adversary_optimizer"):
        for index, moments in (state[part] or {"state": {}})["state"].items():
            flat |= {f"{part}.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    return flat


def main(folder: str, steps: str, when: str) -> None:
    def die(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def on_step(step: int, losses: dict[str, float]) -> None:
        if when == f"after step {step}":
            die()
        if when == f"writing after step {step}":  # the temporary file is whole, and has not got its name yet
            Path.replace = die  # type: ignore[method-assign,assignment]

    config = LoopConfig(**{**asdict(QUICK), "steps": int(steps)})
    train(ToyRecipe(adversary=True), config, folder, device="cpu", on_step=on_step)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:4])
