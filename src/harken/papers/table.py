"""The table of papers: filtered for the command line, and as Markdown inside the documents that show it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import get_args

from harken.errors import InputError
from harken.papers import list_papers
from harken.papers._record import Paper, Status
from harken.papers.claims import read_claims
from harken.whole_files import write_text

BEGIN = "<!-- papers:begin -->"
END = "<!-- papers:end -->"


@dataclass(frozen=True)
class Row:
    """One paper as the table shows it; ``verdicts`` maps each claim that was run to its verdict."""

    number: int
    slug: str
    title: str
    arxiv: str | None
    repository: str | None
    licence: str
    kind: tuple[str, ...]
    rooms: tuple[str, ...]
    reached_by: tuple[str, ...]
    status: Status
    missing: str
    verdicts: dict[str, str]


def paper_rows(
    text: str = "", *, verb: str | None = None, status: str | None = None, claims_dir: str | Path | None = None
) -> list[Row]:
    """The papers that match all filters, in the table's order.

    Args:
        text: words that must all occur in the slug, title, arXiv id, repository, kind, rooms or calls.
        verb: the verb that reaches it: ``enhance``, ``brain``, ``create_attention``.
        status: ``works``, ``partial`` or ``planned``.
        claims_dir: where the records of claims lie; by default those that come with harken.

    Raises:
        InputError: no paper is reached by that verb, or there is no such status.

    >>> [row.slug for row in paper_rows(verb="enhance")]
    ['mambattention', 'mp-senet']
    """
    papers = list_papers()
    known_verbs = sorted({known for paper in papers for known in paper.verbs})
    if verb is not None and verb not in known_verbs:
        near = get_close_matches(verb, known_verbs, n=1) or known_verbs
        raise InputError(f"no paper is reached by '{verb}': one of {', '.join(near)}")
    if status is not None and status not in get_args(Status):
        raise InputError(f"no such status '{status}': one of {', '.join(get_args(Status))}")
    verdicts: dict[str, dict[str, str]] = {}
    for record in read_claims(claims_dir):
        verdicts.setdefault(record["slug"], {})[record["claim"]] = record["verdict"]
    words = text.lower().split()
    return [
        _row(number, paper, verdicts.get(paper.slug, {}))
        for number, paper in enumerate(papers, 1)
        if verb in (None, *paper.verbs) and status in (None, paper.status) and _matches(paper, words)
    ]


def markdown_table(claims_dir: str | Path | None = None) -> str:
    """All papers as a Markdown table, without a final newline."""
    lines = ["| # | paper | arXiv | authors' licence | reached by | status | claims |", "|--:|---|---|---|---|---|---|"]
    papers = {paper.slug: paper for paper in list_papers()}
    for row in paper_rows(claims_dir=claims_dir):
        paper = papers[row.slug]
        name = f"[{row.slug}]({paper.repository_url})" if paper.repository_url else row.slug
        cells = (
            str(row.number),
            f"**{name}**: {row.title}",
            f"[{paper.arxiv}]({paper.url})" if paper.url else "",
            row.licence,
            ", ".join(f"`{call}`" for call in row.reached_by),
            status_text(row),
            "; ".join(f"{claim}: {verdict}" for claim, verdict in row.verdicts.items()),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def status_text(row: Row) -> str:
    """The status, with what a partial one lacks."""
    return f"{row.status}: {row.missing}" if row.missing else row.status


def render_document(text: str, table: str) -> str:
    """A document's text with the table between its markers.

    Raises:
        InputError: the markers are missing, doubled, or the wrong way round.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InputError(f"expected one {BEGIN} and, after it, one {END} for the table to stand between")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def update_document(path: str | Path, claims_dir: str | Path | None = None) -> bool:
    """Write the current table between a document's markers; True when that changed it.

    Raises:
        InputError: the document cannot be read or lacks the markers.
        OutputError: it cannot be written.
    """
    path = Path(path)
    try:
        old = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"cannot read the document {path}: {problem}") from problem
    try:
        new = render_document(old, markdown_table(claims_dir))
    except InputError as problem:
        raise InputError(f"{path}: {problem}") from None
    if new == old:
        return False
    write_text(path, new)
    return True


def _row(number: int, paper: Paper, verdicts: dict[str, str]) -> Row:
    return Row(
        number=number,
        slug=paper.slug,
        title=paper.title,
        arxiv=paper.arxiv,
        repository=paper.repository,
        licence=paper.licence,
        kind=paper.kind,
        rooms=paper.rooms,
        reached_by=paper.reached_by,
        status=paper.status,
        missing=paper.missing,
        verdicts=verdicts,
    )


def _matches(paper: Paper, words: list[str]) -> bool:
    fields = (paper.slug, paper.title, paper.arxiv or "", paper.repository or "")
    haystack = " ".join((*fields, *paper.kind, *paper.rooms, *paper.reached_by)).lower()
    return all(word in haystack for word in words)


if __name__ == "__main__":
    for document in sys.argv[1:]:
        print(f"{document}: {'updated' if update_document(document) else 'up to date'}")
