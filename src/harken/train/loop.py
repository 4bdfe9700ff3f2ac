"""One training loop for every system: any device and number of processes, exact resume, plain or adversarial steps."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Set, Sized
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from harken.errors import CheckpointError, HarkenError, InputError, MissingExtraError, OutputError
from harken.models._base import Model, first_line
from harken.observation import observe
from harken.train.history import History
from harken.whole_files import whole_file


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
        if min(self.steps, self.batch_size, self.validate_every, self.save_every, self.decay_every) < 1:
            raise InputError("steps, batch_size, validate_every, save_every and decay_every must be at least 1")
        if not 0 < self.lr < math.inf or not 0 <= self.ema < 1 or min(self.clip_norm, self.workers) < 0:
            raise InputError("expected lr above 0, ema in [0, 1), and clip_norm and workers of at least 0")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"expected a seed from 0 to 2147483647, got {self.seed}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")

    def lr_factor(self, step: int) -> float:
        """The share of the peak learning rate at ``step``."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        if self.schedule == "constant":
            return rise
        if self.schedule == "exponential":
            return rise * self.decay ** (step // self.decay_every)
        progress = min(1.0, max(0.0, (step - self.warmup) / max(1, self.steps - self.warmup)))
        return rise * (self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))


_CHOICES = {"schedule": ("cosine", "exponential", "constant"), "precision": ("no", "bf16", "fp16")}


class Recipe(ABC):
    """What one system brings to the loop: its model, its data, its losses, its judgement.

    A step is :meth:`generate`, then the discriminator's turn (:meth:`adversary_losses`) where there is one, then the
    model's (:meth:`losses`), which hears the discriminator as it is after its turn and sends it no gradients.
    """

    model: Model
    adversary: nn.Module | None = None
    score_name: str = "loss"  # the validation entry that picks the best checkpoint
    higher_is_better: bool = False

    @abstractmethod
    def dataset(self, items: int, seed: int) -> Dataset[Any]:
        """Training items by index; the same index gives the same item in every process and run."""

    @abstractmethod
    def generate(self, model: nn.Module, batch: Any, step: int) -> Any:
        """The model's outputs on a batch, with whatever the losses need beside them."""

    @abstractmethod
    def losses(self, made: Any, step: int) -> dict[str, Tensor]:
        """The model's losses by name, with their weighted sum under ``total``."""

    def adversary_losses(self, adversary: nn.Module, made: Any, step: int) -> dict[str, Tensor] | None:
        """The discriminator's losses on detached outputs, with ``total``; None to leave it alone this step.

        ``adversary`` is :attr:`adversary` made ready for several processes: only here does it go by that name.
        """
        return None

    def settings(self) -> dict[str, Any]:
        """What a run cannot be resumed without, by name: plain numbers, texts, lists and dictionaries."""
        return {"model": asdict(self.model.config)}

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
        return max(0, self.last - self.first)


