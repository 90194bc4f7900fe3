"""The command line: all commands, and what becomes of an error."""

import io
import signal
import sys
from functools import cache
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from nasattn.cli.options import help_where_bare
from nasattn.cli.signatures import (
    bench,
    catalogue,
    devices,
    networks,
    plugins,
    reviews,
    roads,
    studies,
)
from nasattn.errors import NasattnError
from nasattn.words import printable

app = typer.Typer(
    name="nasattn",
    help="Search and ablate attention-based networks for image classification.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.callback(invoke_without_command=True)(help_where_bare)
for group in (studies, networks, roads, devices, reviews, catalogue):
    app.add_typer(group.app)
app.add_typer(plugins.app, name="plugin")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Run a command; a mistake in the input is one line and exit 2, a bug keeps its traceback."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops as cleanly as Ctrl-C does
    for stream in (sys.stdout, sys.stderr):  # a star must not end a search in a Latin-1 terminal
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(commands()(standalone_mode=False))
    except NasattnError as e:
        fail(str(e))
    except typer.TyperException as e:
        fail(e.format_message())
    except KeyboardInterrupt:
        sys.exit(130)


@cache
def commands() -> Any:
    """All commands, as Typer's own click has them."""
    return typer.main.get_command(app)


def fail(message: str) -> NoReturn:
    """One line on standard error, exit 2."""
    line = printable(" ".join(message.split()))
    console = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
    console.print(f"[bold red]nasattn:[/] {escape(line)}")
    sys.exit(2)
