"""``harken models`` and ``harken info``: which systems there are, and what one of them costs and does."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("models")(list_models)
    app.command("info")(info)


def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the models: what each does, and whether weights ship with it.

    Example: harken models
    """
    from rich.console import Console
    from rich.table import Table

    from harken import models

    rows = []
    for slug in models.list_models():
        kind = models.model_class(slug)
        rows.append(
            {
                "model": slug,
                "room": kind.__module__.split(".")[-2],
                "weights": "ship" if models.weights_folder(slug) else "none: pass --weights",
                "about": _about(kind),
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("model", "room", "weights", "about"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


def info(
    slug: Annotated[str, typer.Argument(metavar="MODEL", help="Its name; 'harken models' lists them.")],
    weights: Annotated[
        str | None, typer.Option(help="A folder, checkpoint or Hub repository.", show_default="those that ship")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show one model: parameters, rate, arithmetic per second of audio, latency, licence, weights and their scores.

    Example: harken info mp-senet
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from harken import models

    facts = models.info(slug, weights)
    if as_json:
        typer.echo(json.dumps(facts, indent=2, default=str))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _flat(facts):
        table.add_row(name, escape(value))
    Console().print(table)


def _about(kind: type) -> str:
    import inspect

    module = inspect.getmodule(kind)
    return ((module and module.__doc__) or kind.__doc__ or "").strip().splitlines()[0]


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in facts.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            rows += _flat(value, f"{name}: ")
        elif isinstance(value, (list, tuple)):
            rows.append((name, ", ".join(map(str, value))))
        elif isinstance(value, int) and not isinstance(value, bool):
            rows.append((name, f"{value:,}"))
        elif isinstance(value, float):
            rows.append((name, f"{value:,.4g}" if abs(value) < 1e6 else f"{value / 1e9:,.3f} billion"))
        else:
            rows.append((name, "none" if value is None else str(value)))
    return rows
