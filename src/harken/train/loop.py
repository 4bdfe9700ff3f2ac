"""One training loop for every system: any device and number of processes, exact resume, plain or adversarial steps."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sized
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from harken.errors import CheckpointError, InputError, MissingExtraError
from harken.models._base import Model
from harken.observation import observe


@dataclass(frozen=True)
class LoopConfig:
    """How long, how fast, how often.

    Attributes:
        steps: optimiser steps in all.
        batch_size: items per process and step.
        lr, betas, weight_decay: of AdamW; ``adversary_lr`` for the discriminator (``lr`` when None).
        schedule: ``"cosine"`` to ``final_lr`` of the peak, ``"exponential"`` by ``decay`` every ``decay_every`` steps,
            or ``"constant"``; each after ``warmup`` steps of linear rise.
        clip_norm: largest gradient norm, 0 for none.
        ema: decay of the averaged weights that are validated and shipped, 0 for none.
        validate_every, save_every: steps.
        precision: ``"no"``, ``"bf16"`` or ``"fp16"``.
        seed: of weights, data and dropout.
        workers: data-loading processes.
    """

    steps: int = 10_000
    batch_size: int = 4
    lr: float = 5e-4
    adversary_lr: float | None = None
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: float = 0.01
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    final_lr: float = 0.02
    decay: float = 0.99
    decay_every: int = 1000
    warmup: int = 100
    clip_norm: float = 5.0
    ema: float = 0.999
    validate_every: int = 500
    save_every: int = 100
    precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.validate_every, self.save_every) < 1 or self.lr <= 0:
            raise InputError("steps, batch_size, validate_every, save_every and lr must be positive")

    def lr_factor(self, step: int) -> float:
        """The share of the peak learning rate at ``step``."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        if self.schedule == "constant":
            return rise
        if self.schedule == "exponential":
            return rise * self.decay ** (step // self.decay_every)
        progress = min(1.0, max(0.0, (step - self.warmup) / max(1, self.steps - self.warmup)))
        return rise * (self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))


