"""How fast is each attention mechanism on this machine, at which length, and from which length on is it worth it?"""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from harken.attention import Attention, ProjectedAttention, attention_class, create_attention, parse_attention
from harken.attention._base import squarest_grid
from harken.errors import InputError
from harken.figures import new_figure, save_figure
from harken.hardware.clock import processor_clock

Mode = Literal["forward", "train", "decode"]
MODES: tuple[Mode, ...] = ("forward", "train", "decode")
BASELINE = "softmax"
WRITTEN_OUT = "written out"  # the n x n matrix of softmax, as a textbook has it
_LONGEST_MATRIX = 4096
_LARGEST_TRAFFIC = 8 << 30  # bytes of one call; beyond, a laptop would swap


@dataclass(frozen=True)
class Timing:
    """One mechanism at one length: the median seconds of a call, and what of the machine's limits that is.

    ``mode``: ``"forward"``, ``"train"`` (forward and backward) or ``"decode"`` (one position more, after ``length``).
    ``speedup`` is over fused softmax in the same order, measured in the same rounds (None where it was too slow to
    run); ``flop_share`` and ``byte_share`` are of the machine's best matrix product and of its memory's speed.
    """

    mechanism: str
    causal: bool
    mode: Mode
    length: int
    seconds: float
    speedup: float | None
    flop_share: float | None
    byte_share: float | None

    @property
    def seconds_per_position(self) -> float:
        """Flat over the lengths means linear."""
        return self.seconds if self.mode == "decode" else self.seconds / self.length


@dataclass(frozen=True)
class BenchReport:
    """All timings with the machine they were taken on."""

    machine: dict[str, Any]
    dim: int
    heads: int
    batch: int
    timings: tuple[Timing, ...]
    skipped: tuple[str, ...]

    def crossover(self, mechanism: str, mode: Mode, causal: bool) -> int | None:
        """The shortest measured length from which on the mechanism is faster than fused softmax; None if never.

        Where softmax was too slow to be run, the mechanism that ran is taken to be faster.
        """
        rows = [t for t in self.timings if (t.mechanism, t.mode, t.causal) == (mechanism, mode, causal)]
        found = None
        for row in sorted(rows, key=lambda t: -t.length):
            if row.speedup is not None and row.speedup <= 1:
                break
            found = row.length
        return found

    def as_json(self) -> dict[str, Any]:
        """Plain numbers and texts."""
        rows = [{**asdict(t), "seconds_per_position": t.seconds_per_position} for t in self.timings]
        head = {"machine": self.machine, "dim": self.dim, "heads": self.heads, "batch": self.batch}
        return {**head, "timings": rows, "skipped": list(self.skipped)}


