"""What the options of several commands have in common."""

import math
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from nasattn.errors import StudyError, shown


def whole_number(text: str) -> int:
    """An option's whole number; the error shows the value, which Typer's own does not."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def number(text: str) -> Any:
    """An option that takes a whole number."""
    return typer.Option(help=text, parser=whole_number, metavar="N")


def decimal(option: str, text: str | None) -> float | None:
    """A number given as text; raises StudyError naming the option."""
    try:
        return None if text is None else float(text)
    except ValueError:
        raise StudyError(f"{option}: {shown(text)} is not a number") from None


def amount(option: str, text: str | None) -> int | None:
    """'40M' as 40,000,000; raises StudyError naming the option."""
    from nasattn.spec import read_amount

    try:
        found: int | None = read_amount(text)
    except StudyError as e:
        raise StudyError(f"{option}: {e}") from None
    return found


def channels(option: str, text: str | None) -> tuple[float, ...] | None:
    """'0.485,0.456,0.406' as three numbers."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise StudyError(f"--{option}: must be three numbers like 0.5,0.5,0.5, is {text!r}")
    if option.endswith("std") and min(values) <= 0:
        raise StudyError(f"--std: must be greater than 0, is {text!r}")
    return values


def name_of(text: str, metavar: str = "NAME") -> Any:
    """An option that takes a name, or what `metavar` says."""
    return typer.Option(help=text, metavar=metavar)


DEFAULT_STORAGE = "sqlite:///nasattn.db"
Storage = Annotated[
    str,
    name_of(
        "Optuna storage that holds the studies: sqlite:///FILE, journal:///FILE, "
        "postgresql://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE.",
        "URL",
    ),
]


def load_plugins(targets: list[str] | None) -> None:
    """Load each plug-in, before anything that may name its kind is read."""
    if targets:
        from nasattn.attention.plugins import load_plugin

        for target in targets:
            load_plugin(target)


Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        help="An attention module of your own, from a file that is executed; repeatable.",
        metavar="FILE.py:CLASS",
        callback=load_plugins,
    ),
]

TuneEngine = Annotated[
    bool,
    typer.Option(
        "--tune-engine", help="Find out once how steps are computed fastest here, and do so."
    ),
]
# Of distillation: `nasattn train` and `nasattn final`.
Teachers = Annotated[
    list[str] | None,
    name_of("Learn from it, too: a weights file, or NAME=FILE; repeatable.", "WEIGHTS"),
]
Temperature = Annotated[str | None, name_of("Of the teacher's answers. [4]", "T")]
DistilWeight = Annotated[str | None, name_of("Of the teacher in the loss, 0 to 1. [0.9]", "X")]
TeacherFeatures = Annotated[
    str | None, name_of("Of its maps in the loss: attention transfer, as 10. [off]", "X")
]
TeacherMean = Annotated[
    str | None, name_of("Its normalisation, where its file does not say it.", "R,G,B")
]
TeacherStd = Annotated[str | None, name_of("As 0.229,0.224,0.225.", "R,G,B")]


def cache_dir() -> Path:
    """Where decoded pictures are kept: $NASATTN_CACHE, else the user's cache folder."""
    if own := os.environ.get("NASATTN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nasattn"


def help_where_bare(context: typer.Context) -> None:
    """The callback of a command that is nothing without one of its own: show what there is."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
