"""Early stopping on simulated learning curves: what it saves, loses and wrongly kills.

    python -m benchmarks.early_stopping TABLE.parquet [--seeds 20] [--first-seed 0] [--only ...]

TABLE is NAS-Bench-Macro (6,561 networks trained on CIFAR-10, three runs each); a search sees run 0.
The table has no learning curves: `curves` says how they are made. Prints every figure with the half
width of its 95 % interval (Student's t over the seeds).
"""

import argparse
import math
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import optuna
import pandas as pd
import scipy
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState
from scipy.stats import spearmanr

from nasattn.search import CostAwareSampler
from nasattn.search.early_stop import (
    EARLY_STOP,
    EarlyStop,
    NeverStop,
    RankStop,
    Training,
    rank_stop,
)
from nasattn.search.history import FORETOLD

Floats = NDArray[np.float64]

EPOCHS, TRIALS, MAX_FREE_TRIALS = 50, 200, 200
DIGITS: dict[str, BaseDistribution] = {f"block{i}": IntDistribution(0, 2) for i in range(8)}


@dataclass(frozen=True)
class Scenario:
    """How learning curves are made; see `curves`."""

    scatter: float = 0.09  # of the log exponent, a network's own
    size: float = -0.3  # its correlation with log macs: larger networks are slower
    noise: float = 0.06  # of an epoch, as a share of what is still to be learned
    workers: int = 1
    trials: int = TRIALS
    costs: tuple[str, ...] = ("macs",)
    broken: float = 0.0  # share of networks that stay at chance


@dataclass(frozen=True, eq=False)
class Table:
    """The distinct networks of NAS-Bench-Macro, as fractions and multiply-adds."""

    codes: tuple[str, ...]
    run0: Floats
    mean: Floats
    costs: Mapping[str, Floats]
    low: float  # 1st percentile of the whole table's mean accuracies

    def points(self, costs: Sequence[str]) -> Floats:
        """Error and costs: 0 the best of the table, 1 its 1st percentile or its dearest."""
        best = self.mean.max()
        columns = [(best - self.mean) / (best - self.low)]
        columns += [(c - c.min()) / np.ptp(c) for c in (self.costs[name] for name in costs)]
        return np.column_stack(columns)


def read_table(path: Path) -> Table:
    """One row a network: the place of identities behind a stage's first block does not matter."""
    rows = pd.read_parquet(path, engine="pyarrow").set_index("arch")
    low = float(np.percentile(rows.test_acc_mean, 1)) / 100
    rows = rows[[code == canonical(code) for code in rows.index]]
    return Table(
        tuple(rows.index),
        rows.test_acc_run0.to_numpy(float) / 100,
        rows.test_acc_mean.to_numpy(float) / 100,
        {"macs": rows.flops.to_numpy(float), "params": rows.params.to_numpy(float)},
        low,
    )


def planted(table: Table, broken: float, seed: int) -> Table:
    """The table with a random share of its networks at chance."""
    if not broken:
        return table
    lost = np.random.default_rng(30_000 + seed).random(len(table.codes)) < broken
    run0, mean = (np.where(lost, 0.1, top1) for top1 in (table.run0, table.mean))
    return replace(table, run0=run0, mean=mean)


def canonical(code: str) -> str:
    """A network's code with the identities behind a stage's first block at the stage's end."""
    stages = (code[:2], code[2:5], code[5:])
    return "".join(s[0] + "".join(sorted(s[1:], key=lambda d: d == "0")) for s in stages)


def curves(table: Table, scenario: Scenario, seed: int) -> Floats:
    """Every network's top-1 after each epoch: (networks, EPOCHS).

    A power law from 10 % (chance) to the accuracy of run 0, which the last epoch has exactly:
    accuracy(t) = final - gap(t), gap(t) = (final - 0.1) * (s(t) - s(T)) / (1 - s(T)) with
    s(t) = (1 + t) ** -c. log c is normal around log 0.8 with `scatter`, correlated with log macs,
    so that curves cross. An epoch's noise is normal, `noise` times the gap: less towards the end.
    """
    rng = np.random.default_rng(seed)
    log_macs = np.log(table.costs["macs"])
    z = (log_macs - log_macs.mean()) / log_macs.std()
    own = rng.standard_normal(len(z))
    speed = scenario.size * z + math.sqrt(1 - scenario.size**2) * own
    c = 0.8 * np.exp(scenario.scatter * speed)[:, None]
    t = np.arange(1, EPOCHS + 1)
    s, end = (1 + t) ** -c, (1 + EPOCHS) ** -c
    gap = (table.run0 - 0.1)[:, None] * (s - end) / (1 - end)
    noisy = gap * (1 + scenario.noise * rng.standard_normal(gap.shape))
    top1: Floats = np.maximum(table.run0[:, None] - noisy, 0.05)
    return top1


