"""Options of the commands that measure nasattn itself."""

from pathlib import Path
from typing import Annotated

import typer

from nasattn.cli.options import Plugins, cache_dir, help_where_bare, name_of, number

app = typer.Typer(help="Measure what nasattn's own parts are worth.", rich_markup_mode=None)
app.callback(invoke_without_command=True)(help_where_bare)


@app.command()
def estimators(
    space: Annotated[str | None, name_of("Search space: a name or a YAML file. [mobile]")] = None,
    data: Annotated[
        str | None, name_of("digits, cifar10, cifar100, a folder of class folders, or an .npz.")
    ] = None,
    resolution: Annotated[int | None, number("Side of the pictures, in pixels.")] = None,
    networks: Annotated[int | None, number("How many, baselines included. [60]")] = None,
    seeds: Annotated[int | None, number("Trainings a network. [3]")] = None,
    seed: Annotated[int | None, number("Of which networks are drawn. [0]")] = None,
    recipe: Annotated[str | None, name_of("Training recipe. [digits: quick, else steady]")] = None,
    epochs: Annotated[int | None, number("Epochs of a training.")] = None,
    train_size: Annotated[
        int | None, number("Train on so many pictures only, of every class alike.")
    ] = None,
    watch_size: Annotated[
        int | None,
        number("Judge epochs but the last by so many val-search pictures."),
    ] = None,
    estimator: Annotated[
        str | None,
        name_of("naswot, epochs:2, loss_at:40steps, macs+naswot, ... [the usual]", "A,B,A+B"),
    ] = None,
    device: Annotated[str | None, name_of("cpu, cuda, cuda:1, ... [cpu]")] = None,
    n_jobs: Annotated[int, number("Processes, each with one thread.")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="[runs/bench-SPACE-DATA]", metavar="FOLDER")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the table as JSON; all else to standard error.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Train networks of a space, and rank the estimators by how well they foretell which is best.

    A bench that was stopped goes on where it was, by the same command; more networks, seeds and
    estimators may be asked for later.
    """
    from nasattn.cli.bench_estimators import bench_estimators_command

    recipe_changes = {
        "name": recipe,
        "epochs": epochs,
        "train_size": train_size,
        "watch_size": watch_size,
    }
    changes = {
        "space": space,
        "data": data,
        "resolution": resolution,
        "networks": networks,
        "seeds": seeds,
        "seed": seed,
        "recipe": {k: v for k, v in recipe_changes.items() if v is not None} or None,
        "estimators": None if estimator is None else estimator.split(","),
        "device": device,
    }
    status = bench_estimators_command(
        {name: value for name, value in changes.items() if value is not None},
        n_jobs=n_jobs,
        out=out,
        as_json=json,
        cache_dir=cache_dir(),
    )
    raise typer.Exit(status)


@app.command()
def training(
    networks: Annotated[
        str | None,
        name_of("Names or .json files. [lam,mobilenet_v2,resnet20]", "A,B"),
    ] = None,
    data: Annotated[
        str | None, name_of("digits, cifar10, cifar100, a folder of class folders, or an .npz.")
    ] = None,
    resolution: Annotated[int | None, number("Side of the pictures, in pixels. [32]")] = None,
    recipe: Annotated[
        str | None, name_of("Training recipe that only crops and flips. [lam]")
    ] = None,
    rounds: Annotated[int | None, number("Epochs by each loop, 3 or more. [7]")] = None,
    train_size: Annotated[
        int | None, number("Training pictures of an epoch, of every class alike. [1280]")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the table as JSON; all else to standard error.")
    ] = False,
) -> None:
    """Measure how fast networks train here, beside torchvision's DataLoader and a plain loop."""
    from nasattn.cli.bench_training import bench_training_command

    changes = {
        "networks": None if networks is None else networks.split(","),
        "data": data,
        "resolution": resolution,
        "recipe": recipe,
        "rounds": rounds,
        "train_size": train_size,
    }
    bench_training_command(
        {name: value for name, value in changes.items() if value is not None},
        as_json=json,
        cache_dir=cache_dir(),
    )
