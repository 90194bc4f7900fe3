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
from nasattn.cli.options import (
    DEFAULT_STORAGE,
    DistilWeight,
    Plugins,
    Storage,
    TeacherMean,
    Teachers,
    TeacherStd,
    Temperature,
    decimal,
    name_of,
    number,
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
    evaluator: Annotated[
        str | None,
        name_of("train, or table:FILE (.csv, .parquet), where networks are looked up. [train]"),
    ] = None,
    sampler: Annotated[
        str | None, name_of("cost_aware, tpe, nsga2 or random. [cost_aware]")
    ] = None,
    early_stop: Annotated[
        str | None, name_of("none, or rank: stop what can no longer reach the front. [none]")
    ] = None,
    seed: Annotated[int | None, number("Seed of proposals, weights and batches. [0]")] = None,
    seeds: Annotated[
        int | None, number("Fresh seeds over which the best are trained again; 0: none. [3]")
    ] = None,
    finalists: Annotated[
        int | None, number("How many of the best are. [TRIALS / 8, at least 6]")
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Let random search have the same budget, too.")
    ] = False,
    objective: Annotated[
        list[str] | None, name_of("top1, macs, params or latency_ms; repeatable.")
    ] = None,
    constraint: Annotated[
        list[str] | None, name_of("A limit such as 'macs<=120e6'; repeatable.", "LIMIT")
    ] = None,
    latency_model: Annotated[
        str | None, name_of("Screen by latencies foretold from it: of latency --fit.", "FILE")
    ] = None,
    device: Annotated[str | None, name_of("cpu, cuda, cuda:1, ... [cpu]")] = None,
    threads: Annotated[int | None, number("Processor threads to train with. [1]")] = None,
    engine: Annotated[str | None, name_of("local or ray. [local]")] = None,
    n_jobs: Annotated[int | None, number("Networks at once. [1; ray: as many as fit]")] = None,
    pending: Annotated[
        int | None, number("Networks proposed and not told yet. [1, or 2 a job]")
    ] = None,
    trial_timeout: Annotated[
        str | None, name_of("An attempt that takes longer is ended.", "SECONDS")
    ] = None,
    max_retries: Annotated[
        int | None, number("A lost trial is redone so often, then it has failed. [2]")
    ] = None,
    cpus_per_trial: Annotated[str | None, name_of("Of Ray's, as 0.5. [--threads]", "X")] = None,
    gpus_per_trial: Annotated[str | None, name_of("Of Ray's, as 0.25. [0]", "X")] = None,
    address: Annotated[
        str | None, name_of("A Ray cluster that runs; auto finds it.", "HOST:PORT")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    out: Annotated[Path | None, name_of("Folder for results. [runs/STUDY]", "FOLDER")] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on with a study of this name and equal settings.")
    ] = True,
    json: Annotated[
        bool, typer.Option("--json", help="Print the front as JSON; all else to standard error.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Search a space for the networks with the best trade-offs."""
    from nasattn.cli.search import search_command

    changes: dict[str, Any] = {
        "space": space,
        "name": name,
        "evaluator": evaluator,
        "data": data,
        "resolution": resolution,
        "n_trials": trials,
        "sampler": sampler,
        "early_stop": early_stop,
        "seed": seed,
        "n_seeds": seeds,
        "finalists": finalists,
        "control": control or None,
        "objectives": objective or None,
        "constraints": constraint or None,
        "latency_model": latency_model,
        "device": device,
        "threads": threads,
        "engine": engine,
        "n_jobs": n_jobs,
        "pending": pending,
        "trial_timeout": decimal("--trial-timeout", trial_timeout),
        "max_retries": max_retries,
        "cpus_per_trial": decimal("--cpus-per-trial", cpus_per_trial),
        "gpus_per_trial": decimal("--gpus-per-trial", gpus_per_trial),
        "address": address,
    }
    training = {"name": recipe, "epochs": epochs, "train_size": train_size}
    changes["recipe"] = {k: v for k, v in training.items() if v is not None} or None
    changes = {key: value for key, value in changes.items() if value is not None}
    status = search_command(
        study,
        changes,
        storage=storage,
        out=out,
        resume=resume,
        as_json=json,
        cache_dir=cache_dir(),
    )
    raise typer.Exit(status)


@app.command()
def ablate(
    base: Annotated[
        str | None,
        name_of("Network to take apart: a name, a JSON file, or trial:STUDY/17.", "NETWORK"),
    ] = None,
    study: Annotated[str | None, name_of("Ablation: a name or a YAML file. [BASE's]")] = None,
    ladder: Annotated[
        str | None, name_of("Parts put in one on the other, as papers do.", "PART,...")
    ] = None,
    factorial: Annotated[
        bool, typer.Option("--factorial", help="Every combination of the parts.")
    ] = False,
    fraction: Annotated[
        int | None, number("A factorial in so many arms: 8, 16, ...; it says what it mixes.")
    ] = None,
    swap: Annotated[
        list[str] | None, name_of("Other values: attention=se,eca; repeatable.", "FIELD=VALUE,...")
    ] = None,
    sweep: Annotated[
        list[str] | None, name_of("A curve: attention.groups=1,2,4.", "FIELD=VALUE,...")
    ] = None,
    networks: Annotated[
        str | None, name_of("Other networks to compare with it.", "NETWORK,...")
    ] = None,
    control: Annotated[
        bool, typer.Option(help="An arm as large as the base, without its parts.")
    ] = True,
    seeds: Annotated[int | None, number("Seeds an arm; six can be tested. [6]")] = None,
    sequential: Annotated[
        bool, typer.Option("--sequential", help="Stop a comparison where a look settles it.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what it takes and can show, and stop.")
    ] = False,
    spread: Annotated[str | None, name_of("For --plan: top1's spread over seeds.", "X")] = None,
    margin: Annotated[
        str | None, name_of("Smallest top1 difference that matters, as 0.005.", "X")
    ] = None,
    from_csv: Annotated[
        Path | None, name_of("Compare finished runs instead: arm,seed,value.", "FILE")
    ] = None,
    unit: Annotated[str | None, name_of("Of that file: fraction or percent.", "UNIT")] = None,
    data: Annotated[
        str | None, name_of("digits, cifar10, cifar100, a folder of class folders, or an .npz.")
    ] = None,
    resolution: Annotated[int | None, number("Side of the pictures, in pixels.")] = None,
    recipe: Annotated[str | None, name_of("Training recipe. [quick]")] = None,
    epochs: Annotated[int | None, number("Epochs a run.")] = None,
    train_size: Annotated[
        int | None, number("Train on so many pictures only, of every class alike.")
    ] = None,
    name: Annotated[str | None, name_of("The study's name in the storage.")] = None,
    device: Annotated[str | None, name_of("cpu, cuda, cuda:1, ... [cpu]")] = None,
    threads: Annotated[int | None, number("Processor threads to train with. [1]")] = None,
    storage: Storage = DEFAULT_STORAGE,
    out: Annotated[Path | None, name_of("Folder for results. [runs/STUDY]", "FOLDER")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
    plugin: Plugins = None,
) -> None:
    """Show which part of a network earns its keep, with paired seeds and statistics."""
    from nasattn.cli.ablate import Options, ablate_command, compare_command, fields

    options = Options(storage, out, plan, decimal("--spread", spread), json, cache_dir())
    training = {"name": recipe, "epochs": epochs, "train_size": train_size}
    changes: dict[str, Any] = {
        "ladder": None if ladder is None else ladder.split(","),
        "factorial": factorial or None,
        "fraction": fraction,
        "swap": fields("--swap", swap),
        "sweep": fields("--sweep", sweep),
        "networks": None if networks is None else dict.fromkeys(networks.split(","), "base"),
        "control": None if control else False,
        "sequential": sequential or None,
        "seeds": seeds,
        "margin": decimal("--margin", margin),
        "data": data,
        "resolution": resolution,
        "recipe": {k: v for k, v in training.items() if v is not None} or None,
        "name": name,
        "device": device,
        "threads": threads,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    if from_csv is not None:
        changes |= {} if study is None else {"study": study}
        raise typer.Exit(compare_command(from_csv, base, changes, unit, options))
    raise typer.Exit(ablate_command(base, study, changes, options))


@app.command()
def train(
    network: Annotated[str, typer.Argument(help="A network by name, or a JSON file.")],
    data: Annotated[
        str | None,
        name_of("digits, cifar10, cifar100, a folder of class folders, or an .npz. [digits]"),
    ] = None,
    recipe: Annotated[str | None, name_of("Training recipe. [quick]")] = None,
    epochs: Annotated[int | None, number("Epochs. [by the recipe]")] = None,
    resolution: Annotated[int | None, number("Side of the pictures, in pixels.")] = None,
    train_size: Annotated[
        int | None, number("Train on so many pictures only, of every class alike.")
    ] = None,
    seed: Annotated[int | None, number("Seed of weights and batches. [0]")] = None,
    device: Annotated[str | None, name_of("cpu, cuda, cuda:1, ... [cpu]")] = None,
    threads: Annotated[int | None, number("Processor threads to train with. [1]")] = None,
    init: Annotated[
        str | None,
        name_of("Weights to begin with: .safetensors, .npz, .pth, or 'torchvision'.", "FILE"),
    ] = None,
    teacher: Teachers = None,
    temperature: Temperature = None,
    distil_weight: DistilWeight = None,
    teacher_mean: TeacherMean = None,
    teacher_std: TeacherStd = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="[runs/NETWORK-DATA]", metavar="FOLDER")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another training in the folder.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Train one network; the same command goes on with a training that was stopped."""
    from nasattn.cli.teacher import Lesson
    from nasattn.cli.train import train_command

    lesson = Lesson(
        tuple(teacher or ()),
        decimal("--temperature", temperature),
        decimal("--distil-weight", distil_weight),
        teacher_mean,
        teacher_std,
    )
    training = {"name": recipe, "epochs": epochs, "train_size": train_size}
    changes: dict[str, Any] = {
        "data": data,
        "recipe": {k: v for k, v in training.items() if v is not None} or None,
        "resolution": resolution,
        "seed": seed,
        "device": device,
        "threads": threads,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    status = train_command(
        network,
        changes,
        init=init,
        lesson=lesson,
        out=out,
        overwrite=overwrite,
        cache_dir=cache_dir(),
    )
    raise typer.Exit(status)


@app.command()
def final(
    study: Annotated[str, typer.Argument(help="A study of `nasattn search` by name.")],
    top: Annotated[
        int | None, number("The best so many of its front, by what each adds to it. [1]")
    ] = None,
    networks: Annotated[
        str | None, name_of("These instead, by arch_id, trial or name.", "NETWORK,...")
    ] = None,
    seeds: Annotated[int, number("Fresh seeds for each network.")] = 3,
    recipe: Annotated[str | None, name_of("Training recipe. [the study's]")] = None,
    epochs: Annotated[int | None, number("Epochs. [by the recipe]")] = None,
    data: Annotated[str | None, name_of("Its pictures, where they are now.")] = None,
    teacher: Teachers = None,
    temperature: Temperature = None,
    distil_weight: DistilWeight = None,
    teacher_mean: TeacherMean = None,
    teacher_std: TeacherStd = None,
    device: Annotated[str | None, name_of("cpu, cuda, cuda:1, ... [cpu]")] = None,
    threads: Annotated[int | None, number("Processor threads to train with. [1]")] = None,
    storage: Storage = DEFAULT_STORAGE,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="[runs/STUDY/final]", metavar="FOLDER")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another final in the folder.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Train a study's best networks for good, then open the sealed test split, once for all."""
    from nasattn.cli.final import Ask, final_command
    from nasattn.cli.teacher import Lesson

    lesson = Lesson(
        tuple(teacher or ()),
        decimal("--temperature", temperature),
        decimal("--distil-weight", distil_weight),
        teacher_mean,
        teacher_std,
    )
    names = None if networks is None else tuple(networks.split(","))
    ask = Ask(top, names, seeds, recipe, epochs, data, device, threads)
    status = final_command(
        study,
        ask,
        lesson,
        storage=storage,
        out=out,
        overwrite=overwrite,
        cache_dir=cache_dir(),
    )
    raise typer.Exit(status)


@app.command()
def recommend(
    priority: Annotated[str, name_of("What matters most: size, accuracy, speed or power.")],
    max_params: Annotated[str | None, name_of("At most so many parameters: 3M.", "N")] = None,
    max_macs: Annotated[str | None, name_of("At most so many multiply-adds: 300M.", "N")] = None,
    max_latency: Annotated[
        str | None, name_of("At most so long a picture: 8ms, 8ms@onnxruntime.", "MS")
    ] = None,
    min_top1: Annotated[str | None, name_of("At least this top-1, a fraction: .9.", "X")] = None,
    data: Annotated[
        str, name_of("digits, cifar10, cifar100, a folder of class folders, or an .npz.")
    ] = "digits",
    resolution: Annotated[int | None, number("Side of the pictures, in pixels.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The study file to go on with.", metavar="FILE")
    ] = Path("study.yaml"),
    plugin: Plugins = None,
) -> None:
    """Pick a network to begin with, from limits and a priority, and write a study file."""
    from nasattn.cli.recommend import recommend_command

    recommend_command(
        priority,
        max_params=max_params,
        max_macs=max_macs,
        max_latency=max_latency,
        min_top1=min_top1,
        data=data,
        resolution=resolution,
        storage=storage,
        out=out,
        cache_dir=cache_dir(),
    )


@app.command()
def evaluate(
    target: Annotated[
        str, typer.Argument(help="A weights file, or a network by name (with --init).")
    ],
    data: Annotated[str | None, name_of("Pictures. [those of the training]")] = None,
    resolution: Annotated[int | None, number("Side of the pictures, in pixels.")] = None,
    split: Annotated[str, name_of("val-search, val-select or test.")] = "val-select",
    init: Annotated[
        str | None, name_of("Weights of a named network: .npz, .pth, 'torchvision'.", "FILE")
    ] = None,
    mean: Annotated[str | None, name_of("Normalisation, as 0.485,0.456,0.406.", "R,G,B")] = None,
    std: Annotated[str | None, name_of("Normalisation, as 0.229,0.224,0.225.", "R,G,B")] = None,
    device: Annotated[str, name_of("cpu, cuda, cuda:1, ...")] = "cpu",
    threads: Annotated[int, number("Processor threads.")] = 1,
    json: Annotated[Path | None, name_of("Write all figures as JSON.", "FILE")] = None,
    csv: Annotated[Path | None, name_of("Write the confusion matrix as CSV.", "FILE")] = None,
    plugin: Plugins = None,
) -> None:
    """Measure a trained network: top-1, top-5, each class, the confusions."""
    from nasattn.cli.evaluate import Choice, evaluate_command

    split = split.replace("-", "_")
    choice = Choice(init, data, resolution, split, mean, std, device, threads)
    evaluate_command(target, choice, json_file=json, csv_file=csv, cache_dir=cache_dir())


@app.command()
def prune(
    target: Annotated[
        str, typer.Argument(help="A weights file, or a network by name (with --init).")
    ],
    ratio: Annotated[
        str | None, name_of("Share of each layer's channels that goes, as 0.5.", "X")
    ] = None,
    target_macs: Annotated[
        str | None, name_of("As many as bring the multiply-adds down to it: 40M.", "N")
    ] = None,
    target_params: Annotated[str | None, name_of("The same with parameters.", "N")] = None,
    importance: Annotated[str, name_of("l2, l1, taylor, fpgm or random.")] = "l2",
    compete: Annotated[
        bool, typer.Option("--global", help="The lowest scores go, wherever they are.")
    ] = False,
    ignore: Annotated[
        list[str] | None, name_of("Leave a layer's channels, as stages.0; repeatable.", "LAYER")
    ] = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Prune each layer alone, train and write nothing.")
    ] = False,
    n: Annotated[int, number("Val-search pictures for --sensitivity.")] = 500,
    json: Annotated[Path | None, name_of("For --sensitivity: all figures.", "FILE")] = None,
    data: Annotated[str | None, name_of("Pictures. [those of the training]")] = None,
    resolution: Annotated[int | None, number("Side of the pictures, in pixels.")] = None,
    recipe: Annotated[str | None, name_of("Recipe to train with afterwards. [finetune]")] = None,
    epochs: Annotated[int | None, number("Epochs. [by the recipe]")] = None,
    train_size: Annotated[
        int | None, number("Train on so many pictures only, of every class alike.")
    ] = None,
    seed: Annotated[int | None, number("Seed of batches and of random scores. [0]")] = None,
    init: Annotated[
        str | None, name_of("Weights of a named network: .npz, .pth, 'torchvision'.", "FILE")
    ] = None,
    mean: Annotated[str | None, name_of("Normalisation, as 0.485,0.456,0.406.", "R,G,B")] = None,
    std: Annotated[str | None, name_of("Normalisation, as 0.229,0.224,0.225.", "R,G,B")] = None,
    device: Annotated[str, name_of("cpu, cuda, cuda:1, ...")] = "cpu",
    threads: Annotated[int, number("Processor threads.")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="[runs/WEIGHTS-pruned]", metavar="FOLDER")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another training in the folder.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Prune channels of a trained network, train it on, and show what it cost."""
    from nasattn.cli.evaluate import Choice
    from nasattn.cli.prune import amount, prune_command, sensitivity_command

    training = {"name": recipe or "finetune", "epochs": epochs, "train_size": train_size}
    changes: dict[str, Any] = {
        "recipe": {k: v for k, v in training.items() if v is not None},
        "ratio": decimal("--ratio", ratio),
        "target_macs": amount("--target-macs", target_macs),
        "target_params": amount("--target-params", target_params),
        "importance": importance,
        "compete": "global" if compete else "group",
        "ignore": tuple(ignore or ()),
        "seed": seed,
        "resolution": resolution,
        "device": device,
        "threads": threads,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    choice = Choice(init, data, resolution, "val_select", mean, std, device, threads)
    if sensitivity:
        sensitivity_command(target, changes, choice, n=n, json_file=json, cache_dir=cache_dir())
        return
    status = prune_command(
        target, changes, choice, out=out, overwrite=overwrite, cache_dir=cache_dir()
    )
    raise typer.Exit(status)


@app.command()
def explain(
    targets: Annotated[
        list[str],
        typer.Argument(
            help="Weights files or networks by name (with --init), then pictures or folders.",
            metavar="WEIGHTS|PICTURE",
        ),
    ],
    pictures: Annotated[
        list[str] | None, name_of("A picture or a folder of them; repeatable.", "PATH")
    ] = None,
    data: Annotated[
        str | None, name_of("Val-select pictures of a data set; names of classes, normalisation.")
    ] = None,
    n: Annotated[int, number("Pictures drawn from a folder or a data set.")] = 8,
    seed: Annotated[int, number("Seed of that draw and of random orders.")] = 0,
    class_name: Annotated[
        str | None, typer.Option("--class", help="[each predicted one]", metavar="NAME")
    ] = None,
    attention: Annotated[
        bool, typer.Option("--attention", help="Show what attention modules do, too.")
    ] = False,
    resolution: Annotated[int | None, number("Side of the pictures, in pixels.")] = None,
    init: Annotated[
        list[str] | None,
        name_of("Weights of a named network: .npz, .pth, 'torchvision'; repeatable.", "FILE"),
    ] = None,
    mean: Annotated[str | None, name_of("Normalisation, as 0.485,0.456,0.406.", "R,G,B")] = None,
    std: Annotated[str | None, name_of("Normalisation, as 0.229,0.224,0.225.", "R,G,B")] = None,
    device: Annotated[str, name_of("cpu, cuda, cuda:1, ...")] = "cpu",
    threads: Annotated[int, number("Processor threads.")] = 1,
    out: Annotated[Path, typer.Option("--out", "-o", help="The sheet.", metavar="FILE.png")] = Path(
        "explain.png"
    ),
    json: Annotated[Path | None, name_of("Write all figures as JSON.", "FILE")] = None,
    plugin: Plugins = None,
) -> None:
    """Show where networks look (Grad-CAM), and whether their maps matter."""
    from nasattn.cli.explain import explain_command
    from nasattn.cli.explain_networks import Choice

    choice = Choice(
        pictures=tuple(pictures or ()),
        data=data,
        n=n,
        seed=seed,
        resolution=resolution,
        init=tuple(init or ()),
        mean=mean,
        std=std,
        class_name=class_name,
        attention=attention,
        device=device,
        threads=threads,
    )
    explain_command(targets, choice, out=out, json_file=json, cache_dir=cache_dir())


@app.command()
def detect(
    network: Annotated[
        str | None, typer.Argument(help="A network by name, or a JSON file: the backbone.")
    ] = None,
    data: Annotated[
        Path | None,
        name_of("A COCO folder: annotations/instances_train.json, train/, ...", "FOLDER"),
    ] = None,
    weights: Annotated[
        Path | None, name_of("Instead of NETWORK: a trained detector, to be scored.", "FILE")
    ] = None,
    epochs: Annotated[int | None, number("Epochs. [12]")] = None,
    batch_size: Annotated[int | None, number("Pictures a step. [4]")] = None,
    lr: Annotated[str | None, name_of("Highest learning rate. [0.02]", "X")] = None,
    resolution: Annotated[int | None, number("Short side of the pictures. [320]")] = None,
    strides: Annotated[str | None, name_of("Maps to look at. [4,8,16,32]", "N,N,...")] = None,
    fpn_width: Annotated[int | None, number("Channels of the feature pyramid. [256]")] = None,
    seed: Annotated[int | None, number("Seed of weights, batches and samples. [0]")] = None,
    device: Annotated[str | None, name_of("cpu, cuda, cuda:1, ... [cpu]")] = None,
    threads: Annotated[int | None, number("Processor threads. [1]")] = None,
    init: Annotated[
        str | None,
        name_of("The backbone's weights: .safetensors, .npz, .pth, or 'torchvision'.", "FILE"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="[runs/NETWORK-DATA-detector]", metavar="FOLDER"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another detector in the folder.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Train a network as the backbone of an object detector, or score one that is trained."""
    from nasattn.cli.detect import detect_command

    recipe: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    changes: dict[str, Any] = {
        "recipe": {k: v for k, v in recipe.items() if v is not None} or None,
        "resolution": resolution,
        "strides": strides,
        "fpn_width": fpn_width,
        "seed": seed,
        "init": init,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    machine = {k: v for k, v in {"device": device, "threads": threads}.items() if v is not None}
    status = detect_command(
        network,
        weights,
        data,
        changes,
        machine,
        out=out,
        overwrite=overwrite,
        cache_dir=cache_dir(),
    )
    raise typer.Exit(status)


@app.command()
def latency(
    networks: Annotated[
        list[str] | None, typer.Argument(help="Networks by name, or JSON files.")
    ] = None,
    runtime: Annotated[
        list[str] | None,
        name_of(
            "torch, onnxruntime, openvino, ...; with :threads=2,batch=4; repeatable. [torch]",
            "RUNTIME",
        ),
    ] = None,
    threads: Annotated[int, number("Processor threads.")] = 1,
    batch: Annotated[int, number("Pictures at once.")] = 1,
    device: Annotated[str, name_of("cpu, or for torch cuda, cuda:1, ...")] = "cpu",
    target: Annotated[str, name_of("Another machine: ssh://[USER@]HOST[:PORT].", "ADDRESS")] = "",
    resolution: Annotated[
        int | None, number("Side of the pictures, in pixels. [as published]")
    ] = None,
    classes: Annotated[int | None, number("Number of classes. [as published]")] = None,
    space: Annotated[str | None, name_of("Random networks of this space, too.")] = None,
    samples: Annotated[int, number("How many of them.")] = 50,
    seed: Annotated[int, number("Seed of which.")] = 0,
    reference: Annotated[str, name_of("What all are compared with.")] = "mobilenet_v2",
    data: Annotated[str, name_of("Real pictures for the parity check.")] = "digits",
    precision: Annotated[str, name_of("Measure to so many per cent; 0: 240 rounds.", "X")] = "2",
    memory: Annotated[bool, typer.Option(help="Also peak memory and energy.")] = True,
    self_check: Annotated[
        bool, typer.Option("--self-check", help="Measure 20 networks twice: do figures repeat?")
    ] = False,
    fit: Annotated[
        Path | None, name_of("Learn to foretell other networks; write it there.", "FILE")
    ] = None,
    predict: Annotated[
        Path | None, name_of("Foretell the networks from such a file.", "FILE")
    ] = None,
    json: Annotated[Path | None, name_of("Write all figures as JSON.", "FILE")] = None,
    plugin: Plugins = None,
) -> None:
    """Measure networks on the runtime where they will live."""
    from nasattn.cli.latency import Wanted, effort_of, latency_command, predict_command
    from nasattn.cli.self_check import self_check_command
    from nasattn.runtimes.spec import parse_runtime

    if sum((self_check, fit is not None, predict is not None)) > 1:
        raise typer.BadParameter("--self-check, --fit and --predict: only one of them at a time")
    wanted = Wanted(networks or [], space, samples, seed, resolution, classes, reference, data)
    if predict is not None:
        raise typer.Exit(predict_command(wanted, predict, json))
    defaults = {"threads": threads, "batch": batch, "device": device, "target": target}
    specs = [parse_runtime(text, **defaults) for text in runtime or ["torch"]]
    effort = effort_of(precision)
    if self_check:
        raise typer.Exit(self_check_command(wanted, specs, effort, json, cache_dir()))
    status = latency_command(
        wanted, specs, effort, memory=memory, fit=fit, json_file=json, cache_dir=cache_dir()
    )
    raise typer.Exit(status)


@app.command()
def export(
    target: Annotated[
        str, typer.Argument(help="A weights file, or a network by name (with --init).")
    ],
    to: Annotated[
        str,
        name_of("onnx, openvino, tflite, ncnn, mnn, executorch, torchscript.", "FORMAT,..."),
    ] = "onnx",
    precision: Annotated[
        str, name_of("float32, float16, int8; each where a format has it.", "PRECISION,...")
    ] = "float32",
    data: Annotated[
        str | None, name_of("Pictures to check and calibrate with. [those of the training]")
    ] = None,
    resolution: Annotated[int | None, number("Side of the pictures, in pixels.")] = None,
    pictures: Annotated[int, number("Validation pictures to check with, at most.")] = 200,
    init: Annotated[
        str | None, name_of("Weights of a named network: .npz, .pth, 'torchvision'.", "FILE")
    ] = None,
    mean: Annotated[str | None, name_of("Normalisation, as 0.485,0.456,0.406.", "R,G,B")] = None,
    std: Annotated[str | None, name_of("Normalisation, as 0.229,0.224,0.225.", "R,G,B")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="[runs/NETWORK-export]", metavar="FOLDER")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the files of other weights of this name.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Write a trained network for other runtimes, each file checked; exit 1 where one is bad."""
    from nasattn.cli.export import Wanted, export_command

    wanted = Wanted(
        to, precision, init, data, resolution, mean, std, pictures, out, overwrite=overwrite
    )
    raise typer.Exit(export_command(target, wanted, cache_dir=cache_dir()))


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="An exported file, or a weights file.")],
    pictures: Annotated[
        list[str], typer.Argument(help="Pictures and folders of them.", metavar="PICTURE...")
    ],
    top: Annotated[int, number("How many classes a picture.")] = 5,
    threads: Annotated[int, number("Processor threads.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print the answers as JSON.")] = False,
    plugin: Plugins = None,
) -> None:
    """Classify pictures with an exported network, or with a weights file."""
    from nasattn.cli.predict import predict_command

    predict_command(model, pictures, top=top, as_json=json, threads=threads)


@app.command()
def setup(
    name: Annotated[str, typer.Argument(help="tflite: TensorFlow Lite's converter.")],
) -> None:
    """Make the environment of a converter that cannot live beside nasattn."""
    from nasattn.cli.setup import setup_command

    setup_command(name)


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


@app.command()
def spaces(
    json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """List the search spaces."""
    from nasattn.cli.spaces import spaces_command

    spaces_command(as_json=json)


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


plugin_app = typer.Typer(help="Attention modules of your own: list them, test one.")
app.add_typer(plugin_app, name="plugin")


@plugin_app.callback(invoke_without_command=True)
def plugin_root(context: typer.Context) -> None:
    root(context)


@plugin_app.command("list")
def plugin_list(
    plugin: Plugins = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """List the kinds of attention and their options."""
    from nasattn.cli.plugin import list_command

    list_command(as_json=json)


@plugin_app.command("test")
def plugin_test(
    target: Annotated[
        str, typer.Argument(help="FILE.py:CLASS, PACKAGE.MODULE:CLASS, or a kind by its name.")
    ],
) -> None:
    """Check that a module fits into any network; exit 1 if not."""
    from nasattn.cli.plugin import test_command

    raise typer.Exit(test_command(target))


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
    line = printable(" ".join(message.split()))
    console = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
    console.print(f"[bold red]nasattn:[/] {escape(line)}")
    sys.exit(2)
