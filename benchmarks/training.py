"""Does our loop learn what the plain one learns? Accuracy after the same epochs, seed by seed.

    python -m benchmarks.training CIFAR10.npz [NETWORK ...] [--seeds 6]

Both loops train the same initial weights by the recipe `quick` on the same pictures, in orders and
with augmentations of their own; paired differences over the seeds, with Student's t interval.
Speeds are measured by `nasattn bench training`.
"""

import argparse
import statistics
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nasattn.ablation.statistics import student_interval
from nasattn.data.load import load_data
from nasattn.train.bench import LOOPS, share_of
from nasattn.train.recipe import RECIPES
from nasattn.zoo import read_network

NETWORKS = ("resnet20_cifar", "lam")
N_PICTURES, EPOCHS, SEEDS = 1000, 3, 6
ALPHA = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of them, from 0 on")
    parser.add_argument("--cache-dir", type=Path, default=Path("runs/cache"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    whole = load_data(str(options.data), 32, cache_dir=options.cache_dir)
    judged = share_of(whole, 8 * N_PICTURES).val_search
    data = replace(share_of(whole, N_PICTURES), val_search=judged)
    recipe = RECIPES["quick"].model_copy(update={"epochs": EPOCHS})
    print(f"{N_PICTURES} pictures of 32x32, {EPOCHS} epochs, {len(judged)} for validation")
    for name in options.networks:
        found: dict[str, list[float]] = {loop: [] for loop in LOOPS}
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            model = read_network(name).build(len(data.classes), data.resolution)
            for loop, train in LOOPS.items():
                last = train(deepcopy(model), data, recipe, seed=seed)[-1]
                found[loop].append(100 * last.top1)
                print(f"{name} seed {seed} {loop}: {100 * last.top1:.2f} %", flush=True)
        differences = np.array(found["ours"]) - np.array(found["plain"])
        low, high = student_interval(differences, ALPHA)
        means = ", ".join(f"{loop} {statistics.fmean(found[loop]):.2f} %" for loop in LOOPS)
        print(
            f"{name}: {means}; ours less plain {differences.mean():+.2f} [{low:+.2f}, {high:+.2f}]"
        )


if __name__ == "__main__":
    main()
