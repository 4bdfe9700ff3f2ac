"""The page of claims: every record that was measured, as Markdown for the documents."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harken.papers import VERDICTS, list_papers
from harken.papers.claims import read_claims
from harken.whole_files import write_text

HEAD = """\
# Claims, as measured

What the papers say, tested in experiments small enough to run here. This page is made from the records in
`docs/claims/`, one for each run of `harken claim`; no number in it was typed by hand. A verdict is about *that*
experiment: [what the verdicts mean](papers.md#does-it-hold). The rule of a verdict was fixed in code before the
run, unless its settings say otherwise.
"""
_SIGNS = {"holds": "✓", "holds in direction": "↗", "not shown here": "?", "fails here": "✗"}


def claims_page(claims_dir: str | Path | None = None) -> str:
    """The whole page: a table of verdicts, then each claim with its numbers, settings and command.

    Args:
        claims_dir: where the records lie; by default those that come with harken.

    Raises:
        InputError: a file there is not a record of a claim.
    """
    records = read_claims(claims_dir)
    known = {paper.slug: paper for paper in list_papers()}
    order = {slug: number for number, slug in enumerate(known)}
    records = [record for record in records if record["slug"] in order]
    records.sort(key=lambda record: order[record["slug"]])  # stable: a paper's claims stay in their own order
    counts = Counter(record["verdict"] for record in records)
    lines = [HEAD, f"{len(records)} claims: {', '.join(f'{counts[verdict]} {verdict}' for verdict in VERDICTS)}.", ""]
    if records:
        lines += ["| paper | claim | verdict |", "|---|---|---|"]
    for record in records:
        link = f"[{_cell(record['statement'])}](#{_anchor(record)})"
        lines.append(f"| {record['slug']} | {link} | {_SIGNS[record['verdict']]} {record['verdict']} |")
    slug = None
    for record in records:
        if record["slug"] != slug:
            slug = record["slug"]
            lines += ["", f"## {slug}", "", f"*{known[slug].title}*"]
        lines += ["", *_section(record)]
    return "\n".join(lines) + "\n"


def update_page(path: str | Path, claims_dir: str | Path | None = None) -> bool:
    """Write the current page; True when that changed it.

    Raises:
        OutputError: it cannot be written.
    """
    path, page = Path(path), claims_page(claims_dir)
    if path.exists() and path.read_text(encoding="utf-8") == page:
        return False
    write_text(path, page)
    return True


def _section(record: Mapping[str, Any]) -> list[str]:
    settings = dict(record.get("settings", {}))
    rule = settings.pop("rule", None)
    lines = [
        f"### {record['claim']} {{ #{_anchor(record)} }}",
        "",
        f"{record['statement']} ({record['source']})",
        "",
        f"**{record['verdict'].capitalize()}.** {record['summary']}",
        "",
        f"The paper: {record['paper_value']}.",
        "",
        "| | measured | baseline |",
        "|---|--:|--:|",
    ]
    for name in dict.fromkeys([*record.get("measured", {}), *record.get("baseline", {})]):
        cells = (record.get(side, {}).get(name) for side in ("measured", "baseline"))
        lines.append(
            f"| {name.replace('_', ' ')} | {' | '.join('' if cell is None else f'{cell:.4g}' for cell in cells)} |"
        )
    lines.append("")
    if rule:
        lines += [f"Rule: {rule}", ""]
    lines += ['??? note "Settings and command"', "", *_indented("```console"), f"    $ {_command(record)}"]
    lines += [*_indented("```"), "", *_indented("```json")]
    lines += _indented(json.dumps(settings, indent=1, ensure_ascii=False))
    lines += [*_indented("```"), "", f"    {_circumstances(record)}"]
    return lines


def _command(record: Mapping[str, Any]) -> str:
    seed = f" --seed {record['seed']}" if record.get("seed") else ""
    return f"harken claim {record['slug']} --only {record['claim']}{seed}"


def _circumstances(record: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    machine = record.get("machine", {})
    parts = [
        f"{record.get('date', 'date not kept')}: {record.get('seconds', 0) / 60:.1f} minutes",
        f"{machine.get('threads', '?')} thread(s) of {machine.get('architecture', '?')}",
        versions,
    ]
    return "; ".join(part for part in parts if part) + "."


def _anchor(record: Mapping[str, Any]) -> str:
    return f"{record['slug']}-{record['claim']}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.splitlines()]


if __name__ == "__main__":
    for document in sys.argv[1:]:
        print(f"{document}: {'updated' if update_page(document) else 'up to date'}")
