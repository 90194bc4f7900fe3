"""Searches of equal processor time on a truth set: what estimates and early stopping are worth.

    python -m benchmarks.equal_cpu_search FOLDER [--seeds 20] [--share 0.1 0.25 0.5]

FOLDER is of `nasattn bench estimators`: trainings.jsonl, estimates.jsonl, truth.csv. A search meets
the truth's networks by one training of each, with that training's curve and processor time; it is
judged by the mean over the seeds: the hypervolume of the networks that it trained to the end, of
(top1, macs), as a share of that of all networks. With --share 0.25 every search has a quarter of
the time that training all networks takes. Prints medians over the searches with 95 % intervals
(order statistics), and the median of the differences from plain random search with the same seed.
"""

import argparse
import csv
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import optuna
from optuna.distributions import IntDistribution
from optuna.trial import TrialState
from scipy.stats import binom

from nasattn.errors import StudyError
from nasattn.estimate.bench import OWN_SEED
from nasattn.estimate.ledger import Ledger, Task
from nasattn.estimate.table import FULL, parts_of
from nasattn.search import CostAwareSampler
from nasattn.search.early_stop import EARLY_STOP, Training, training_of
from nasattn.search.fronts import Floats, hypervolume
from nasattn.search.history import FORETOLD

COUNTED = ("macs", "params")  # estimators that cost nothing
NO_PARAMETER = (*COUNTED, "network", "arch_id")


@dataclass(frozen=True)
class Truth:
    """n networks, each trained with S seeds for E epochs."""

    arch_ids: Sequence[str]
    macs: Floats  # (n,)
    curves: Floats  # (S, n, E): top1
    seconds: Floats  # (S, n, E): processor time of each epoch
    estimates: Sequence[dict[str, float]]  # (n,): by part; none that failed
    asking: Floats  # (n,): processor time of all parts
    features: Floats  # (n, q): the space's choices

    @property
    def n_epochs(self) -> int:
        return int(self.curves.shape[-1])

    def share(self, found: Sequence[int]) -> float:
        """The hypervolume of some networks as a share of that of all, by their mean top1."""
        if not found:
            return 0.0
        points = np.column_stack([-self.curves[:, :, -1].mean(axis=0), self.macs])
        low, high = points.min(axis=0), points.max(axis=0)
        return hypervolume(points[list(found)], low, high) / hypervolume(points, low, high)


