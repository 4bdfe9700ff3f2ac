"""Which attention for which task and length: every mechanism in the same small model, on the same data and budget."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.allocation import keep_freed_memory
from harken.attention import attention_class, list_attention, parse_attention
from harken.data.attention_tasks import make_task
from harken.errors import HarkenError, InputError
from harken.figures import new_figure, save_figure
from harken.whole_files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DECODED = 32  # tokens whose making is timed


@dataclass(frozen=True)
class CompareConfig:
    """The model and the budget that all mechanisms share.

    Attributes:
        steps, tokens: optimiser steps, and positions a step: the batch is ``tokens / length`` sequences.
        dim, layers, heads: of the model.
        lr: highest learning rate (AdamW, cosine to zero after a tenth of rising).
        seeds: one training each: seed ``s`` draws weights and data alike for all mechanisms.
        threads: of PyTorch in each training; None leaves them to it.
    """

    steps: int = 200
    tokens: int = 4096
    dim: int = 64
    layers: int = 2
    heads: int = 4
    lr: float = 2e-3
    seeds: int = 2
    threads: int | None = None

    def __post_init__(self) -> None:
        if min(self.steps, self.tokens, self.dim, self.layers, self.heads, self.seeds) < 1 or not self.lr > 0:
            raise InputError("steps, tokens, dim, layers, heads, seeds and lr must be positive")


@dataclass(frozen=True)
class Row:
    """One mechanism at one length: means over the seeds, and the spread (standard deviation) of the quality.

    Speeds are tokens a second; ``decode_speed`` is of making token after token behind a sequence of that length;
    ``peak_mb`` is what training needs beyond the model-less process; ``flops`` is the attention's, forward, a token.
    """

    mechanism: str
    length: int
    quality: float
    spread: float
    seeds: int
    train_speed: float
    decode_speed: float | None
    peak_mb: float
    parameters: int
    flops: float


@dataclass(frozen=True)
class CompareReport:
    """The table, who failed and why, and who was left out."""

    task: str
    quality: str
    config: CompareConfig
    rows: tuple[Row, ...]
    failed: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def higher_is_better(self) -> bool:
        """False for bits."""
        return self.quality == "accuracy"

    def as_json(self) -> dict[str, Any]:
        """Plain numbers and texts."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}

    def pareto(self, length: int) -> list[Row]:
        """The rows of a length that no other beats in both quality and training speed, fastest first."""
        sign = 1 if self.higher_is_better else -1
        best: list[Row] = []
        for row in sorted((r for r in self.rows if r.length == length), key=lambda r: -r.train_speed):
            if not best or sign * row.quality > sign * best[-1].quality:
                best.append(row)
        return best


def compare_attention(
    task: str,
    lengths: Sequence[int],
    mechanisms: Sequence[str] | None = None,
    *,
    config: CompareConfig | None = None,
    folder: Path | str = "runs/compare",
    on_progress: Callable[[str, int, int], None] | None = None,
) -> CompareReport:
    """Train every mechanism in the same small model, and say what it learned, how fast, and in how much memory.

    Each training runs in a process of its own and leaves a file in ``folder``; a comparison that was stopped goes on
    where it was: what is there already is not trained again, what failed is.

    Args:
        task: ``"copy"``, ``"lm"``, ``"code"``, ``"image"``, ``"series"``, ``"document"``, or a file.
        lengths: of the sequences.
        mechanisms: names, perhaps with options (``"span:span_size=64"``); None for all that can do the task.
        config: model and budget.
        folder: where the results lie.
        on_progress: told the name of each training, and how many of how many are done.

    Raises:
        InputError: no such task or mechanism, or a folder with a comparison of other settings.
    """
    config = config or CompareConfig()
    folder = Path(folder)
    tasks = [make_task(task, length) for length in lengths]
    if not tasks:
        raise InputError("give at least one length")
    able, left_out = _able(mechanisms, causal=tasks[0].causal, grid=tasks[0].grid is not None)
    _claim_folder(folder, {"task": task, **asdict(config)})
    jobs = [(name, t.length, seed) for t in tasks for seed in range(config.seeds) for name in able]
    results: dict[tuple[str, int, int], dict[str, Any]] = {}
    for done, (name, length, seed) in enumerate(jobs):
        if on_progress:
            on_progress(f"{name}, {length:,} positions, seed {seed}", done, len(jobs))
        path = folder / "cells" / f"{_file_name(name)}-{length}-{seed}.json"
        result = _read(path) if path.exists() else _in_a_process(task, name, length, seed, config)
        if not path.exists() and "error" not in result:  # what failed for want of memory may do better next time
            write_text(path, json.dumps(result, indent=1) + "\n")
        results[(name, length, seed)] = result
    if on_progress:
        on_progress("done", len(jobs), len(jobs))
    failed = [
        f"{name}, {length:,} positions, seed {seed}: {result['error']}"
        for (name, length, seed), result in results.items()
        if "error" in result
    ]
    rows = []
    for t in tasks:
        for name in able:
            cells = [results[(name, t.length, seed)] for seed in range(config.seeds)]
            if cells := [cell for cell in cells if "error" not in cell]:
                rows.append(_row(name, t.length, cells))
    return CompareReport(task, tasks[0].quality, config, tuple(rows), tuple(failed), tuple(left_out))


