"""Options of the commands that look at studies."""

from pathlib import Path
from typing import Annotated

import typer

from nasattn.cli.options import (
    DEFAULT_STORAGE,
    Plugins,
    Storage,
    cache_dir,
    name_of,
    number,
)

app = typer.Typer()


@app.command()
def report(
    study: Annotated[str | None, typer.Argument(help="A study by name. [the only one]")] = None,
    storage: Storage = DEFAULT_STORAGE,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file: .html or .md. [runs/STUDY/report.html]"),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", help="A folder for its plots as SVG and PNG, too.")
    ] = None,
) -> None:
    """Write a study's report: one file for a browser, which needs no server and no network."""
    from nasattn.cli.report import report_command

    report_command(study, storage=storage, out=out, plots=plots, cache_dir=cache_dir())


@app.command()
def compare(
    study_a: Annotated[str, typer.Argument(help="A study of `nasattn search` by name.")],
    study_b: Annotated[str, typer.Argument(help="Another one.")],
    storage: Storage = DEFAULT_STORAGE,
    storage_b: Annotated[
        str | None, name_of("Storage of the second study, if it is another one.", "URL")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A report of it, .html or .md.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Set two searches side by side: fronts, hypervolumes, what they differ in."""
    from nasattn.cli.report import compare_command

    storages = storage, storage_b or storage
    compare_command((study_a, study_b), storages=storages, out=out, as_json=json)


@app.command()
def dashboard(
    place: Annotated[
        str | None, typer.Argument(metavar="STORAGE", help="The same as --storage.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    host: Annotated[str, name_of("Address to listen on.", "ADDRESS")] = "127.0.0.1",
    port: Annotated[int, number("Port to listen on.")] = 8080,
) -> None:
    """Open a storage in Optuna Dashboard."""
    from nasattn.cli.dashboard import dashboard_command

    dashboard_command(place or storage, host, port)


@app.command()
def status(
    study: Annotated[
        str | None, typer.Argument(help="A study by name. [the only one, else a line for each]")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Show what runs where, what came of it, and how long the rest takes; writes nothing."""
    from nasattn.cli.status import status_command

    status_command(study, storage, as_json=json)


@app.command()
def replay(
    study: Annotated[str, typer.Argument(help="A study by name.")],
    storage: Storage = DEFAULT_STORAGE,
    table: Annotated[str | None, name_of("The table it was searched in.", "FILE")] = None,
    latency_model: Annotated[
        str | None, name_of("The latency model it was searched with.", "FILE")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Propose a search's networks again and compare; trains nothing, writes nothing."""
    from nasattn.cli.replay import replay_command

    status = replay_command(study, storage=storage, table=table, latency_model=latency_model)
    raise typer.Exit(status)
