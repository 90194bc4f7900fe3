"""Options of the commands that bring a network to where it will live."""

from pathlib import Path
from typing import Annotated

import typer

from nasattn.cli.options import (
    Plugins,
    cache_dir,
    name_of,
    number,
)

app = typer.Typer()


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