class RankOnly(RankStop):
    """A fixed share by non-dominated rank and hypervolume contribution, without a margin."""

    def beaten(self, training: Training, finished: Sequence[Training]) -> bool:
        return True


@dataclass(frozen=True)
class Asha:
    """ASHA (Li et al., MLSys 2020) on accuracy alone: the best 1/reduction of a rung go on."""

    rungs: tuple[int, ...]
    reduction: float = 3.0

    def stops(
        self, training: Training, peers: Sequence[Training], *, baseline: bool = False
    ) -> bool:
        epoch = len(training.curve)
        if epoch not in self.rungs:
            return False
        rung = [p.curve[epoch - 1] for p in peers if len(p.curve) >= epoch]
        better = sum(top1 > training.curve[-1] for top1 in rung)
        return better >= max(1, (len(rung) + 1) / self.reduction)


@dataclass(frozen=True)
class Oracle:
    """Knows every final accuracy at one epoch, and stops what a finished network beats."""

    epoch: int
    finals: Mapping[tuple[float, ...], float]  # by curve up to the epoch

    def stops(
        self, training: Training, peers: Sequence[Training], *, baseline: bool = False
    ) -> bool:
        finished = [p for p in peers if len(p.curve) == EPOCHS]
        if len(training.curve) != self.epoch or len(finished) < 10:
            return False
        final = self.finals[training.curve]
        return any(
            p.curve[-1] > final and all(p.costs[k] <= v for k, v in training.costs.items())
            for p in finished
        )


class RandomDraws:
    """Proposes networks in random order, none twice."""

    def __init__(self, table: Table, seed: int) -> None:
        order = np.random.default_rng(10_000 + seed).permutation(len(table.codes))
        self.order = iter(order.tolist())

    def ask(self, busy: set[int]) -> int | None:
        return next(self.order, None)

    def tell(self, network: int, training: Training, foretold: float) -> None:
        pass


class Study:
    """An Optuna sampler, as `nasattn search` has it; a stopped trial is told as PRUNED."""

    def __init__(self, table: Table, seed: int, sampler: Callable[[int], BaseSampler]) -> None:
        self.sampler, self.places = sampler, {code: i for i, code in enumerate(table.codes)}
        self.study = optuna.create_study(directions=["maximize", "minimize"])
        self.known: dict[int, tuple[Training, float]] = {}
        self.trials: dict[int, optuna.Trial] = {}

    def ask(self, busy: set[int]) -> int | None:
        for _ in range(MAX_FREE_TRIALS):
            number = len(self.study.get_trials(deepcopy=False))
            self.study.sampler = self.sampler(number)
            trial = self.study.ask(dict(DIGITS))
            network = self.places[canonical("".join(str(trial.params[k]) for k in DIGITS))]
            self.trials[network] = trial
            if network in self.known:
                self.tell(network, *self.known[network])
            elif network in busy:
                self.study.tell(trial, state=TrialState.FAIL)
            else:
                return network
        return None

    def tell(self, network: int, training: Training, foretold: float) -> None:
        self.known[network] = training, foretold
        if len(training.curve) == EPOCHS:
            values = [training.curve[-1], training.costs["macs"]]
            self.study.tell(self.trials[network], values)
        else:
            self.trials[network].set_user_attr(FORETOLD, [foretold, training.costs["macs"]])
            self.study.tell(self.trials[network], state=TrialState.PRUNED)


