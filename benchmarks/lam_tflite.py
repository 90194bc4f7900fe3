"""Paper 000's network as TensorFlow Lite in float32 and full int8: bytes, answers, time.

    nasattn train lam --data CIFAR10.npz --train-size 5000 --epochs 6 -o TRAINED
    python -m benchmarks.lam_tflite --pictures FOLDER --weights TRAINED/weights.safetensors

Size and time are those of the network as published, 1000 classes at 224x224, with random weights:
they do not hang on the weights. The pictures set its batch norms and its ranges. Answers are those
of the trained weights on validation pictures of what they were trained on, in ONNX Runtime, too.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.export import N_SETTLE, NORMALISE, pictures
from benchmarks.export_int8 import in_turns, times_faster
from nasattn.cli.export import N_CALIBRATION, card_of, job_of, shown
from nasattn.cost.parity import settled
from nasattn.data import load_data
from nasattn.deploy.card import Card, weights_id
from nasattn.deploy.fidelity import compare_answers
from nasattn.deploy.formats import get_format
from nasattn.deploy.job import Job
from nasattn.deploy.session import ExportedSession
from nasattn.runtimes.facts import machine_facts
from nasattn.tensor_file import read_tensors
from nasattn.train.loop import subset
from nasattn.weights import Facts
from nasattn.zoo import get_network

PRECISIONS = ("float32", "int8")
N = 1000  # validation pictures


def main() -> None:
    """Two tables, as Markdown."""
    parser = argparse.ArgumentParser(description="Paper 000's network as TensorFlow Lite.")
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size_and_time(published(options.pictures))
    with tempfile.TemporaryDirectory() as cache:
        answers(options.weights, Path(cache))


def published(folder: Path) -> Job:
    """The network as published, and pictures to calibrate it."""
    network = get_network("lam")
    size = network.pictures
    x = pictures(folder, size.resolution, N_CALIBRATION)
    torch.manual_seed(0)
    model = settled(network.build(size.num_classes, size.resolution), x[:N_SETTLE])
    card = Card(
        name=network.name,
        network_id=network.name,
        arch=None,
        classes=tuple(f"class {i}" for i in range(size.num_classes)),
        resolution=size.resolution,
        mean=NORMALISE.mean,
        std=NORMALISE.std,
        weights=weights_id(model),
        versions={"torch": torch.__version__},
    )
    return Job(model, x[:1], x, card)


def size_and_time(job: Job) -> None:
    """A row a precision; int8 takes turns with float32."""
    form = get_format("tflite")
    plain, small = (form.write(job, precision) for precision in PRECISIONS)
    print(f"load before: {machine_facts()['load']}")
    figures = in_turns(form.runtime, plain, small, job.card.shape, job.x)
    print(f"load after: {machine_facts()['load']}\n")
    print("| file | bytes | ms, median (p10 to p90) | times faster |")
    print("| --- | --- | --- | --- |")
    print(f"| float32 | {total(plain):,} | {figures['reference_ms']:.2f} | 1 |")
    spread = f"{figures['p10_ms']:.2f} to {figures['p90_ms']:.2f}"
    print(
        f"| int8 | {total(small):,} | {figures['median_ms']:.2f} ({spread}) | "
        f"{times_faster(figures)} |"
    )
    print(f"\nn = {figures['n']} of each, {total(plain) / total(small):.2f} times smaller\n")


def total(files: Mapping[str, bytes]) -> int:
    return sum(map(len, files.values()))


def answers(weights: Path, cache: Path) -> None:
    """A row a file: how near its answers are to eager torch's."""
    file = read_tensors(weights, Facts)
    facts = file.facts
    data = load_data(facts.data, facts.resolution, cache_dir=cache)
    card = card_of(str(weights), file, file.build(), data, facts.normalise)
    job = job_of(file.build(), card, data, facts.normalise)
    x, labels = shown(subset(data.val_select, N), facts.normalise)
    with torch.inference_mode():
        expected = torch.cat([job.model(one) for one in torch.split(x, 1)])
    print(f"{len(x)} val-select pictures of {data.name}, {facts.recipe.epochs} epochs\n")
    print("| file | bytes | same class | top1, eager's | noise, dB | largest difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in ("tflite", "onnx"):
        for precision in PRECISIONS:
            files = get_format(name).write(job, precision)
            with ExportedSession(get_format(name).runtime, files, card.shape) as session:
                found = session.logits(x, len(card.classes))
            cells = (f"{name} {precision}", f"{total(files):,}", *near(expected, found, labels))
            print(f"| {' | '.join(cells)} |", flush=True)


def near(expected: Tensor, found: Tensor, labels: Tensor) -> tuple[str, ...]:
    """Shares of pictures, and the signal's energy over that of the difference."""
    one = compare_answers(expected, found, labels)
    noise = (found - expected).square().sum() / expected.square().sum()
    return (
        f"{one.agree.right} of {one.agree.n}",
        f"{100 * one.top1.value:.1f}, {100 * one.eager_top1.value:.1f}",
        f"{-10 * float(noise.log10()):.1f}",
        f"{one.max_diff:.1e}",
    )


if __name__ == "__main__":
    main()