def bench_attention(
    mechanisms: Sequence[str],
    lengths: Sequence[int],
    *,
    modes: Sequence[Mode] = MODES,
    causal: bool | None = None,
    dim: int = 256,
    heads: int = 4,
    batch: int = 1,
    rounds: int = 5,
    longest_call: float = 5.0,
    on_progress: Callable[[str], None] | None = None,
) -> BenchReport:
    """Time mechanisms beside fused softmax and beside its matrix written out, interleaved in one process.

    A mechanism leaves the race at the length at which one call would take longer than ``longest_call``, by what it took
    at the length before and by how its cost grows.

    Args:
        mechanisms: names, perhaps with options (``"span:span_size=128"``); softmax is always there.
        lengths: positions, ascending or not.
        modes: what to time.
        causal: which order; None for causal where a mechanism has it, and bidirectional where it has not.
        dim, heads, batch: of the layers and inputs.
        rounds: measurements of each; the median counts.
        longest_call: seconds.
        on_progress: told what is measured next.

    Raises:
        InputError: no such mechanism or mode, or a length that is not positive.
        CapabilityError: the order was asked for, and a mechanism lacks it.
    """
    if not lengths or min(lengths) < 1 or rounds < 1 or batch < 1 or not longest_call > 0:
        raise InputError("expected lengths, rounds, batch and longest_call to be positive")
    if wrong := [mode for mode in modes if mode not in MODES]:
        raise InputError(f"no mode '{wrong[0]}': one of {', '.join(MODES)}")
    machine = machine_limits()
    layers = {name: _build(name, dim, heads, causal) for name in dict.fromkeys(mechanisms)}
    orders = {layer.causal for layer in layers.values()} or {bool(causal)}
    baselines = {order: create_attention(BASELINE, dim=dim, heads=heads, causal=order).eval() for order in orders}
    racers: dict[tuple[str, bool], Attention] = {(BASELINE, order): layer for order, layer in baselines.items()}
    racers |= {(name, layer.causal): layer for name, layer in layers.items() if name != BASELINE}
    timings: list[Timing] = []
    skipped: list[str] = []
    last: dict[tuple[str, bool, Mode], tuple[int, float]] = {}
    for mode in modes:
        for length in sorted(set(lengths)):
            if on_progress:
                on_progress(f"{mode}, {length:,} positions")
            calls: dict[tuple[str, bool], Callable[[], object]] = {}
            for key, layer in racers.items():
                why = _too_much(layer, batch, length, mode, last.get((*key, mode)), longest_call)
                if why:
                    skipped.append(f"{key[0]}, {mode}, {length:,} positions: {why}")
                elif call := _call(layer, batch, length, mode):
                    calls[key] = call
            for order, layer in baselines.items():
                if mode == "forward" and length <= _LONGEST_MATRIX and (BASELINE, order) in calls:
                    calls[(WRITTEN_OUT, order)] = _written_out(layer, batch, length)
            for (name, order), seconds in interleaved(calls, rounds, longest_call).items():
                last[(name, order, mode)] = (length, seconds)
                timings.append(Timing(name, order, mode, length, seconds, None, None, None))
    return BenchReport(machine, dim, heads, batch, tuple(_related(timings, racers, batch, machine)), tuple(skipped))