class Recipe(ABC):
    """What one system brings to the loop: its model, its data, its losses, its judgement."""

    model: Model
    adversary: nn.Module | None = None
    score_name: str = "loss"  # the validation entry that picks the best checkpoint
    higher_is_better: bool = False

    @abstractmethod
    def dataset(self, items: int, seed: int) -> Dataset[Any]:
        """Training items by index; the same index gives the same item in every process and run."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Any, step: int) -> tuple[dict[str, Tensor], Any]:
        """Named losses with their weighted sum under ``total``, and whatever :meth:`adversary_losses` wants to see."""

    def adversary_losses(self, batch: Any, made: Any, step: int) -> dict[str, Tensor] | None:
        """The discriminator's losses (``total``) for this step; None to leave it alone. Runs before :meth:`losses`'s step."""
        return None

    @abstractmethod
    def validate(self, model: Model) -> dict[str, float]:
        """Metrics of the model (averaged weights) on held-out data."""


class StepSampler(Sampler[list[int]]):
    """Batches of indices by step and process, so that a resumed run sees the items it would have seen."""

    def __init__(self, first: int, last: int, batch_size: int, rank: int = 0, world: int = 1):
        self.first, self.last, self.batch_size, self.rank, self.world = first, last, batch_size, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.last):
            start = (step * self.world + self.rank) * self.batch_size
            yield list(range(start, start + self.batch_size))

    def __len__(self) -> int:
        return self.last - self.first


def train(
    recipe: Recipe,
    config: LoopConfig,
    folder: Path | str,
    *,
    resume: bool = False,
    device: Literal["auto", "cpu"] = "auto",
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> dict[str, float]:
    """Train, and leave in ``folder``: ``best/`` and ``last/`` (models), ``state.pt`` (to resume), ``history.jsonl``, curves.

    Every file is written whole or not at all, so a killed run resumes from its last save and goes on bit for bit as it
    would have (on one machine, with the same number of threads).

    Args:
        recipe: the system.
        config: length and speed.
        folder: where the run lives.
        resume: go on where ``folder`` stopped; a folder with a run in it is otherwise refused.
        device: ``"auto"`` takes what accelerate finds.
        on_step: called after every step with its losses (the command line's progress bar).

    Returns:
        the best validation metrics.

    Raises:
        InputError: the folder already holds a run (and ``resume`` is not set).
        CheckpointError: the run in the folder is damaged or of another configuration.
        MissingExtraError: accelerate is not installed.
    """
    try:
        from accelerate import Accelerator
    except ImportError:
        raise MissingExtraError("accelerate", extra="train") from None
    folder = Path(folder)
    state_path = folder / "state.pt"
    if state_path.exists() and not resume:
        raise InputError(f"'{folder}' already holds a run: pass --resume to go on with it, or choose another folder")
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=config.precision)
    folder.mkdir(parents=True, exist_ok=True)

    run = _Run(recipe, config, accelerator)
    if state_path.exists():
        run.load(state_path)
    run.prepare()
    history = _History(folder, run.step, main=accelerator.is_main_process)
    try:
        for batch in run.batches():
            losses = run.take_step(batch)
            history.losses(run.step, losses)
            if on_step:
                on_step(run.step, losses)
            last = run.step == config.steps
            if run.step % config.validate_every == 0 or last:
                _validate(run, folder, history)
            if (run.step % config.save_every == 0 or last) and accelerator.is_main_process:
                run.save(state_path)
                run.averaged.save_pretrained(folder / "last")
    finally:
        history.close()
    return run.best


class _Run:
    """Model, averaged model, optimisers and counters of a run: what is saved and resumed."""

    def __init__(self, recipe: Recipe, config: LoopConfig, accelerator: Any):
        self.recipe, self.config, self.accelerator = recipe, config, accelerator
        self.step = 0
        self.best: dict[str, float] = {}
        torch.manual_seed(config.seed + 7919 * accelerator.process_index)  # dropout; weights were made by the recipe
        self.averaged: Model = copy.deepcopy(recipe.model).requires_grad_(False).eval()
        adamw = {"betas": config.betas, "weight_decay": config.weight_decay}
        self.optimizer = torch.optim.AdamW(recipe.model.parameters(), lr=config.lr, **adamw)  # type: ignore[arg-type]
        self.adversary_optimizer = None
        if recipe.adversary is not None:
            rate = config.adversary_lr or config.lr
            self.adversary_optimizer = torch.optim.AdamW(recipe.adversary.parameters(), lr=rate, **adamw)  # type: ignore[arg-type]

    def prepare(self) -> None:
        """Hand everything to accelerate (device, precision, processes)."""
        accelerator = self.accelerator
        self.model, self.optimizer = accelerator.prepare(self.recipe.model, self.optimizer)
        self.averaged.to(accelerator.device)
        if self.recipe.adversary is not None:
            adversary, self.adversary_optimizer = accelerator.prepare(self.recipe.adversary, self.adversary_optimizer)
            self.recipe.adversary = adversary

    def batches(self) -> Iterator[Any]:
        """The batches from here to the last step."""
        accelerator, config = self.accelerator, self.config
        world = accelerator.num_processes
        data = self.recipe.dataset(config.steps * config.batch_size * world, config.seed)
        assert isinstance(data, Sized)
        sampler = StepSampler(self.step, config.steps, config.batch_size, accelerator.process_index, world)
        # a generator of its own: the loader would otherwise draw from the global one, which resuming restores
        loader: DataLoader[Any] = DataLoader(
            data,
            batch_sampler=sampler,
            num_workers=config.workers,
            persistent_workers=config.workers > 0,
            generator=torch.Generator().manual_seed(config.seed),
        )
        for batch in loader:
            yield [part.to(accelerator.device) for part in batch]

    def take_step(self, batch: Any) -> dict[str, float]:
        """One step of the generator, after one of the discriminator where there is one."""
        config, accelerator = self.config, self.accelerator
        factor = config.lr_factor(self.step)
        _set_lr(self.optimizer, config.lr * factor)
        logged: dict[str, Tensor] = {}
        with observe(accelerator.unwrap_model(self.model), "loss") as seen, accelerator.autocast():
            losses, made = self.recipe.losses(self.model, batch, self.step)
            total = losses["total"] + seen.total("loss")
        if self.adversary_optimizer is not None:
            adversary = self.recipe.adversary_losses(batch, made, self.step)
            if adversary is not None:
                _set_lr(self.adversary_optimizer, (config.adversary_lr or config.lr) * factor)
                self._descend(self.adversary_optimizer, adversary["total"], self.recipe.adversary)
                logged |= {f"adversary_{name}": value for name, value in adversary.items()}
        self._descend(self.optimizer, total, self.model)
        self.step += 1
        self._average()
        logged |= losses
        return {name: float(value.detach()) for name, value in logged.items()}

    def _descend(self, optimizer: Any, loss: Tensor, module: nn.Module | None) -> None:
        if not bool(torch.isfinite(loss.detach())):
            optimizer.zero_grad(set_to_none=True)  # one bad batch must not poison the weights
            return
        self.accelerator.backward(loss)
        if self.config.clip_norm and module is not None:
            self.accelerator.clip_grad_norm_(module.parameters(), self.config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))  # follow quickly at first
        source = self.accelerator.unwrap_model(self.model).state_dict()
        for name, average in self.averaged.state_dict().items():
            if average.is_floating_point():
                average.lerp_(source[name].to(average.dtype), 1 - decay)
            else:
                average.copy_(source[name])

    def save(self, path: Path) -> None:
        """Everything that resuming needs, whole or not at all."""
        unwrap = self.accelerator.unwrap_model
        adversary, optimizer = self.recipe.adversary, self.adversary_optimizer
        state = {
            "step": self.step,
            "best": self.best,
            "config": _plain(asdict(self.config)),
            "model": unwrap(self.model).state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "adversary": None if adversary is None else unwrap(adversary).state_dict(),
            "adversary_optimizer": None if optimizer is None else optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            torch.save(state, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, path: Path) -> None:
        """Take up a saved state; only the number of steps and how often things happen may differ."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            changed = _changes(state["config"], _plain(asdict(self.config)))
            if changed:
                raise CheckpointError(f"the run in '{path.parent}' was started with other settings: {', '.join(changed)}")
            self.recipe.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.recipe.adversary is not None and state["adversary"] is not None:
                self.recipe.adversary.load_state_dict(state["adversary"])
                assert self.adversary_optimizer is not None
                self.adversary_optimizer.load_state_dict(state["adversary_optimizer"])
            self.step, self.best = int(state["step"]), dict(state["best"])
            torch.set_rng_state(state["random"])
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(f"cannot resume from '{path}': {str(error).splitlines()[0][:200]}") from None


_MAY_CHANGE = {"steps", "validate_every", "save_every", "workers", "precision"}


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [f"{name} {old.get(name)!r} -> {new[name]!r}" for name in new if name not in _MAY_CHANGE and old.get(name) != new[name]]


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}


