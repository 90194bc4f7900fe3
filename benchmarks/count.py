"""Networks counted a second, exactly: many at once, one by one by pieces, and whole modules.

    python benchmarks/count.py [--space mobile ...] [--networks 100000] [--resolution 32]
    python benchmarks/count.py --check 2000     # compares that many counts with the modules' own

Every network is a new random one. Cold: the first of them, with all that has to be found. Warm:
another such lot, what pieces they are made of being known. Seconds of one core (process time).
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import numpy as np
import torch

from nasattn.arch import Architecture
from nasattn.cost import PieceCounter, RowCounter, count_cost
from nasattn.distributions import draw
from nasattn.errors import ArchitectureError
from nasattn.library import shipped
from nasattn.model import build_model
from nasattn.space import SearchSpace, load_space
from nasattn.walk import Rows, as_rows

NUM_CLASSES = 10
N_BY_PIECES, N_WHOLE = 2000, 30


def random_rows(space: SearchSpace, rng: np.random.Generator, n: int) -> Rows:
    """Values for all parameters, each drawn uniformly of those that it offers."""
    rows = np.empty((n, len(space.free)))
    for j, parameter in enumerate(space.free):
        offered = as_rows(space, [{parameter.name: v} for v in parameter.distribution.values()])
        rows[:, j] = rng.choice(offered[:, j], size=n)
    return rows


def seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def speeds(space: SearchSpace, n: int, resolution: int) -> str:
    """A line of networks a second."""
    rng = np.random.default_rng(0)
    counter = RowCounter(space, NUM_CLASSES, resolution)
    found = []
    for _ in range(4):  # the first lot is cold, the others are warm
        rows = random_rows(space, rng, n)
        found.append(n / seconds(partial(counter.count, rows)))
    cold, *warm = found

    draws = Random(0)
    archs = [space.decode(space.sample(draws)) for _ in range(N_BY_PIECES)]
    archs = [arch.at_resolution(resolution) for arch in archs]
    pieces = PieceCounter(NUM_CLASSES, resolution)
    by_pieces = N_BY_PIECES / seconds(lambda: [pieces.count(arch) for arch in archs])
    whole = N_WHOLE / seconds(lambda: [whole_cost(arch, resolution) for arch in archs[:N_WHOLE]])
    return (
        f"| {space.name} | {cold:,.0f} | {min(warm):,.0f} to {max(warm):,.0f} | {by_pieces:,.0f} "
        f"| {whole:,.1f} |"
    )


def whole_cost(arch: Architecture, resolution: int) -> tuple[int, int, int]:
    with torch.device("meta"):
        model = build_model(arch, NUM_CLASSES)
    cost = count_cost(model, resolution)
    return cost.params, cost.macs, cost.max_macs


def check(space: SearchSpace, n: int, resolution: int) -> str:
    """Compares n counts with those of the built modules; says how many differ."""
    rng = Random(1)
    many: list[tuple[dict[str, Any], Architecture]] = []
    while len(many) < n:
        params = {p.name: draw(p.distribution, rng) for p in space.free}
        try:
            many.append((params, space.decode(params).at_resolution(resolution)))
        except ArchitectureError:
            continue
    costs = RowCounter(space, NUM_CLASSES, resolution).count(as_rows(space, [p for p, _ in many]))
    columns = np.stack([costs.params, costs.macs, costs.max_macs], axis=1).tolist()
    differ = sum(
        tuple(row) != whole_cost(arch, resolution)
        for row, (_, arch) in zip(columns, many, strict=True)
    )
    return f"{space.name}: {differ} of {n} counts differ from the module's"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--space", nargs="*", default=list(shipped("search_spaces")))
    parser.add_argument("--networks", type=int, default=100_000)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--check", type=int, help="networks to compare, instead of timing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{versions}, numpy {np.__version__}; load {os.getloadavg()[0]:.1f} at the start")
    if args.check is None:
        print(
            "| space | cold | warm | by pieces | whole modules |\n| --- | --- | --- | --- | --- |"
        )
    for name in args.space:
        space = load_space(name)
        if args.check is None:
            print(speeds(space, args.networks, args.resolution), flush=True)
        else:
            print(check(space, args.check, args.resolution), flush=True)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
