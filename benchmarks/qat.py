"""Does training for int8 help int8? The same fine-tuning with and without it, by paired seeds.

    python -m benchmarks.qat CIFAR_FOLDER RESNET20.npz [OUT]

From the same weights, pictures and order six seeds are fine-tuned by the recipe `qat`, and by it
without rounding. All are exported as int8 for ONNX Runtime, as `nasattn export` does it, beside the
weights that they started from. Typed again, it goes on where it stopped. The test pictures are
looked at once, when all are trained.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nasattn.ablation.statistics import compare_pairs, student_interval
from nasattn.data import ImageData, load_data, open_test
from nasattn.data.augment import Normalise, to_float
from nasattn.deploy.card import Card, weights_id
from nasattn.deploy.formats import get_format
from nasattn.deploy.job import Job
from nasattn.deploy.session import ExportedSession
from nasattn.fit import load_into
from nasattn.pretrained import read_pretrained
from nasattn.search.environment import environment
from nasattn.train.checkpoint import Checkpoint
from nasattn.train.loop import subset, to_tensors, train_model
from nasattn.train.recipe import RECIPES, Recipe
from nasattn.zoo import get_network

NETWORK, NORMALISE = "resnet20_cifar", Normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SEEDS, N_CALIBRATION = range(6), 128
START, ARMS = "start", {"floats": "none", "qat": "int8"}
N_WATCHED = 100  # of the val-search pictures: looked at after each epoch, used by nobody


def recipe_of(arm: str) -> Recipe:
    changes = {"epochs": 2, "train_size": 2000, "quantise": ARMS[arm]}
    return RECIPES["qat"].model_copy(update=changes)


@dataclass(frozen=True)
class Bench:
    """What all trainings share."""

    weights: str
    data: ImageData
    out: Path

    def start(self) -> nn.Module:
        """The network with the weights that every seed starts from."""
        network = get_network(NETWORK)
        model = network.build(len(self.data.classes), self.data.resolution)
        tensors = read_pretrained(self.weights, network, self.out).tensors
        load_into(model, tensors, self.weights)
        return model.eval()

    def train(self, arm: str, seed: int) -> nn.Module:
        """One network, trained unless its file is there."""
        model = self.start()
        path = self.out / f"{arm}-{seed}.pth"
        if path.exists():
            model.load_state_dict(torch.load(path, weights_only=True))
            return model
        recipe = recipe_of(arm)
        run = {"arm": arm, "seed": seed, "recipe": recipe.model_dump(mode="json")}
        checkpoint = Checkpoint(self.out / f"{arm}-{seed}-checkpoint.pt", run)
        torch.manual_seed(seed)
        curve = train_model(
            model,
            self.data,
            recipe,
            seed=seed,
            checkpoint=checkpoint,
            normalise=NORMALISE,
        )
        torch.save(model.state_dict(), path)
        checkpoint.path.unlink()
        seconds = sum(epoch.seconds for epoch in curve)
        print(f"{arm} {seed}: loss {curve[-1].loss:.3f}, {seconds:.0f} s", flush=True)
        return model.eval()

    def measure(self, model: nn.Module, x: Tensor, labels: Tensor) -> dict[str, float]:
        """Top-1, cross-entropy and noise of a network's int8 file, top-1 of its floats."""
        images, _ = to_tensors(subset(self.data.train, N_CALIBRATION), "cpu")
        calibration = NORMALISE(to_float(images)).contiguous()
        card = Card(
            name=NETWORK,
            arch=None,
            classes=self.data.classes,
            resolution=self.data.resolution,
            mean=NORMALISE.mean,
            std=NORMALISE.std,
            weights=weights_id(model),
            versions={"torch": torch.__version__},
        )
        form = get_format("onnx")
        files = form.write(Job(model, calibration[:1], calibration, card), "int8")
        with ExportedSession(form.runtime, files, card.shape) as session:
            rounded = session.logits(x, len(self.data.classes))
        with torch.inference_mode():
            floats = torch.cat([model(batch) for batch in torch.split(x, 250)])
        noise = (rounded - floats).square().mean() / floats.square().mean()
        return {
            "int8": (rounded.argmax(1) == labels).float().mean().item(),
            "floats": (floats.argmax(1) == labels).float().mean().item(),
            "int8_loss": cross_entropy(rounded, labels).item(),
            "floats_loss": cross_entropy(floats, labels).item(),
            "snr_db": -10 * noise.log10().item(),
        }


def paired(runs: Mapping[str, Mapping[int, dict[str, float]]], figure: str) -> dict[str, Any]:
    """The mean difference of a figure, `qat` less `floats`, with Student's 95 % interval."""
    d = np.array([runs["qat"][seed][figure] - runs["floats"][seed][figure] for seed in SEEDS])
    return {"effect": float(d.mean()), "interval": student_interval(d, 0.05)}


def main() -> None:
    """Train all, measure all, compare."""
    folder, weights = sys.argv[1:3]
    out = Path(sys.argv[3] if len(sys.argv) > 3 else "runs/qat-benchmark")
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    data = load_data(folder, cache_dir=out / "cache")
    data = replace(data, val_search=subset(data.val_search, N_WATCHED))
    bench = Bench(weights, data, out)
    models = {(arm, seed): bench.train(arm, seed) for seed in SEEDS for arm in ARMS}
    models[(START, 0)] = bench.start()
    test = open_test(folder, command="benchmarks.qat", cache_dir=out / "cache")
    images, labels = to_tensors(test, "cpu")
    x = NORMALISE(to_float(images)).contiguous()
    runs: dict[str, dict[int, dict[str, float]]] = {arm: {} for arm in (START, *ARMS)}
    for (arm, seed), model in models.items():
        runs[arm][seed] = bench.measure(model, x, labels)
        print(arm, seed, runs[arm][seed], flush=True)
    top1 = {arm: {seed: row["int8"] for seed, row in runs[arm].items()} for arm in ARMS}
    facts = {
        "n_test": len(test),
        "recipes": {arm: recipe_of(arm).model_dump(mode="json") for arm in ARMS},
        "runs": runs,
        "comparison": vars(compare_pairs(top1, [("qat", "floats")])[0]),
        "others": {figure: paired(runs, figure) for figure in ("floats", "int8_loss", "snr_db")},
        "environment": environment(),
    }
    (out / "qat.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: facts[key] for key in ("comparison", "others")}, indent=2))


if __name__ == "__main__":
    main()