def _set_lr(optimizer: Any, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _validate(run: _Run, folder: Path, history: _History) -> None:
    if not run.accelerator.is_main_process:
        return
    started = time.perf_counter()
    random = torch.get_rng_state()
    with torch.inference_mode():
        metrics = run.recipe.validate(run.averaged)
    torch.set_rng_state(random)
    history.metrics(run.step, metrics, time.perf_counter() - started)
    name, sign = run.recipe.score_name, 1 if run.recipe.higher_is_better else -1
    if not run.best or sign * metrics[name] > sign * run.best[name]:
        run.best = {**metrics, "step": float(run.step)}
        run.averaged.save_pretrained(folder / "best")


class _History:
    """Losses and metrics of a run: one JSON line each, and TensorBoard curves where it is installed."""

    def __init__(self, folder: Path, step: int, *, main: bool):
        self.main = main
        self.path = folder / "history.jsonl"
        self.curves: Any = None
        if not main:
            return
        if self.path.exists():  # drop what a killed run wrote after its last save
            kept = [line for line in self.path.read_text().splitlines() if _step_of(line) <= step]
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text("".join(f"{line}\n" for line in kept))
            temporary.replace(self.path)
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.curves = SummaryWriter(str(folder / "curves"), purge_step=step + 1)
        self.file = self.path.open("a")

    def losses(self, step: int, losses: dict[str, float]) -> None:
        """One step's losses (every tenth is kept)."""
        if self.main and step % 10 == 0:
            self._write({"step": step, **losses}, "loss")

    def metrics(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        """One validation."""
        if self.main:
            self._write({"step": step, "validation": metrics, "seconds": round(seconds, 2)}, "validation")

    def _write(self, entry: dict[str, Any], group: str) -> None:
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()
        if self.curves is not None:
            values = entry.get("validation", {k: v for k, v in entry.items() if k != "step"})
            for name, value in values.items():
                self.curves.add_scalar(f"{group}/{name}", value, entry["step"])

    def close(self) -> None:
        """Close the files."""
        if self.main:
            self.file.close()
            if self.curves is not None:
                self.curves.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