def train(
    recipe: Recipe,
    config: LoopConfig,
    folder: Path | str,
    *,
    resume: bool = False,
    device: Literal["auto", "cpu"] = "auto",
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    on_validation: Callable[[int, dict[str, float]], None] | None = None,
) -> dict[str, float]:
    """Train, and leave in ``folder`` the models ``best/`` and ``last/``, ``state.pt`` (to resume), and the history.

    Every file is written whole or not at all, so a killed run resumes from its last save and goes on bit for bit as it
    would have (on one machine, with the same number of threads).

    Args:
        recipe: the system.
        config: length and speed.
        folder: where the run lives.
        resume: go on where ``folder`` stopped; a folder with a run in it is otherwise refused.
        device: ``"auto"`` takes what accelerate finds.
        on_step: called after every step with its losses (the command line's progress bar).
        on_validation: called after every validation with its metrics, in the main process.

    Returns:
        the best validation metrics.

    Raises:
        InputError: the folder already holds a run (and ``resume`` is not set).
        CheckpointError: the run in the folder is damaged or of another configuration.
        OutputError: the folder cannot be written, or the disk is full.
        HarkenError: the loss was not a number for a hundred steps.
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
    if accelerator.is_main_process:
        _make_folder(folder)

    run = _Run(recipe, config, accelerator)
    if state_path.exists():
        run.load(state_path)
    run.prepare()
    accelerator.wait_for_everyone()  # all have read the state before anyone writes one
    history = History(folder, run.step, main=accelerator.is_main_process)
    try:
        for batch in run.batches():
            losses = run.take_step(batch)
            history.losses(run.step, losses)
            if on_step:
                on_step(run.step, losses)
            last = run.step == config.steps
            if run.step % config.validate_every == 0 or last:
                _validate(run, folder, history, on_validation)
            if (run.step % config.save_every == 0 or last) and accelerator.is_main_process:
                run.save(state_path)
                run.averaged.save_pretrained(folder / "last")
    except OSError as error:
        if isinstance(error, HarkenError):
            raise
        raise OutputError(f"cannot write in '{folder}': {error.strerror or error}") from None
    finally:
        history.close()
    return run.best


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in (folder, folder / "best", folder / "last"):
            for left in part.glob(".*.partial"):  # by a process that was killed as it wrote
                left.unlink()
    except OSError as error:
        raise OutputError(f"cannot use the folder '{folder}': {error.strerror}") from None


class _Run:
    """Model, averaged model, optimisers and counters of a run: what is saved and resumed."""

    def __init__(self, recipe: Recipe, config: LoopConfig, accelerator: Any):
        self.recipe, self.config, self.accelerator = recipe, config, accelerator
        self.step, self.skipped = 0, 0
        self.best: dict[str, float] = {}
        self.averaged: Model = copy.deepcopy(recipe.model).requires_grad_(False).eval()
        adamw = {"betas": config.betas, "weight_decay": config.weight_decay}
        recipe.model.train()  # loaded weights come ready for inference
        self.optimizer = torch.optim.AdamW(recipe.model.parameters(), lr=config.lr, **adamw)  # type: ignore[arg-type]
        self.adversary: nn.Module | None = recipe.adversary
        self.adversary_optimizer: Any = None
        if recipe.adversary is not None:
            rate = config.adversary_lr or config.lr
            self.adversary_optimizer = torch.optim.AdamW(recipe.adversary.parameters(), lr=rate, **adamw)  # type: ignore[arg-type]

    def prepare(self) -> None:
        """Hand everything to accelerate (device, precision, processes)."""
        accelerator = self.accelerator
        self.model, self.optimizer = accelerator.prepare(self.recipe.model, self.optimizer)
        self.averaged.to(accelerator.device)
        if self.adversary is not None:
            self.adversary, self.adversary_optimizer = accelerator.prepare(self.adversary, self.adversary_optimizer)

    def batches(self) -> Iterator[Any]:
        """The batches from here to the last step."""
        accelerator, config = self.accelerator, self.config
        world = accelerator.num_processes
        data = self.recipe.dataset(config.steps * config.batch_size * world, config.seed)
        assert isinstance(data, Sized)
        sampler = StepSampler(self.step, config.steps, config.batch_size, accelerator.process_index, world)
        # a generator of its own: the loader would otherwise draw from the global one
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
        """One step of the model, after one of the discriminator where there is one."""
        config, recipe, accelerator = self.config, self.recipe, self.accelerator
        # every step and process draws numbers of its own (dropout), so that no generator's state need be saved
        torch.manual_seed((config.seed * 1_000_003 + self.step) * 4099 + accelerator.process_index)
        factor = config.lr_factor(self.step)
        with observe(accelerator.unwrap_model(self.model), "loss") as seen, accelerator.autocast():
            made = recipe.generate(self.model, batch, self.step)
        logged: dict[str, Tensor] = {}
        if self.adversary is not None:
            with accelerator.autocast():
                adversary = recipe.adversary_losses(self.adversary, made, self.step)
            if adversary is not None:
                rate = config.adversary_lr or config.lr
                self._descend(self.adversary_optimizer, adversary["total"], self.adversary, rate * factor)
                logged |= {f"adversary_{name}": value for name, value in adversary.items()}
        with _frozen(recipe.adversary), accelerator.autocast():
            losses = recipe.losses(made, self.step)
        total = losses["total"] + seen.total("loss")
        self.skipped = 0 if self._descend(self.optimizer, total, self.model, config.lr * factor) else self.skipped + 1
        if self.skipped == 100:
            raise HarkenError(f"the loss was not a number for 100 steps up to {self.step}: try a lower learning rate")
        self.step += 1
        self._average()
        logged |= losses
        return {name: float(value.detach()) for name, value in logged.items()}

    def _descend(self, optimizer: Any, loss: Tensor, module: nn.Module, rate: float) -> bool:
        """One step of an optimiser; False where a gradient was not finite and the weights stay as they are.

        The gradients decide, not the loss: a finite loss can have NaN gradients, and gradients, once they are averaged,
        are the same in all processes, so that all of them skip or none.
        """
        for group in optimizer.param_groups:
            group["lr"] = rate
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(module.parameters(), self.config.clip_norm or math.inf)
        finite = bool(torch.isfinite(torch.as_tensor(norm)))
        if finite or self.accelerator.scaler is not None:  # fp16's scaler skips by itself, and learns from it
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return finite

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
            "recipe": _plain(self.recipe.settings()),
            "best": self.best,
            "config": _plain(asdict(self.config)),
            "model": unwrap(self.model).state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "adversary": None if adversary is None else unwrap(adversary).state_dict(),
            "adversary_optimizer": None if optimizer is None else optimizer.state_dict(),
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
        }
        try:
            with whole_file(path) as partial:
                torch.save(state, partial)
        except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
            raise OutputError(f"cannot save the run in '{path.parent}': {first_line(error)}") from None

    def load(self, path: Path) -> None:
        """Take up a saved state; only the number of steps and how often things happen may differ."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            changed = _changes(state["config"], _plain(asdict(self.config)), _MAY_CHANGE)
            changed += _changes(state.get("recipe", {}), _plain(self.recipe.settings()))
            if changed:
                what = f"the run in '{path.parent}' was started with other settings: {', '.join(changed)}"
                raise CheckpointError(f"{what}; give those again, or choose another folder")
            self.recipe.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.recipe.adversary is not None and state["adversary"] is not None:
                self.recipe.adversary.load_state_dict(state["adversary"])
                self.adversary_optimizer.load_state_dict(state["adversary_optimizer"])
            if self.accelerator.scaler is not None and state.get("scaler"):
                self.accelerator.scaler.load_state_dict(state["scaler"])
            self.step, self.best = int(state["step"]), dict(state["best"])
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(f"cannot resume from '{path}', it is damaged: {first_line(error)}") from None


