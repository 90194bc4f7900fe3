"""Which runtime takes which network: conversion and parity for every kind of attention.

    python -m benchmarks.runtimes [RUNTIME ...] > docs/results/runtimes.md

Every runtime that is installed here converts LAM, MobileNetV2, a ResNet-18 with each kind of
attention, and a ResNeSkt-50 for random weights, and must answer 16 pictures of the digits as eager
torch does. A cell is the largest difference of two logits as a share of the largest logit; what a
runtime cannot take is below the table with its error.
"""

import argparse
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nasattn.attention.table import ATTENTIONS
from nasattn.baselines import get_baseline
from nasattn.cost.bench import Bench
from nasattn.data.augment import Normalise, to_float
from nasattn.data.load import load_data
from nasattn.errors import EvaluationError, NasattnError
from nasattn.model import build_model
from nasattn.paths import replace_paths
from nasattn.runtimes.protocol import Effort
from nasattn.runtimes.spec import parse_runtime
from nasattn.runtimes.table import RUNTIMES, installed

CLASSES, RESOLUTION, DEEP_RESOLUTION = 10, 32, 64
SHORT = Effort(precision=0, rounds=3, least=1, most=1)


def networks() -> dict[str, tuple[nn.Module, int]]:
    """Name -> network with the same random weights each time, and its resolution."""
    found = {}
    for name in ("lam", "mobilenet_v2", "resnet18"):
        found[name] = get_baseline(name).architecture, RESOLUTION
    for kind in ATTENTIONS:
        paths = {f"stages.{i}.attention.kind": kind for i in range(4)}
        found[f"resnet18 {kind}"] = replace_paths(found["resnet18"][0], paths), RESOLUTION
    found["resneskt50"] = get_baseline("resneskt50").architecture, DEEP_RESOLUTION
    built = {}
    for name, (arch, resolution) in found.items():
        torch.manual_seed(0)
        built[name] = build_model(arch.at_resolution(resolution), CLASSES), resolution
    return built


def pictures() -> Tensor:
    """Sixteen of the digits, normalised: (16, 3, 8, 8)."""
    with tempfile.TemporaryDirectory() as folder:
        data = load_data("digits", cache_dir=Path(folder))
    images = torch.from_numpy(data.train.images)
    return Normalise.of(images)(to_float(torch.from_numpy(data.val_search.images[:16])))


def main() -> None:
    """Print the table, as Markdown."""
    parser = argparse.ArgumentParser(description="Which runtime takes which network.")
    parser.add_argument("runtimes", nargs="*", help="[all installed]")
    names = parser.parse_args().runtimes or installed()
    torch.set_num_threads(1)
    found, x = networks(), pictures()
    cells: dict[str, dict[str, str]] = {name: {} for name in found}
    errors, seconds = [], {}
    for runtime in names:
        start = time.perf_counter()
        for resolution in (RESOLUTION, DEEP_RESOLUTION):
            models = {name: model for name, (model, size) in found.items() if size == resolution}
            reference = next(iter(models.values()))
            shown = interpolate(x, (resolution, resolution), mode="bilinear")
            bench = Bench(parse_runtime(runtime), reference, shown, effort=SHORT)
            try:
                for one in bench.measure_all(models):
                    cells[one.name][runtime] = f"{one.parity.max_diff:.0e}" if one.parity else "no"
                    if one.reason:
                        errors.append(f"- {runtime}, {one.name}: {one.reason}")
            except (EvaluationError, NasattnError) as e:
                errors.append(f"- {runtime}: {e}")
            finally:
                bench.close()
        seconds[runtime] = (time.perf_counter() - start) / len(found)
    print("| network |", " | ".join(names), "|")
    print("| --- |", " | ".join("---" for _ in names), "|")
    for name, row in cells.items():
        print(f"| {name} |", " | ".join(row.get(runtime, "no") for runtime in names), "|")
    print("| s a network |", " | ".join(f"{seconds[runtime]:.1f}" for runtime in names), "|")
    print("\nWhat a runtime cannot take:\n")
    print("\n".join(errors) or "- nothing")
    packages = {p: version(p) for name in names for p in RUNTIMES[name].runs.values()}
    print(
        f"\npython {platform.python_version()}, "
        + ", ".join(f"{package} {number}" for package, number in packages.items())
    )


if __name__ == "__main__":
    main()
