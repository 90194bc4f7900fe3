"""Which network survives which export: parity of random-weight networks on real pictures.

    python -m benchmarks.export --pictures FOLDER --results FILE.json [--networks A,B] [--to X,Y]
    python -m benchmarks.export --results FILE.json --show > table.md

Each network is built as published, its batch norms are set by 32 of the pictures, and each format
is written in float32, loaded by its runtime in a process of its own, and shown 50 others. What is
in FILE.json already is not done again: a run that was stopped goes on. With `--show` only its
tables are printed, as Markdown.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nasattn.cost.parity import settled
from nasattn.data.augment import Normalise, to_float
from nasattn.data.decode import decode_file
from nasattn.data.listing import ENDINGS
from nasattn.deploy.card import Card, weights_id
from nasattn.deploy.fidelity import compare_answers
from nasattn.deploy.formats import get_format
from nasattn.deploy.job import Job
from nasattn.deploy.session import ExportedSession
from nasattn.errors import EvaluationError
from nasattn.files import write_text
from nasattn.zoo import ZOO, NamedNetwork

TO = ("onnx", "openvino", "ncnn", "mnn", "tflite")
LIGHT_MACS = 2e9  # of the networks that are taken when none are named
NORMALISE = Normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
N_SETTLE, N = 32, 50


def light() -> list[str]:
    """The networks for pictures of 224 pixels that are light, the lightest first, and two more."""
    macs = {
        name: network.count(network.pictures).macs
        for name, network in ZOO.items()
        if network.pictures.resolution == 224
    }
    names = sorted((n for n, count in macs.items() if count <= LIGHT_MACS), key=lambda n: macs[n])
    return [*names, "resnet50", "resneskt50"]


def pictures(folder: Path, resolution: int, n: int = N_SETTLE + N) -> Tensor:
    """The first pictures of a folder by name, as networks see them."""
    files = sorted(p for p in folder.iterdir() if p.name.endswith(ENDINGS))[:n]
    images = [torch.from_numpy(decode_file(file, resolution).copy()) for file in files]
    return NORMALISE(to_float(torch.stack(images)))


def measure(network: NamedNetwork, to: list[str], folder: Path) -> dict[str, Any]:
    """A row for each format."""
    size = network.pictures
    x = pictures(folder, size.resolution)
    torch.manual_seed(0)
    model = settled(network.build(size.num_classes, size.resolution), x[:N_SETTLE])
    x = x[N_SETTLE:].contiguous()
    with torch.inference_mode():
        expected = torch.cat([model(one) for one in torch.split(x, 1)])
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
    job = Job(model, x[:1], x[:0], card)
    rows: dict[str, Any] = {}
    for name in to:
        form, start = get_format(name), time.perf_counter()
        try:
            files = form.write(job, "float32")
            with ExportedSession(form.runtime, files, card.shape) as session:
                found = session.logits(x, size.num_classes)
                version = session.version
        except EvaluationError as e:
            rows[name] = {"reason": str(e)}
        else:
            one = compare_answers(expected, found, torch.zeros(len(x)))
            rows[name] = {
                "max_diff": one.max_diff,
                "agree": one.agree.right,
                "n": one.agree.n,
                "reason": one.fault("float32"),
                "size_bytes": sum(map(len, files.values())),
                "version": version,
            }
        rows[name]["seconds"] = time.perf_counter() - start
        print(network.name, name, rows[name], flush=True)
    return rows


def show(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Tables of what is known, as Markdown."""
    print("| network |", " | ".join(TO), "|")
    print("| --- |", " | ".join("---" for _ in TO), "|")
    for network, rows in results.items():
        cells = [cell(rows.get(name)) for name in TO]
        print(f"| {network} |", " | ".join(cells), "|")
    print("\nWhat is not good:\n")
    faults = [
        f"- {network}, {name}: {row['reason']}"
        for network, rows in results.items()
        for name, row in rows.items()
        if row["reason"]
    ]
    print("\n".join(faults) or "- nothing")
    done = [row for rows in results.values() for row in rows.values() if "n" in row]
    n, agree = sum(row["n"] for row in done), sum(row["agree"] for row in done)
    print(f"\n{len(done)} exports that run, {agree} of {n} answers with the same highest logit")
    print(", ".join(sorted({row["version"] for row in done})))


def cell(row: Mapping[str, Any] | None) -> str:
    """The largest difference, and how many pictures agree where not all do."""
    if row is None:
        return "-"
    if "n" not in row:
        return "no"
    missed = "" if row["agree"] == row["n"] else f" ({row['agree']}/{row['n']})"
    return f"{row['max_diff']:.0e}{missed}"


def main() -> None:
    """Measure what is missing, or show what is there."""
    parser = argparse.ArgumentParser(description="Which network survives which export.")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--networks", help="[the light ones]")
    parser.add_argument("--to", default=",".join(TO))
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known: dict[str, Any] = {}
    if options.results.is_file():
        known = json.loads(options.results.read_text(encoding="utf-8"))
    if options.show:
        show(known)
        return
    for name in options.networks.split(",") if options.networks else light():
        missing = [to for to in options.to.split(",") if to not in known.get(name, {})]
        if missing:
            rows = measure(ZOO[name], missing, options.pictures)
            known[name] = known.get(name, {}) | rows
            write_text(options.results, json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
