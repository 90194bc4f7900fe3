"""Options of the commands that go a whole way by a file."""

from pathlib import Path
from typing import Annotated

import typer

from nasattn.cli.options import DEFAULT_STORAGE, Plugins, Storage, cache_dir, name_of, number

app = typer.Typer()


@app.command()
def optimize(
    target: Annotated[
        str, typer.Argument(help="A weights file; with --init a network by name, to transfer.")
    ],
    steps: Annotated[
        str, name_of("A study by name, or a YAML file, with the steps to do.", "FILE")
    ] = "optimize",
    data: Annotated[str | None, name_of("Pictures. [those of the training]")] = None,
    resolution: Annotated[int | None, number("Side of the pictures, in pixels.")] = None,
    init: Annotated[
        str | None, name_of("Weights of a named network: .npz, .pth, 'torchvision'.", "FILE")
    ] = None,
    runtime: Annotated[
        str | None, name_of("Networks are timed on it. [onnxruntime, where it is]")
    ] = None,
    pictures: Annotated[int, number("Val-select pictures that each state is asked about.")] = 1000,
    device: Annotated[str | None, name_of("cpu, cuda, cuda:1, ... [cpu]")] = None,
    threads: Annotated[int | None, number("Processor threads. [1]")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="[runs/WEIGHTS-optimized]", metavar="FOLDER")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Do every step again, whatever is there.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Make trained weights smaller and faster, step by step, and show what each step cost."""
    from nasattn.cli.optimize import Ask, optimize_command
    from nasattn.road import load_pipeline

    ask = Ask(init, data, resolution, device, threads, runtime, pictures, overwrite)
    pipeline = load_pipeline(steps)
    status = optimize_command(target, pipeline.optimize, ask, out=out, cache_dir=cache_dir())
    raise typer.Exit(status)


@app.command()
def run(
    file: Annotated[str, typer.Argument(help="A study by name, or a YAML file: own_pictures.")],
    data: Annotated[
        str | None, name_of("digits, cifar10, cifar100, a folder of class folders, or an .npz.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another value, as final.seeds=1; repeatable.", metavar="X=Y"),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="[runs/STUDY]", metavar="FOLDER")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Search, train the best for good, optimize, export and predict, as one file says."""
    from nasattn.cli.run import run_command
    from nasattn.road import load_road, read_changes

    changes = read_changes(tuple(settings or ()))
    changes |= {} if data is None else {"search.data": data}
    status = run_command(load_road(file, changes), storage=storage, out=out, cache_dir=cache_dir())
    raise typer.Exit(status)