def interleaved(calls: dict[Any, Callable[[], object]], rounds: int, longest: float = math.inf) -> dict[Any, float]:
    """Median seconds of each call, one round after another, so that a busy moment hits all alike; the first warms up.

    A call that takes longer than ``longest`` when it warms up is not repeated: that one time counts. With one thread
    the seconds are the processor's, else the wall's.
    """
    clock = processor_clock()
    seconds: dict[Any, list[float]] = {}
    for name, call in calls.items():
        start = clock()
        call()
        seconds[name] = [clock() - start]
    again = {name: call for name, call in calls.items() if seconds[name][0] <= longest}
    for name in again:
        seconds[name].clear()
    for _ in range(rounds):
        for name, call in again.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def machine_limits() -> dict[str, Any]:
    """What this machine reaches: GFLOP/s in a square matrix product, GB/s in a copy that no cache holds."""
    a, source = torch.ones(1024, 1024), torch.ones(32 << 20)
    target = torch.empty_like(source)
    best = interleaved({"matmul": lambda: a @ a, "copy": lambda: target.copy_(source)}, 7)
    return {
        "matmul_gflops": round(2 * 1024**3 / best["matmul"] / 1e9, 1),
        "memory_gbytes": round(2 * source.nbytes / best["copy"] / 1e9, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__.split("+")[0],
        "processor": platform.machine(),
    }


def _build(name: str, dim: int, heads: int, causal: bool | None) -> Attention:
    able = attention_class(parse_attention(name)[0]).capabilities
    return create_attention(name, dim=dim, heads=heads, causal=able.causal if causal is None else causal).eval()


def _grid(layer: Attention, length: int) -> tuple[int, int] | None:
    """The squarest map of so many positions; for a stream of columns, columns of at most eight."""
    if not layer.capabilities.grid:
        return None
    return squarest_grid(length, tallest=8 if layer.capabilities.block_causal else None)


def _too_much(
    layer: Attention, batch: int, length: int, mode: Mode, before: tuple[int, float] | None, longest: float
) -> str | None:
    """Why a mechanism is not to be run at a length, if so."""
    cost = layer.cost(batch, length)
    if mode != "decode" and cost.bytes > _LARGEST_TRAFFIC:
        return "needs too much memory"
    if before is not None:
        then, seconds = before
        growth = length / then if mode == "decode" else cost.flops / max(1, layer.cost(batch, then).flops)
        if seconds * growth > longest:
            return f"a call would take more than {longest:g} s"
    return None


def _call(layer: Attention, batch: int, length: int, mode: Mode) -> Callable[[], object] | None:
    """What is timed; None where the mechanism has no such thing."""
    x = torch.randn(batch, length, layer.dim, generator=torch.Generator().manual_seed(0))
    grid = _grid(layer, length)
    if mode == "forward":

        def forward() -> None:
            with torch.inference_mode():
                layer(x, grid=grid)

        return forward
    if mode == "train":
        x.requires_grad_()

        def train() -> None:
            x.grad = None
            layer.zero_grad(set_to_none=True)
            layer(x, grid=grid).sum().backward()

        return train
    if not (layer.causal and layer.capabilities.step) or layer.capabilities.block_causal:
        return None
    with torch.inference_mode():
        state = layer.init_state(batch)
        for chunk in x.split(1024, 1):
            _, state = layer.step(chunk, state)

    def decode() -> None:
        with torch.inference_mode():
            layer.step(x[:, :1], state)

    return decode


def _written_out(layer: Attention, batch: int, length: int) -> Callable[[], object]:
    assert isinstance(layer, ProjectedAttention)
    x = torch.randn(batch, length, layer.dim, generator=torch.Generator().manual_seed(0))

    def forward() -> None:
        with torch.inference_mode():
            q, k, v = layer.project(x)
            layer.merge(layer.mix_weights(q, k, None) @ v)

    return forward


def _related(
    timings: list[Timing], racers: dict[tuple[str, bool], Attention], batch: int, machine: dict[str, Any]
) -> Iterator[Timing]:
    """The timings with their ratios to softmax and to the machine's limits."""
    softmax = {(t.causal, t.mode, t.length): t.seconds for t in timings if t.mechanism == BASELINE}
    for t in timings:
        beside = softmax.get((t.causal, t.mode, t.length))
        flops = bytes_ = None
        layer = racers.get((t.mechanism, t.causal))
        if layer is not None and t.mode == "forward":
            cost = layer.cost(batch, t.length)
            flops = round(cost.flops / t.seconds / 1e9 / machine["matmul_gflops"], 3)
            bytes_ = round(cost.bytes / t.seconds / 1e9 / machine["memory_gbytes"], 3)
        speedup = None if beside is None else round(beside / t.seconds, 3)
        yield Timing(t.mechanism, t.causal, t.mode, t.length, t.seconds, speedup, flops, bytes_)


def parse_length(text: str) -> int:
    """A number of positions as one writes it: ``"4096"``, ``"4k"`` (4,096), ``"1m"`` (1,048,576).

    Raises:
        InputError: not such a number.

    >>> parse_length("16k")
    16384
    """
    digits, factor = text.strip().lower(), 1
    if digits[-1:] in ("k", "m"):
        digits, factor = digits[:-1], 1 << (10 if digits[-1] == "k" else 20)
    if not digits.isascii() or not digits.isdigit() or not 0 < int(digits) * factor <= 1 << 24:
        raise InputError(f"expected a length such as 512, 4k or 1m, up to 16m, got '{text}'")
    return int(digits) * factor


def draw_bench(report: BenchReport, path: str | os.PathLike[str]) -> None:
    """Time per position over length, a panel for each mode, on logarithmic axes; flat means linear.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    modes = [mode for mode in MODES if any(t.mode == mode for t in report.timings)]
    figure = new_figure(5.0 * len(modes) + 1.5, 4.5)
    names = list(dict.fromkeys((t.mechanism, t.causal) for t in report.timings))
    for axes, mode in zip(figure.subplots(1, len(modes), squeeze=False)[0], modes, strict=True):
        for number, (name, causal) in enumerate(names):
            rows = [t for t in report.timings if (t.mechanism, t.causal, t.mode) == (name, causal, mode)]
            if rows:
                style = {"color": "black", "linewidth": 2.0} if name == BASELINE else {"color": f"C{number % 10}"}
                if not causal or name == WRITTEN_OUT:
                    style["linestyle"] = "--"
                label = name if causal else f"{name} (bidirectional)"
                microseconds = [t.seconds_per_position * 1e6 for t in rows]
                axes.plot([t.length for t in rows], microseconds, marker=".", label=label, **style)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("positions")
        axes.set_title({"forward": "forward", "train": "forward and backward", "decode": "one position more"}[mode])
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("microseconds a position")
    handles = {
        label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(handles.values()), list(handles), loc="outside right upper", fontsize=8)
    save_figure(figure, path)