def read_truth(folder: Path, estimator: str) -> Truth:
    """A folder's truth; StudyError where a file or an estimate is missing."""
    parts = parts_of(estimator)
    for name in ("truth.csv", "trainings.jsonl", "estimates.jsonl"):
        if not (folder / name).is_file():
            raise StudyError(
                f"{folder / name}: there is no such file; see nasattn bench estimators"
            )
    with (folder / "truth.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    seeds = range(sum(name.startswith("top1_") for name in rows[0]))
    with tempfile.TemporaryDirectory() as copies:  # a Ledger mends its file, which may be in use
        ledgers = [
            Ledger(Path(shutil.copy(folder / name, copies)))
            for name in ("trainings.jsonl", "estimates.jsonl")
        ]
    trained, estimated = (ledger.rows for ledger in ledgers)
    ids = [row["arch_id"] for row in rows]
    runs = [[trained[Task(FULL, seed, arch_id)] for arch_id in ids] for seed in seeds]
    clock = np.array([[[e.seconds for e in run.curve] for run in every] for every in runs])
    whole = np.array([[run.cpu_seconds for run in every] for every in runs])
    asked = [part for part in parts if part not in COUNTED]
    found, asking = [], np.zeros(len(ids))
    for i, row in enumerate(rows):
        said = {part: float(row[part]) for part in parts if part in COUNTED}
        for part in asked:
            estimate = estimated.get(Task(part, OWN_SEED, ids[i]))
            if estimate is None:
                raise StudyError(f"{folder / 'estimates.jsonl'}: has no {part} of {ids[i]}")
            asking[i] += estimate.cpu_seconds
            if estimate.value is not None:
                said[part] = estimate.value
        found.append(said)
    return Truth(
        arch_ids=ids,
        macs=np.array([float(row["macs"]) for row in rows]),
        curves=np.array([[[e.top1 for e in run.curve] for run in every] for every in runs]),
        seconds=clock / clock.sum(axis=2, keepdims=True) * whole[:, :, None],
        estimates=found,
        asking=asking,
        features=choices(rows),
    )


def choices(rows: Sequence[dict[str, str]]) -> Floats:
    """A column for each value of each parameter of the space: 1 where a network has it."""
    names = [n for n in rows[0] if n not in NO_PARAMETER and not n.startswith("top1_")]
    pairs = sorted({(name, row[name]) for row in rows for name in names})
    return np.array([[float(row[name] == value) for name, value in pairs] for row in rows])


class Proposer(Protocol):
    """What says which network is next."""

    def ask(self) -> int | None:
        """None where there is no other."""

    def tell(self, network: int, values: tuple[float, float], *, stopped: bool) -> None:
        """(top1, macs): what it came to or, where it was stopped, is foretold to."""


class RandomOrder:
    """Every network, in random order."""

    def __init__(self, truth: Truth, seed: int) -> None:
        self.order: Iterator[int] = iter(np.random.default_rng(seed).permutation(len(truth.macs)))

    def ask(self) -> int | None:
        return next(self.order, None)

    def tell(self, network: int, values: tuple[float, float], *, stopped: bool) -> None: ...


class CostAware:
    """What nasattn search proposes, of the list alone: a network is its number and its choices."""

    def __init__(self, truth: Truth, seed: int) -> None:
        n = len(truth.macs)
        self.sampler = CostAwareSampler(
            {1: lambda params: float(truth.macs[params["network"]])},
            seed,
            features=lambda params: truth.features[params["network"]].tolist(),
            space={"network": IntDistribution(0, n - 1)},
        )
        self.study = optuna.create_study(directions=["maximize", "minimize"], sampler=self.sampler)

    def ask(self) -> int | None:
        self.trial = self.study.ask(dict(self.sampler.space))
        return None if self.sampler.exhausted else int(self.trial.params["network"])

    def tell(self, network: int, values: tuple[float, float], *, stopped: bool) -> None:
        if not stopped:
            self.study.tell(self.trial, values)
            return
        self.trial.set_user_attr(FORETOLD, values)
        self.study.tell(self.trial, state=TrialState.PRUNED)


@dataclass(frozen=True)
class Way:
    """How a search is made."""

    name: str
    proposer: Callable[[Truth, int], Proposer]
    early_stop: str
    asks: bool  # whether estimates are asked before each training


WAYS = (
    Way("random order, all trained", RandomOrder, "none", asks=False),
    Way("cost-aware, all trained", CostAware, "none", asks=False),
    Way("random order, rungs", RandomOrder, "rank", asks=False),
    Way("random order, estimates and rungs", RandomOrder, "rank", asks=True),
    Way("cost-aware, rungs", CostAware, "rank", asks=False),
    Way("cost-aware, estimates and rungs", CostAware, "rank", asks=True),
)


@dataclass(frozen=True)
class Outcome:
    """What a search came to."""

    found: list[int]  # networks that were trained to the end
    n_begun: int
    n_untrained: int  # that were stopped at rung 0
    spent: float


def search(truth: Truth, way: Way, seed: int, budget: float) -> Outcome:
    """Search until so many seconds of processor time are spent; what is unfinished then is lost."""
    run = seed % len(truth.curves)
    proposer, rule = way.proposer(truth, seed), EARLY_STOP[way.early_stop](truth.n_epochs)
    peers: list[Training] = []
    found: list[int] = []
    spent, n_untrained = 0.0, 0
    while spent < budget and (i := proposer.ask()) is not None:
        macs = float(truth.macs[i])
        curve, seconds = truth.curves[run, i], truth.seconds[run, i]
        estimates = truth.estimates[i] if way.asks else {}
        spent += float(truth.asking[i]) * way.asks
        for epoch in range(truth.n_epochs + 1):
            reached = curve[:epoch].tolist()
            training = training_of(reached, {"macs": macs}, estimates, {"macs": 1})
            stopped = epoch < truth.n_epochs and rule.stops(training, peers)
            if stopped or epoch == truth.n_epochs:
                break
            spent += float(seconds[epoch])
        n_untrained += not training.curve
        top1 = rule.foretell(training, peers) if stopped else float(curve[-1])
        proposer.tell(i, (top1, macs), stopped=stopped)
        peers.append(training)
        if not stopped and spent <= budget:
            found.append(i)
    return Outcome(found, len(peers), n_untrained, spent)


def median(values: Sequence[float]) -> str:
    """The median in percent, and what it lies between in 95 of 100 cases, from six values on."""
    ordered, n = np.sort(values), len(values)
    k = int(binom.ppf(0.025, n, 0.5))
    ends = f" [{100 * ordered[k - 1]:.1f}, {100 * ordered[n - k]:.1f}]" if k else ""
    return f"{100 * float(np.median(ordered)):.1f}{ends}"


def compare(truth: Truth, share: float, seeds: Sequence[int]) -> Iterator[str]:
    """A line for each way, every one with the time that `share` of all trainings takes."""
    heads = f"{'hypervolume %':>22}{'against the first':>22}"
    yield f"{'':34}{heads}{'begun':>7}{'whole':>7}{'none':>6}"
    first: list[float] = []
    for way in WAYS:
        outcomes = []
        for seed in seeds:
            budget = share * float(truth.seconds[seed % len(truth.curves)].sum())
            outcomes.append(search(truth, way, seed, budget))
        shares = [truth.share(one.found) for one in outcomes]
        first = first or shares
        gains = median([own - other for own, other in zip(shares, first, strict=True)])
        counts = (
            float(np.median(values))
            for values in (
                [one.n_begun for one in outcomes],
                [len(one.found) for one in outcomes],
                [one.n_untrained for one in outcomes],
            )
        )
        cells = "".join(f"{n:>{w}.0f}" for n, w in zip(counts, (7, 7, 6), strict=True))
        yield f"{way.name:34}{median(shares):>22}{gains if way != WAYS[0] else '':>22}{cells}"


def main() -> None:
    """Print a table for each share."""
    parser = argparse.ArgumentParser(description="Searches of equal processor time.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--share", type=float, nargs="+", default=[0.1, 0.25, 0.5])
    parser.add_argument("--estimator", default="end_loss:50steps")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        truth = read_truth(options.folder, options.estimator)
    except ValueError as e:
        raise SystemExit(str(e)) from None
    seeds, whole = len(truth.curves), truth.seconds.sum(axis=(1, 2))
    print(
        f"{len(truth.macs)} networks, {seeds} seeds each, {truth.n_epochs} epochs\n"
        f"CPU-s: {whole.mean():,.0f} to train all once, {truth.asking.sum():,.0f} to ask all "
        f"{options.estimator}\nbegun, trained whole, none of it: medians of networks"
    )
    for share in options.share:
        print(f"\n{100 * share:g} % of that time, n = {options.seeds} searches")
        for line in compare(truth, share, range(options.seeds)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
