"""Options of the commands that train one network, look into it, or change it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nasattn.cli.options import (
    DEFAULT_STORAGE,
    DistilWeight,
    Plugins,
    Storage,
    TeacherFeatures,
    TeacherMean,
    Teachers,
    TeacherStd,
    Temperature,
    TuneEngine,
    amount,
    cache_dir,
    decimal,
    name_of,
    number,
)

app = typer.Typer()


@app.command()
def train(
    network: Annotated[str, typer.Argument(help="A network by name, or a JSON file.")],
    data: Annotated[
        str | None,
        name_of("digits, cifar10, cifar100, a folder of class folders, or an .npz. [digits]"),
    ] = None,
    recipe: Annotated[str | None, name_of("Training recipe. [digits: quick, else steady]")] = None,
    epochs: Annotated[int | None, number("Epochs. [by the recipe]")] = None,
    resolution: Annotated[int | None, number("Side of the pictures, in pixels.")] = None,
    train_size: Annotated[
        int | None, number("Train on so many pictures only, of every class alike.")
    ] = None,
    seed: Annotated[int | None, number("Seed of weights and batches. [0]")] = None,
    device: Annotated[str | None, name_of("cpu, cuda, cuda:1, ... [cpu]")] = None,
    threads: Annotated[int | None, number("Processor threads to train with. [1]")] = None,
    tune_engine: TuneEngine = False,
    init: Annotated[
        str | None,
        name_of("Weights to begin with: .safetensors, .npz, .pth, or 'torchvision'.", "FILE"),
    ] = None,
    teacher: Teachers = None,
    temperature: Temperature = None,
    distil_weight: DistilWeight = None,
    teacher_features: TeacherFeatures = None,
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
        decimal("--teacher-features", teacher_features),
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
        tune=tune_engine,
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
    teacher_features: TeacherFeatures = None,
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
        decimal("--teacher-features", teacher_features),
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
    pruner: Annotated[
        str, name_of("torch-pruning; nni-l1, nni-fpgm or nni-taylor, of NNI 3.0.")
    ] = "torch-pruning",
    importance: Annotated[
        str | None, name_of("Of torch-pruning: l2, l1, taylor, fpgm or random. [l2]")
    ] = None,
    multiple: Annotated[
        int | None, number("Channels that stay are a multiple of it, for speed. [4]")
    ] = None,
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
    from nasattn.cli.prune import prune_command
    from nasattn.cli.sensitivity import sensitivity_command

    training = {"name": recipe or "finetune", "epochs": epochs, "train_size": train_size}
    changes: dict[str, Any] = {
        "recipe": {k: v for k, v in training.items() if v is not None},
        "ratio": decimal("--ratio", ratio),
        "target_macs": amount("--target-macs", target_macs),
        "target_params": amount("--target-params", target_params),
        "pruner": pruner,
        "importance": importance,
        "multiple": multiple,
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