def tpe(table: Table, seed: int) -> Study:
    """Optuna's TPE, multivariate, a new one a trial."""

    def sampler(number: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return TPESampler(seed=seed * 1_000_003 + number, multivariate=True, group=True)

    return Study(table, seed, sampler)


def cost_aware(table: Table, seed: int) -> Study:
    """Ours, given the multiply-adds and which networks are equal."""
    places = {code: i for i, code in enumerate(table.codes)}

    def network(params: Mapping[str, Any]) -> int:
        return places[canonical("".join(str(params[name]) for name in DIGITS))]

    sampler = CostAwareSampler(
        {1: lambda params: float(table.costs["macs"][network(params)])},
        seed,
        space=DIGITS,
        identity=network,
    )
    return Study(table, seed, lambda number: sampler)


PROPOSERS: dict[str, Callable[[Table, int], RandomDraws | Study]] = {
    "random draws": RandomDraws,
    "TPE multivariate": tpe,
    "cost-aware": cost_aware,
}


@dataclass
class Search:
    """A simulated search: `workers` train side by side, an epoch each in turn."""

    table: Table
    scenario: Scenario
    rule: EarlyStop
    curves: Floats
    networks: list[int] = field(default_factory=list)  # in the order of their trials
    trainings: list[Training] = field(default_factory=list)

    def run(self, proposer: RandomDraws | Study, *, trials: int, epochs: int) -> None:
        """Until so many trials were begun and so many epochs spent, and all have ended."""
        running: list[int] = []
        while True:
            begun = len(self.networks) >= trials and self.spent >= epochs
            if not begun and len(running) < self.scenario.workers:
                network = proposer.ask({self.networks[i] for i in running})
                if network is not None:
                    running.append(len(self.networks))
                    self.networks.append(network)
                    self.trainings.append(self.training(network, 0))
                    continue
            if not running:
                return
            for i in list(running):
                if self.step(i):
                    running.remove(i)
                    proposer.tell(self.networks[i], self.trainings[i], self.foretell(i))

    def foretell(self, i: int) -> float:
        """What `nasattn search` tells its sampler of a training that was stopped."""
        peers = self.trainings[:i] + self.trainings[i + 1 :]
        return rank_stop(EPOCHS).foretell(self.trainings[i], peers)

    def step(self, i: int) -> bool:
        """An epoch of trial i; whether it was the last."""
        epoch = len(self.trainings[i].curve) + 1
        self.trainings[i] = self.training(self.networks[i], epoch)
        peers = self.trainings[:i] + self.trainings[i + 1 :]
        return epoch == EPOCHS or self.rule.stops(self.trainings[i], peers)

    def training(self, network: int, epoch: int) -> Training:
        costs = {name: self.table.costs[name][network] for name in self.scenario.costs}
        return Training(tuple(self.curves[network, :epoch].tolist()), costs)

    @property
    def spent(self) -> int:
        return sum(len(t.curve) for t in self.trainings)

    def finished(self, trials: int) -> list[int]:
        """Networks among the first trials that were trained to the end."""
        pairs = zip(self.networks[:trials], self.trainings, strict=False)
        return [network for network, t in pairs if len(t.curve) == EPOCHS]

    def kills(self, network: int, after: int) -> bool:
        """Whether a network would be stopped if it came after so many trials."""
        pairs = zip(self.networks[:after], self.trainings, strict=False)
        peers = [t for other, t in pairs if other != network]
        return any(
            self.rule.stops(self.training(network, epoch), peers) for epoch in range(1, EPOCHS)
        )


# What is measured of a search, in percent.
FIGURES = {
    "saved": "epochs saved",
    "lost": "hypervolume lost with the same trials",
    "gained": "hypervolume gained with the same epochs",
    "killed": "networks of the table's true front killed, each put in at a random trial",
    "met": "the same, those that the search met by itself",
    "own": "networks of the front that the search sees (run 0) killed",
}


@dataclass(frozen=True)
class Case:
    """A row of the report: a rule in a scenario, on one kind of proposals."""

    name: str
    rule: Callable[[Table, Floats], EarlyStop]
    kind: str = "random draws"
    scenario: Scenario = Scenario()
    more: bool = False  # go on until as many epochs are spent as without stopping


@cache
def unstopped(table: Table, scenario: Scenario, kind: str, seed: int) -> tuple[int, list[int]]:
    """Epochs and networks of the search that stops nothing."""
    search = Search(table, scenario, NeverStop(), curves(table, scenario, seed))
    search.run(PROPOSERS[kind](table, seed), trials=scenario.trials, epochs=0)
    return search.spent, search.networks


def measure(table: Table, case: Case, seed: int) -> dict[str, float]:
    """FIGURES of one search, against the same search that stops nothing."""
    n, table = case.scenario.trials, planted(table, case.scenario.broken, seed)
    lines = curves(table, case.scenario, seed)
    spent, networks = unstopped(table, case.scenario, case.kind, seed)
    search = Search(table, case.scenario, case.rule(table, lines), lines)
    epochs = spent if case.more else 0
    search.run(PROPOSERS[case.kind](table, seed), trials=n, epochs=epochs)
    points = table.points(case.scenario.costs)
    full = hypervolume(points[networks])
    front = np.flatnonzero(moocore.is_nondominated(points, keep_weakly=True)).tolist()
    after = np.random.default_rng(20_000 + seed).integers(0, n, len(front)).tolist()
    begun, done = np.array(search.networks[:n]), set(search.finished(n))
    seen = np.column_stack([-table.run0, *(table.costs[k] for k in case.scenario.costs)])[begun]
    own = begun[moocore.is_nondominated(seen, keep_weakly=True)].tolist()
    figures = {
        "saved": 1 - sum(len(t.curve) for t in search.trainings[:n]) / spent,
        "lost": 1 - hypervolume(points[search.finished(n)]) / full,
        "gained": hypervolume(points[search.finished(len(search.networks))]) / full - 1,
        "killed": share(search.kills(i, k) for i, k in zip(front, after, strict=True)),
        "met": share(i not in done for i in set(front) & set(begun.tolist())),
        "own": share(i not in done for i in own),
    }
    if not case.more:
        del figures["gained"]
    return {name: 100 * value for name, value in figures.items()}


def share(answers: Iterable[bool]) -> float:
    """The share of True; nan without an answer."""
    given = list(answers)
    return sum(given) / len(given) if given else math.nan


def hypervolume(points: Floats) -> float:
    """Of points (n, objectives) up to (1, 1, ...)."""
    return float(moocore.hypervolume(points, ref=[1.0] * points.shape[1])) if len(points) else 0.0


def always(rule: EarlyStop) -> Callable[[Table, Floats], EarlyStop]:
    """The same rule for every table."""
    return lambda table, lines: rule


def oracle(epoch: int) -> Callable[[Table, Floats], EarlyStop]:
    """An Oracle at an epoch of these curves."""

    def make(table: Table, lines: Floats) -> EarlyStop:
        heads = (tuple(line) for line in lines[:, :epoch].tolist())
        return Oracle(epoch, dict(zip(heads, table.run0.tolist(), strict=True)))

    return make


def peers() -> Iterator[Case]:
    """Each rule on random draws and on two samplers (200 trials of 50 epochs)"""
    ninths = (round(EPOCHS / 9), round(EPOCHS / 3))
    rules: dict[str, EarlyStop] = {
        "none": EARLY_STOP["none"](EPOCHS),
        "rank (ours)": EARLY_STOP["rank"](EPOCHS),
        "rank, margin 1": replace(rank_stop(EPOCHS), margin=1.0),
        "rank, no margin, 1/3": RankOnly(EPOCHS, ninths, reduction=3),
        "ASHA, accuracy, 1/3": Asha(ninths),
    }
    for kind in PROPOSERS:
        for name, rule in rules.items():
            yield Case(f"{name}; {kind}", always(rule), kind, more=kind == "random draws")


def trade() -> Iterator[Case]:
    """What a margin buys (random draws)"""
    for margin in (1.0, 1.5, 2.0, 2.5, 3.0, 3.5):
        rule = replace(rank_stop(EPOCHS), margin=margin)
        yield Case(f"margin {margin:g}", always(rule), more=True)
    for reduction in (2.0, 3.0):
        rule = RankOnly(EPOCHS, (round(EPOCHS / 9), round(EPOCHS / 3)), reduction=reduction)
        yield Case(f"no margin, best 1/{reduction:g} at 1/9 and 1/3", always(rule), more=True)


def rungs() -> Iterator[Case]:
    """Where the rungs are (random draws, margin 3)"""
    for rungs in ((6, 17), (6, 12, 24), (9, 13, 19, 28), tuple(range(9, 34, 4))):
        rule = replace(rank_stop(EPOCHS), rungs=rungs)
        yield Case(f"epochs {', '.join(map(str, rungs))}", always(rule))
    for first, last in ((6, 33), (9, 33), (9, 41), (13, 33)):
        rule = replace(rank_stop(EPOCHS), rungs=tuple(range(first, last + 1)))
        yield Case(f"every epoch from {first} to {last}", always(rule))
    for reduction, name in ((2.0, "the best half"), (math.inf, "nobody")):
        rule = replace(rank_stop(EPOCHS), reduction=reduction)
        yield Case(f"{name} always goes on", always(rule))


def limits() -> Iterator[Case]:
    """What can be had: an oracle that knows every final accuracy at one epoch"""
    for epoch in (1, 6, 10, 17):
        yield Case(f"oracle at epoch {epoch}; random draws", oracle(epoch))
    for kind in ("TPE multivariate", "cost-aware"):
        yield Case(f"oracle at epoch 17; {kind}", oracle(17), kind)


def scenarios() -> Iterator[Case]:
    """Other curves, other searches (random draws, margin 3)"""
    rule = always(rank_stop(EPOCHS))
    for name, scenario in {
        "curves scatter less (0.06)": Scenario(scatter=0.06),
        "curves scatter more (0.15)": Scenario(scatter=0.15),
        "noise for scatter (0.05, noise 0.2)": Scenario(scatter=0.05, noise=0.2),
        "size tells nothing of speed": Scenario(size=0.0),
        "larger networks much slower (-0.7)": Scenario(size=-0.7),
        "larger networks faster (0.3)": Scenario(size=0.3),
        "4 workers": Scenario(workers=4),
        "2 % of the networks stay at chance": Scenario(broken=0.02),
        "100 trials": Scenario(trials=100),
        "500 trials": Scenario(trials=500),
        "objectives top1, macs, params": Scenario(costs=("macs", "params")),
    }.items():
        yield Case(name, rule, scenario=scenario)


SECTIONS = {row.__name__: row for row in (peers, trade, rungs, limits, scenarios)}


def correlations(table: Table, scenario: Scenario, seeds: Sequence[int]) -> str:
    """Spearman's correlation of accuracy at some epochs with the final one, mean over seeds."""
    lines = [curves(table, scenario, seed) for seed in seeds]
    means = {
        e: np.mean([spearmanr(c[:, e - 1], c[:, -1]).statistic for c in lines])
        for e in (1, 3, 6, 10, 17, 25, 33, 41)
    }
    return ", ".join(f"{rho:.2f} at {e}" for e, rho in means.items())


def say(figures: Sequence[Mapping[str, float]], name: str) -> str:
    """A figure's mean over the seeds that have it, and half its 95 % interval."""
    values = np.array([row.get(name, math.nan) for row in figures])
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return "-"
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():.2f} ±{half:.2f}"


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description="Early stopping on simulated learning curves.")
    parser.add_argument("table", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    start = time.perf_counter()
    table = read_table(options.table)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    print(
        f"python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__},"
        f" moocore {moocore.__version__}, optuna {optuna.__version__};"
        f" {len(table.codes)} networks, {EPOCHS} epochs,"
        f" seeds {seeds[0]} to {seeds[-1]}"
    )
    print(f"rank correlation with the final accuracy: {correlations(table, Scenario(), seeds)}")
    print("\n" + "\n".join(f"{name:7} {what}, %" for name, what in FIGURES.items()))
    for section in (SECTIONS[name] for name in options.only):
        print(f"\n{section.__doc__}")
        print(f"{'':42}" + "".join(f"{name:>15}" for name in FIGURES))
        for case in section():
            figures = [measure(table, case, seed) for seed in seeds]
            cells = "".join(f"{say(figures, name):>15}" for name in FIGURES)
            print(f"{case.name:42}{cells}", flush=True)
            if section is scenarios:
                print(f"{'':6}correlation {correlations(table, case.scenario, seeds)}")
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
