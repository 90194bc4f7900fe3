"""What a search's own surrogate knows of networks that were not trained, on a truth set.

    python -m benchmarks.foretelling FOLDER [--space mobile] [--estimator naswot ...] [--draws 100]

FOLDER is of `nasattn bench estimators`. In each draw some networks, at random, have been trained
once; the sampler's surrogate learns from them, as in a search, and foretells all others, of which
the mean over the seeds is the truth. What an estimator says is told to it as one more number a
network. Prints Kendall's tau and, in brackets, partial tau given log macs: means over the draws,
which are all of the same networks.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.equal_cpu_search import Truth, read_truth
from nasattn.estimate.bench import draw_networks
from nasattn.estimate.quality import kendall, partial_tau
from nasattn.search.candidates import Candidates
from nasattn.search.encoding import Space
from nasattn.search.fronts import Floats
from nasattn.search.outlook import standardise
from nasattn.search.surrogate import Inputs, Surrogate
from nasattn.space import load_space

TRAINED = (10, 20, 30, 40)


def read_inputs(truth: Truth, name: str, resolution: int, seed: int) -> tuple[Space, Floats]:
    """The truth's networks as a sampler of their space sees them."""
    try:
        space = load_space(name)
    except ValueError as e:
        raise SystemExit(str(e)) from None
    drawn = draw_networks(space, len(truth.arch_ids), seed, resolution)
    if [one.arch.arch_id for one in drawn] != list(truth.arch_ids):
        raise SystemExit(f"the truth is not of space {name} at {resolution}x{resolution}")
    candidates = Candidates(space, resolution, lambda arch: {})
    seen = Space(candidates.distributions(), {}, candidates.settle)
    return seen, seen.settle(seen.rows([one.params for one in drawn]))


def foretell(
    truth: Truth, space: Space, rows: Floats, told: Sequence[str], n: int, draws: int
) -> tuple[float, float]:
    """Mean tau and partial tau of what n networks, trained once, let expect of the others."""
    said = [[own.get(name, np.nan) for name in told] for own in truth.estimates]
    numbers = np.column_stack([truth.macs, np.array(said).reshape(len(rows), -1)])
    numbers = np.where(np.isnan(numbers), np.nanmean(numbers, axis=0), numbers)  # of failures
    columns, counts = space.similarity_columns(rows), space.count_columns(rows)
    inputs = Inputs(columns, space.owners, counts, standardise(numbers)(numbers))
    top1, taus = truth.curves[:, :, -1], []
    for draw in range(draws):
        learned = np.zeros(len(rows), dtype=bool)
        learned[np.random.default_rng(draw).permutation(len(rows))[:n]] = True
        errors = 1 - top1[draw % len(top1), learned]
        expected = -Surrogate(inputs.take(learned), errors).median(inputs.take(~learned))
        true, macs = top1.mean(axis=0)[~learned], truth.macs[~learned]
        xy, xz, yz = (kendall(*pair) for pair in ((expected, true), (expected, macs), (true, macs)))
        taus.append((xy, partial_tau(xy, xz, yz)))
    tau, partial = np.mean(taus, axis=0)
    return float(tau), float(partial)


def main() -> None:
    """Print a row for what is told."""
    parser = argparse.ArgumentParser(description="What a search's surrogate foretells.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--space", default="mobile")
    parser.add_argument("--resolution", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0, help="of the drawn networks")
    parser.add_argument("--estimator", nargs="*", default=["naswot", "end_loss:50steps"])
    parser.add_argument("--draws", type=int, default=100)
    options = parser.parse_args()
    try:
        truth = read_truth(options.folder, "+".join(["macs", *options.estimator]))
    except ValueError as e:
        raise SystemExit(str(e)) from None
    space, rows = read_inputs(truth, options.space, options.resolution, options.seed)
    if len(rows) < max(TRAINED) + 10:
        least = max(TRAINED) + 10
        raise SystemExit(f"{options.folder}: {len(rows)} networks, at least {least} must be")
    print(f"{len(rows)} networks; tau (partial tau), means of {options.draws} draws")
    print(f"{'trained once, of which it learns':34}" + "".join(f"{n:>15}" for n in TRAINED))
    for told in ([], *([name] for name in options.estimator)):
        found = (foretell(truth, space, rows, told, n, options.draws) for n in TRAINED)
        cells = "".join(f"{f'{tau:.2f} ({partial:.2f})':>15}" for tau, partial in found)
        print(f"{' + '.join(['choices, macs', *told]):34}{cells}", flush=True)


if __name__ == "__main__":
    main()
