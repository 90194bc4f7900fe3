"""What int8 costs and gains: trained ResNets in ONNX Runtime on pictures that were held out.

    python -m benchmarks.export_int8 --data CIFAR10_FOLDER --weights FOLDER

The folder of weights holds resnet20_cifar10.npz and so on. Ranges are set by pictures of the train
split; the test split is asked, in float32 and in int8. Then both take turns in one process.
"""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from math import sqrt
from pathlib import Path
from typing import Any

import torch

from nasattn.cost.bench import numbers
from nasattn.cost.latency import figures_of
from nasattn.data import load_data, open_test
from nasattn.data.augment import Normalise, to_float
from nasattn.deploy.card import Card, weights_id
from nasattn.deploy.formats import get_format
from nasattn.deploy.job import Job
from nasattn.deploy.session import NAME, ExportedSession
from nasattn.fit import load_into
from nasattn.pretrained import read_pretrained
from nasattn.runtimes.protocol import FULL_EFFORT, Timing
from nasattn.runtimes.table import get_runtime
from nasattn.train.loop import subset, to_tensors
from nasattn.zoo import get_network

NORMALISE = Normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
N_CALIBRATION, RESOLUTION, Z = 256, 32, 1.96


def main() -> None:
    """A row a network, as Markdown."""
    parser = argparse.ArgumentParser(description="What int8 costs and gains.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        data = load_data(options.data, RESOLUTION, cache_dir=cache)
        test = open_test(
            options.data, RESOLUTION, command="benchmarks.export_int8", cache_dir=cache
        )
        images, _ = to_tensors(subset(data.train, N_CALIBRATION), "cpu")
        calibration = NORMALISE(to_float(images)).contiguous()
        images, labels = to_tensors(test, "cpu")
        pictures = NORMALISE(to_float(images)).contiguous()
        print("| network | eager | float32 | int8 | loss, points | size | speed |")
        print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
        for depth in (20, 32, 56):
            network = get_network(f"resnet{depth}_cifar")
            model = network.build(len(data.classes), RESOLUTION).eval()
            source = str(options.weights / f"resnet{depth}_cifar10.npz")
            load_into(model, read_pretrained(source, network, cache).tensors, source)
            print(row(network.name, model, data.classes, calibration, pictures, labels), flush=True)


def row(
    name: str,
    model: torch.nn.Module,
    classes: tuple[str, ...],
    calibration: torch.Tensor,
    pictures: torch.Tensor,
    labels: torch.Tensor,
) -> str:
    """Accuracy in three forms, the paired loss of int8 with its interval, sizes and speed."""
    card = Card(
        name=name,
        network_id=name,
        arch=None,
        classes=classes,
        resolution=RESOLUTION,
        mean=NORMALISE.mean,
        std=NORMALISE.std,
        weights=weights_id(model),
        versions={"torch": torch.__version__},
    )
    job = Job(model, calibration[:1], calibration, card)
    form = get_format("onnx")
    files = {precision: form.write(job, precision) for precision in ("float32", "int8")}
    with torch.inference_mode():
        found = {"eager": torch.cat([model(x) for x in torch.split(pictures, 250)])}
    for precision in files:
        with ExportedSession(form.runtime, files[precision], card.shape) as session:
            found[precision] = session.logits(pictures, len(classes))
    right = {kind: logits.argmax(1) == labels for kind, logits in found.items()}
    n = len(labels)
    lost = int((right["eager"] & ~right["int8"]).sum())
    won = int((~right["eager"] & right["int8"]).sum())
    loss, half = (lost - won) / n, Z * sqrt(lost + won - (lost - won) ** 2 / n) / n
    sizes = {precision: sum(map(len, kept.values())) for precision, kept in files.items()}
    figures = in_turns(form.runtime, files["float32"], files["int8"], card.shape, pictures[:1])
    cells = [
        name,
        *(f"{100 * right[kind].float().mean():.1f}" for kind in ("eager", "float32", "int8")),
        f"{100 * loss:+.2f} ± {100 * half:.2f} (lost {lost}, won {won})",
        f"{sizes['float32']:,} / {sizes['int8']:,} = {sizes['float32'] / sizes['int8']:.2f}",
        times_faster(figures),
    ]
    return f"| {' | '.join(cells)} |"


def in_turns(
    runtime: str,
    plain: Mapping[str, bytes],
    other: Mapping[str, bytes],
    shape: list[int],
    x: torch.Tensor,
) -> dict[str, Any]:
    """What a Latency says of the other one, whose reference the plain one is."""
    with ExportedSession(runtime, plain, shape) as session:
        runner = session.runner
        runner.tell(
            "load",
            [*other.values(), numbers(x)],
            name="other",
            file=get_runtime(runtime).file,
            sizes={name: len(data) for name, data in other.items()},
            shape=shape,
            threads=1,
            device="cpu",
        )
        answers = runner.ask(
            "time",
            names=["other"],
            reference=NAME,
            effort=asdict(FULL_EFFORT),
            seed=0,
            reloads=True,
        )
        (found,) = [answer for answer in answers if "name" in answer]
    return figures_of(Timing(found["own"], found["reference"]))


def times_faster(figures: Mapping[str, Any]) -> str:
    """How many times faster it is than its reference, with the ends of the interval."""
    low, high = figures["interval"]
    return f"{1 / figures['relative']:.2f} ({1 / high:.2f} to {1 / low:.2f})"


if __name__ == "__main__":
    main()
