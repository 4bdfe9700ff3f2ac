"""The command line: one file per verb, each a thin front door on :mod:`harken.tasks` and its neighbours."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from importlib import import_module
from types import FrameType
from typing import Annotated, NoReturn

import typer

from harken import __version__
from harken.errors import HarkenError

# one file each; none imports torch before its command runs
_VERBS = (
    "enhance",
    "extend",
    "extract",
    "separate",
    "hrtf",
    "score",
    "demo",
    "models",
    "train",
    "write",
    "see",
    "brain",
    "bench",
    "compare",
    "papers",
)

app = typer.Typer(
    name="harken",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"harken {__version__}")
        raise typer.Exit


@app.callback()
def harken(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Attention for signals: enhance recordings, score them, write text, look up papers.

    Exit codes: 0 all done; 1 some inputs failed; 2 nothing could be done; 130 stopped by Ctrl-C.
    """


for _verb in _VERBS:
    import_module(f"harken.cli.{_verb}").register(app)


def main(argv: list[str] | None = None) -> int:
    """Run a command line (the process's own when None) and return its exit code.

    An error that the user can mend is one line on stderr; ``--debug``, anywhere, adds the traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)
    try:
        app(arguments, prog_name="harken")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    except (HarkenError, OSError) as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if debug:
            traceback.print_exc()
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(f"error: {reason} (unexpected: please report it with what --debug shows)", file=sys.stderr)
        return 70
    return 0


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    """Leave by an exception, so that partial outputs are removed."""
    raise SystemExit(128 + number)
