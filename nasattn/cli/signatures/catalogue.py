"""Options of the commands that look at spaces and networks."""

from pathlib import Path
from typing import Annotated

import typer

from nasattn import __version__
from nasattn.cli.options import (
    DEFAULT_STORAGE,
    Plugins,
    Storage,
    name_of,
    number,
)

app = typer.Typer()


@app.command()
def spaces(
    json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """List the search spaces."""
    from nasattn.cli.spaces import spaces_command

    spaces_command(as_json=json)


@app.command("export-space")
def export_space(
    space: Annotated[str, typer.Argument(help="A search space by name, or a YAML file.")],
    to: Annotated[str, name_of("nni: a Python file with a model space of NNI 3.0.")] = "nni",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="[SPACE_nni.py]", metavar="FILE.py")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Write a search space for another library."""
    from nasattn.cli.export_space import export_space_command

    export_space_command(space, to, out)


@app.command()
def zoo(
    family: Annotated[str | None, name_of("Only this family.", "FAMILY")] = None,
    paper: Annotated[str | None, name_of("Only this paper's figures: 000 to 004.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Say what holds, and exit 1 if a figure is off.")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print all columns as a Markdown table.")
    ] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print all columns as CSV.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print all columns as JSON.")] = False,
) -> None:
    """List the networks that have names, with published figures checked by counting."""
    if verify + markdown + csv + json > 1:
        options = "--verify, --markdown, --csv and --json"
        raise typer.BadParameter(f"{options}: only one of them at a time")
    from nasattn.cli.zoo import zoo_command

    forms = {"markdown": markdown, "csv": csv, "json": json}
    form = next((form for form, wanted in forms.items() if wanted), "table")
    raise typer.Exit(zoo_command(family, paper, verify=verify, form=form))


@app.command()
def show(
    network: Annotated[str, typer.Argument(help="A network by name, or a JSON file.")],
    resolution: Annotated[
        int | None, number("Side of the pictures, in pixels. [as published]")
    ] = None,
    classes: Annotated[int | None, number("Number of classes. [as published]")] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Every layer with its costs, in place of stages.")
    ] = False,
    latency: Annotated[
        bool, typer.Option("--latency", help="With --layers: time every layer on this machine.")
    ] = False,
    threads: Annotated[int | None, number("With --latency: processor threads. [1]")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
    plugin: Plugins = None,
) -> None:
    """Show a network: stages or layers, costs, published figures, JSON."""
    if latency and not layers:
        raise typer.BadParameter("--latency: only with --layers")
    if threads is not None and not latency:
        raise typer.BadParameter("--threads: only with --latency")
    if latency:
        from nasattn.cli.layer_latency import layer_latency_command

        n = 1 if threads is None else threads
        layer_latency_command(network, resolution, classes, threads=n, as_json=json)
        return
    from nasattn.cli.show import show_command

    show_command(network, resolution, classes, layers=layers, as_json=json)


@app.command()
def draw(
    networks: Annotated[
        list[str],
        typer.Argument(
            help="One network, or two to compare: names, JSON files, or trials as STUDY/17.",
            metavar="NETWORK",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="[NETWORK.svg]", metavar="FILE.svg|png")
    ] = None,
    resolution: Annotated[
        int | None, number("Side of the pictures, in pixels. [as published]")
    ] = None,
    classes: Annotated[int | None, number("Number of classes. [as published]")] = None,
    storage: Storage = DEFAULT_STORAGE,
    plugin: Plugins = None,
) -> None:
    """Draw a network, or what differs between two, as SVG or PNG."""
    from nasattn.cli.draw import draw_command

    draw_command(networks, out, resolution, classes, storage)


@app.command()
def roofline(
    networks: Annotated[
        list[str], typer.Argument(help="Networks by name, or JSON files.", metavar="NETWORK...")
    ],
    resolution: Annotated[
        int | None, number("Side of the pictures, in pixels. [as published]")
    ] = None,
    classes: Annotated[int | None, number("Number of classes. [as published]")] = None,
    threads: Annotated[int, number("Processor threads.")] = 1,
    device: Annotated[str, name_of("cpu, cuda, cuda:1, ...")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print JSON only, with all layers.")] = False,
    plugin: Plugins = None,
) -> None:
    """Set networks beside what this machine can compute and move at its best."""
    from nasattn.cli.roofline import roofline_command

    roofline_command(networks, resolution, classes, threads=threads, device=device, as_json=json)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)