_MAY_CHANGE = {"steps", "validate_every", "save_every", "workers", "precision"}


def _changes(
    old: dict[str, Any], new: dict[str, Any], may_change: Set[str] = frozenset(), prefix: str = ""
) -> list[str]:
    """The entries that differ, as ``name old -> new``; one that an older version has not saved differs in nothing."""
    found = []
    for name, value in new.items():
        before = old.get(name, value)
        if isinstance(value, dict) and isinstance(before, dict):
            found += _changes(before, value, prefix=f"{name}.")
        elif name not in may_change and before != value:
            found.append(f"{prefix}{name} {before!r} -> {value!r}")
    return found


def _plain(settings: Any) -> Any:
    """Tuples as lists, so that what was saved compares equal with what is given."""
    if isinstance(settings, dict):
        return {name: _plain(value) for name, value in settings.items()}
    return [_plain(value) for value in settings] if isinstance(settings, list | tuple) else settings


@contextlib.contextmanager
def _frozen(module: nn.Module | None) -> Iterator[None]:
    """Losses may look through a discriminator, but leave no gradients in it."""
    if module is not None:
        module.requires_grad_(False)
    try:
        yield
    finally:
        if module is not None:
            module.requires_grad_(True)


def _validate(run: _Run, folder: Path, history: History, told: Callable[[int, dict[str, float]], None] | None) -> None:
    if not run.accelerator.is_main_process:
        return
    started = time.perf_counter()
    with torch.inference_mode():
        metrics = {name: float(value) for name, value in run.recipe.validate(run.averaged).items()}
    history.metrics(run.step, metrics, time.perf_counter() - started)
    name, sign = run.recipe.score_name, 1 if run.recipe.higher_is_better else -1
    if not run.best or math.isnan(run.best[name]) or sign * metrics[name] > sign * run.best[name]:
        run.best = {**metrics, "step": float(run.step)}
        run.averaged.save_pretrained(folder / "best")
    if told:
        told(run.step, metrics)