def _able(mechanisms: Sequence[str] | None, *, causal: bool, grid: bool) -> tuple[list[str], list[str]]:
    """Who can do the task; of those that were named, nobody is left out in silence."""
    names = list(dict.fromkeys(mechanisms or list_attention()))
    able, left_out = [], []
    for name in names:
        can = attention_class(parse_attention(name)[0]).capabilities
        if not (can.causal if causal else can.bidirectional):
            left_out.append(f"{name}: no {'causal' if causal else 'bidirectional'} form")
        elif can.grid and not grid:
            left_out.append(f"{name}: needs a grid, which an image has")
        else:
            able.append(name)
    if not able:
        raise InputError(f"none of these mechanisms can do the task: {'; '.join(left_out)}")
    return able, left_out


def _claim_folder(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / "settings.json"
    text = json.dumps(settings, indent=1) + "\n"
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise InputError(f"'{folder}' holds a comparison of other settings: give those again, or another folder")
        return
    try:
        (folder / "cells").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot use the folder '{folder}': {error.strerror}") from None
    write_text(path, text)


def _file_name(mechanism: str) -> str:
    return "".join(c if c.isalnum() or c in "-_=." else "_" for c in mechanism)


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' is damaged ({error}): delete it, and it is made again") from None
    if not isinstance(result, dict) or "quality" not in result:
        raise InputError(f"'{path}' is not a result of a comparison: delete it, and it is made again")
    return result


def _in_a_process(task: str, name: str, length: int, seed: int, config: CompareConfig) -> dict[str, Any]:
    """One training in a fresh process, whose peak of memory is its own; a crash is a result too."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, task, name, length, seed, config), daemon=True)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        return {"error": f"its process ended with code {process.exitcode}, out of memory perhaps"}
    finally:
        process.terminate()  # nothing is left to do, unless Ctrl-C brought us here
        process.join()


def _send(sender: Any, task: str, name: str, length: int, seed: int, config: CompareConfig) -> None:
    keep_freed_memory()  # this process is the training's alone
    try:
        result = train_one(task, name, length, seed, config)
    except (HarkenError, TypeError) as error:
        result = {"error": str(error)}
    except RuntimeError as error:  # such as no memory
        result = {"error": str(error).splitlines()[0][:200]}
    sender.send(result)


def train_one(task: str, name: str, length: int, seed: int, config: CompareConfig) -> dict[str, Any]:
    """One cell of the table, in this process: quality, speeds, memory, sizes."""
    import torch

    from harken.tasks.small_training import Budget, fit, judge

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    data = make_task(task, length)
    torch.manual_seed(seed)
    model: Any = _model(data, name, config)
    batch = max(1, config.tokens // data.length)
    options = {} if data.causal else {"grid": data.grid}
    before = _memory()
    speed = fit(model, data, Budget(config.steps, batch, config.lr), seed, options=options)
    peak = _memory() - before
    quality = judge(model, data, batch, options=options)
    tokens = sum(block.attention.cost(1, data.length).flops for block in model.blocks) / data.length
    with torch.inference_mode():
        decode = _decode_speed(model, data)
    return {
        "quality": quality,
        "train_speed": speed * data.length,
        "decode_speed": decode,
        "peak_mb": peak,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops": tokens,
    }


def _model(data: Any, name: str, config: CompareConfig) -> Any:
    from harken.models.classify.sequence import SequenceClassifier, SequenceClassifierConfig
    from harken.models.write.decoder import Decoder, DecoderConfig

    sizes: dict[str, Any] = {"dim": config.dim, "layers": config.layers, "heads": config.heads, "attention": (name,)}
    if data.causal:
        return Decoder(DecoderConfig(vocabulary=data.vocabulary, **sizes))
    return SequenceClassifier(
        SequenceClassifierConfig(classes=data.classes, channels=data.channels, vocabulary=data.vocabulary, **sizes)
    )


def _decode_speed(model: Any, data: Any) -> float | None:
    """Tokens a second behind a sequence of the task's length; None where there is no stream."""
    import numpy as np

    from harken.hardware.clock import processor_clock

    if not data.causal or not all(block.attention.capabilities.step for block in model.blocks):
        return None
    tokens, _ = data.batch(np.random.default_rng(0), 1, held_out=True)
    _, state = model.step(tokens, model.init_state(1))
    times, clock = [], processor_clock()
    for _ in range(_DECODED):
        start = clock()
        _, state = model.step(tokens[:, :1], state)
        times.append(clock() - start)
    return 1 / statistics.median(times)


def _memory() -> float:
    """The most memory this process has had, MB."""
    try:
        import resource
    except ImportError:  # not on Windows
        return math.nan
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _row(name: str, length: int, cells: list[dict[str, Any]]) -> Row:
    qualities = [cell["quality"] for cell in cells]
    decode = [cell["decode_speed"] for cell in cells if cell["decode_speed"] is not None]
    return Row(
        name,
        length,
        statistics.mean(qualities),
        statistics.stdev(qualities) if len(qualities) > 1 else 0.0,
        len(cells),
        statistics.mean(cell["train_speed"] for cell in cells),
        statistics.mean(decode) if decode else None,
        statistics.mean(cell["peak_mb"] for cell in cells),
        cells[0]["parameters"],
        cells[0]["flops"],
    )


def draw_comparison(report: CompareReport, path: str | os.PathLike[str]) -> None:
    """Quality over training speed, a panel for each length; the line joins what nothing else beats in both.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    lengths = sorted({row.length for row in report.rows})
    figure = new_figure(5.5 * max(1, len(lengths)), 4.5)
    for axes, length in zip(figure.subplots(1, max(1, len(lengths)), squeeze=False)[0], lengths, strict=False):
        draw_panel(axes, report, length)
    save_figure(figure, path)


def draw_panel(axes: Axes, report: CompareReport, length: int) -> None:
    """Quality over training speed at one length."""
    best = report.pareto(length)
    axes.plot([r.train_speed for r in best], [r.quality for r in best], color="0.7", zorder=0)
    for row in (r for r in report.rows if r.length == length):
        colour = "#30506a" if row in best else "#b0b0b0"
        axes.errorbar(row.train_speed, row.quality, yerr=row.spread, marker="o", color=colour, capsize=2)
        axes.annotate(
            row.mechanism, (row.train_speed, row.quality), xytext=(4, 4), textcoords="offset points", fontsize=8
        )
    axes.set_xscale("log")
    axes.set_xlabel("training tokens a second")
    axes.set_ylabel(report.quality.replace("_", " "))
    axes.set_title(f"{report.task}, {length:,} positions")
    axes.grid(alpha=0.3)
    if not report.higher_is_better:
        axes.invert_yaxis()
