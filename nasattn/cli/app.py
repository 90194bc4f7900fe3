"""The commands and their options. Each imports its work when it is called, to answer at once."""

import io
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from nasattn import __version__
from nasattn.errors import NasattnError

app = typer.Typer(
    name="nasattn",
    help="Search and ablate attention-based networks for image classification.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def whole_number(text: str) -> int:
    """An option's whole number; the error shows the value, which Typer's own does not."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def number(text: str) -> Any:
    """An option that takes a whole number."""
    return typer.Option(help=text, parser=whole_number, metavar="N")


def name_of(text: str, metavar: str = "NAME") -> Any:
    """An option that takes a name, or what `metavar` says."""
    return typer.Option(help=text, metavar=metavar)


DEFAULT_STORAGE = "sqlite:///nasattn.db"
Storage = Annotated[str, name_of("Optuna storage that holds the studies.", "URL")]


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def search(
    space: Annotated[str | None, name_of("Search space: a name or a YAML file. [mobile]")] = None,
    study: Annotated[str | None, name_of("Study: a name or a YAML file. [SPACE_quick]")] = None,
    name: Annotated[str | None, name_of("The study's name in the storage. [SPACE-DATA]")] = None,
    data: Annotated[
        str | None, name_of("digits, cifar10, cifar100, a folder of class folders, or an .npz.")
    ] = None,
    resolution: Annotated[int | None, number("Side of the pictures, in pixels.")] = None,
    trials: Annotated[
        int | None, number("Networks to train, baselines and earlier ones included.")
    ] = None,
    recipe: Annotated[str | None, name_of("Training recipe. [quick]")] = None,
    epochs: Annotated[int | None, number("Epochs a network.")] = None,
    train_size: Annotated[
        int | None, number("Train on so many pictures only, of every class alike.")
    ] = None,
    sampler: Annotated[str | None, name_of("tpe, nsga2 or random. [tpe]")] = None,
    seed: Annotated[int | None, number("Seed of proposals, weights and batches. [0]")] = None,
    objective: Annotated[
        list[str] | None, name_of("top1, macs, params or latency_ms; repeatable.")
    ] = None,
    constraint: Annotated[
        list[str] | None, name_of("A limit such as 'macs<=120e6'; repeatable.", "LIMIT")
    ] = None,
    device: Annotated[str | None, name_of("cpu, cuda, cuda:1, ... [cpu]")] = None,
    threads: Annotated[int | None, number("Processor threads to train with. [1]")] = None,
    storage: Storage = DEFAULT_STORAGE,
    out: Annotated[Path | None, name_of("Folder for results. [runs/STUDY]", "FOLDER")] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on with a study of this name and equal settings.")
    ] = True,
) -> None:
    """Search a space for the networks with the best trade-offs."""
    from nasattn.cli.search import search_command

    changes: dict[str, Any] = {
        "space": space,
        "name": name,
        "data": data,
        "resolution": resolution,
        "n_trials": trials,
        "sampler": sampler,
        "seed": seed,
        "objectives": objective or None,
        "constraints": constraint or None,
        "device": device,
        "threads": threads,
    }
    training = {"name": recipe, "epochs": epochs, "train_size": train_size}
    changes["recipe"] = {k: v for k, v in training.items() if v is not None} or None
    changes = {key: value for key, value in changes.items() if value is not None}
    status = search_command(
        study, changes, storage=storage, out=out, resume=resume, cache_dir=cache_dir()
    )
    raise typer.Exit(status)


@app.command()
def dashboard(
    storage: Storage = DEFAULT_STORAGE,
    host: Annotated[str, name_of("Address to listen on.", "ADDRESS")] = "127.0.0.1",
    port: Annotated[int, number("Port to listen on.")] = 8080,
) -> None:
    """Open a storage in Optuna Dashboard."""
    from nasattn.cli.dashboard import dashboard_command

    dashboard_command(storage, host, port)


@app.command()
def spaces() -> None:
    """List the search spaces."""
    from nasattn.cli.spaces import spaces_command

    spaces_command()


@app.command()
def show(
    network: Annotated[str, typer.Argument(help="A network by name, or a JSON file.")],
    resolution: Annotated[int | None, number("Side of the pictures, in pixels. [224]")] = None,
    classes: Annotated[int | None, number("Number of classes. [1000]")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Show a network: stages, costs, published figures, JSON."""
    from nasattn.cli.show import show_command

    show_command(network, resolution, classes, as_json=json)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def cache_dir() -> Path:
    """Where decoded pictures are kept: $NASATTN_CACHE, else the user's cache folder."""
    if own := os.environ.get("NASATTN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nasattn"


def main() -> None:
    """Run a command; a mistake in the input is one line and exit 2, a bug keeps its traceback."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops as cleanly as Ctrl-C does
    for stream in (sys.stdout, sys.stderr):  # a star must not end a search in a Latin-1 terminal
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(app(standalone_mode=False))
    except NasattnError as e:
        fail(str(e))
    except typer.TyperException as e:
        fail(e.format_message())
    except KeyboardInterrupt:
        sys.exit(130)


def fail(message: str) -> NoReturn:
    """One line on standard error, exit 2."""
    line = " ".join(message.split())
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"[bold red]nasattn:[/] {escape(line)}")
    sys.exit(2)
