"""What does each attention mechanism learn within one small budget, task by task? About an hour on one core.

What ``harken compare attention`` measures, for every task at one length each; it goes on where it was stopped. With
``--save`` the numbers are kept in ``benchmarks/results/compare-<task>.json``, their tables and the picture in
``docs/choosing-attention.md``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from harken.attention import list_attention
from harken.data.attention_tasks import TASKS
from harken.figures import new_figure, save_figure
from harken.tasks.compare_attention import CompareConfig, CompareReport, Row, compare_attention, draw_panel

ROOT = Path(__file__).parent.parent
LENGTHS = {"copy": 32, "code": 512, "image": 64, "series": 256, "document": 256}
BUDGETS = {
    "copy": CompareConfig(steps=400, tokens=1024, threads=1),
    "code": CompareConfig(steps=200, tokens=2048, threads=1),
    "image": CompareConfig(steps=200, tokens=4096, threads=1),
    "series": CompareConfig(steps=150, tokens=4096, threads=1),
    "document": CompareConfig(steps=150, tokens=4096, threads=1),
}


def quality(row: Row, report: CompareReport) -> str:
    """Mean and spread over the seeds."""
    if report.higher_is_better:
        return f"{100 * row.quality:.1f} ± {100 * row.spread:.1f}"
    return f"{row.quality:.3f} ± {row.spread:.3f}"


def table(report: CompareReport) -> list[str]:
    """One row a mechanism, the best first; a star where nothing else is better and faster."""
    name = "accuracy, %" if report.higher_is_better else "bits per byte"
    head = ["mechanism", name, "training, k tokens/s", "decoding, tokens/s", "peak, MB", "parameters", "kFLOP a token"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    best = {row.mechanism for row in report.pareto(report.rows[0].length)}
    for row in sorted(report.rows, key=lambda row: -row.quality if report.higher_is_better else row.quality):
        cells = [
            f"**{row.mechanism}** ★" if row.mechanism in best else row.mechanism,
            quality(row, report),
            f"{row.train_speed / 1e3:.3g}",
            "" if row.decode_speed is None else f"{row.decode_speed:.0f}",
            f"{row.peak_mb:.0f}",
            f"{row.parameters:,}",
            f"{row.flops / 1e3:.3g}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(LENGTHS), choices=list(LENGTHS))
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="NAME", help="mechanisms too slow to wait for")
    parser.add_argument("--folder", type=Path, default=Path("runs/compare"), help="where the trainings lie")
    parser.add_argument("--save", action="store_true", help="keep the numbers; write tables and picture into the docs")
    options = parser.parse_args()
    reports = []
    for task in options.tasks:
        order = "causal" if TASKS[task].causal else "bidirectional"
        able = [name for name in list_attention(**{order: True}) if name not in options.leave_out]
        report = compare_attention(
            task,
            [LENGTHS[task]],
            able,
            config=BUDGETS[task],
            folder=options.folder / task,
            on_progress=lambda text, done, count: print(f"{text} ({done} of {count})", flush=True),
        )
        reports.append(report)
        print("\n".join(table(report)))
        if options.save:
            results = ROOT / "benchmarks" / "results" / f"compare-{task}.json"
            results.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    if options.save:
        save(reports, options.leave_out)


def save(reports: list[CompareReport], left_out: list[str]) -> None:
    """Tables and one picture, a panel a task, into the page."""
    text = ["![What each mechanism learned, over its training speed](images/choosing-attention.png)"]
    for report in reports:
        c, length = report.config, report.rows[0].length
        text += [
            "",
            f"**{report.task}**: {TASKS[report.task].about}, {length:,} positions; {c.steps} steps of {c.tokens:,} "
            f"tokens, {c.layers} layers of {c.dim} channels and {c.heads} heads, {c.seeds} seeds",
            "",
            *table(report),
        ]
        text += [f"\nFailed: {why}" for why in report.failed]
        text += [f"\nLeft out: {why}" for why in report.left_out]
    if left_out:
        text += [f"\nToo slow to wait for: {', '.join(left_out)}"]
    columns = min(3, len(reports))
    rows = -(-len(reports) // columns)
    figure = new_figure(5.5 * columns, 4.5 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for report in reports:
        draw_panel(next(panels), report, report.rows[0].length)
    for empty in panels:
        empty.set_axis_off()
    save_figure(figure, ROOT / "docs" / "images" / "choosing-attention.png")
    page = ROOT / "docs" / "choosing-attention.md"
    before, _, after = page.read_text(encoding="utf-8").partition("<!-- begin quality -->\n")
    _, end, rest = after.partition("<!-- end quality -->")
    page.write_text(f"{before}<!-- begin quality -->\n" + "\n".join(text) + f"\n{end}{rest}", encoding="utf-8")


if __name__ == "__main__":
    main()
