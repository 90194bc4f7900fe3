"""Selection: the best networks of a search again, over fresh seeds and pictures it has not seen."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.trial import FrozenTrial
from scipy.stats import t as student

from nasattn.evaluate import Evaluation
from nasattn.objectives import Objective
from nasattn.search.fronts import Floats, contributions, minimised, ranks
from nasattn.search.run import finished_networks

RUNS = "selection"  # attribute of a study: arch_id -> seed -> what that training came to
N_DRAWS = 10_000


class Watcher(Protocol):
    """Is told what happens, to show it."""

    def started(self, trial: FrozenTrial, seed: int) -> None: ...
    def finished(self, trial: FrozenTrial, seed: int, run: Mapping[str, Any]) -> None: ...


def finalists(study: optuna.Study, objectives: Sequence[Objective], n: int) -> list[FrozenTrial]:
    """The best n networks of a search: by non-dominated rank, then by hypervolume contribution."""
    trials = finished_networks(study)
    if not trials:
        return []
    points = minimised([trial.values for trial in trials], objectives)
    rank = ranks(points)
    order = np.lexsort((-contributions(points, rank), rank))
    return [trials[i] for i in order[:n]]


def missing(
    study: optuna.Study, trials: Sequence[FrozenTrial], seeds: Iterable[int]
) -> list[tuple[int, FrozenTrial]]:
    """The runs that are still to be made: all networks with one seed, then with the next."""
    runs = study.user_attrs.get(RUNS, {})
    pairs = [(seed, trial) for seed in seeds for trial in trials]
    return [(s, t) for s, t in pairs if str(s) not in runs.get(t.user_attrs["arch_id"], {})]


def run_selection(
    study: optuna.Study,
    runs: Sequence[tuple[int, FrozenTrial]],
    evaluate: Callable[[FrozenTrial, int], Evaluation],
    watcher: Watcher,
) -> None:
    """Make the runs; each is written to the study when it is finished."""
    for seed, trial in runs:
        watcher.started(trial, seed)
        evaluation = evaluate(trial, seed)
        run = {
            "state": evaluation.state,
            "reason": evaluation.reason,
            "top1": evaluation.values.get("top1"),
            "seconds": round(evaluation.seconds, 3),
        }
        every = dict(study.user_attrs.get(RUNS, {}))
        arch_id = trial.user_attrs["arch_id"]
        every[arch_id] = every.get(arch_id, {}) | {str(seed): run}
        study.set_user_attr(RUNS, every)
        watcher.finished(trial, seed, run)


@dataclass(frozen=True)
class Selected:
    """What the fresh runs say of one network."""

    top1: float  # the mean over the runs, a fraction
    half: float | None  # of its 95 % interval; None where no network has two runs
    runs: Mapping[str, float]  # top1 by seed
    on_front: bool  # by the means
    p_front: float | None  # the probability that it is on the front; None without a spread


@dataclass(frozen=True)
class Selection:
    """Networks that were trained again, with their other objectives: {arch_id: values}."""

    runs: Mapping[str, Mapping[str, float]]  # arch_id -> seed -> top1
    values: Mapping[str, Mapping[str, float]]  # arch_id -> objective -> value, known otherwise
    objectives: tuple[Objective, ...]

    def judge(self) -> dict[str, Selected]:
        """The noise-aware front, by arch_id.

        The spread of the seeds is taken to be one for all networks: s^2 is the mean of their
        variances, and a mean of k runs is sure to s / sqrt(k) by Student's t. The probability of
        being on the front counts draws of the true means under which no other network is as good
        in everything and better in something; costs and latency are taken as they were found.
        """
        if not self.runs:
            return {}
        n = np.array([len(runs) for runs in self.runs.values()])
        means = np.array([np.mean([*runs.values()]) for runs in self.runs.values()])
        freedom = int((n - 1).sum())
        errors = self.spread / np.sqrt(n) if freedom else np.zeros(len(n))
        on_front = ranks(self.points(means)) == 0
        p_front = None
        if freedom:
            rng = np.random.default_rng(0)
            draws = means + errors * student.rvs(freedom, size=(N_DRAWS, len(n)), random_state=rng)
            p_front = np.mean([ranks(self.points(draw)) == 0 for draw in draws], axis=0)
        halves = errors * student.ppf(0.975, freedom) if freedom else errors
        return {
            arch_id: Selected(
                top1=float(means[i]),
                half=float(halves[i]) if freedom else None,
                runs=dict(runs),
                on_front=bool(on_front[i]),
                p_front=None if p_front is None else float(p_front[i]),
            )
            for i, (arch_id, runs) in enumerate(self.runs.items())
        }

    @cached_property
    def spread(self) -> float:
        """The standard deviation of one network's runs, pooled over the networks."""
        groups = [np.array([*runs.values()]) for runs in self.runs.values()]
        squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
        return float(np.sqrt(squares / sum(len(group) - 1 for group in groups)))

    def points(self, top1: Floats) -> Floats:
        """The objectives with these accuracies: (networks, objectives), smaller is better."""
        rows = [
            [one if row.name == "top1" else values[row.name] for row in self.objectives]
            for one, values in zip(top1, self.values.values(), strict=True)
        ]
        return minimised(rows, self.objectives)


def read_selection(study: optuna.Study, objectives: tuple[Objective, ...]) -> Selection:
    """The runs of a study's selection that came to an end."""
    runs = {}
    for arch_id, own in study.user_attrs.get(RUNS, {}).items():
        found = {seed: run["top1"] for seed, run in own.items() if run["top1"] is not None}
        if found:
            runs[arch_id] = found
    values = {
        trial.user_attrs["arch_id"]: trial.user_attrs["values"]
        for trial in finished_networks(study)
        if trial.user_attrs.get("arch_id") in runs
    }
    return Selection({arch_id: runs[arch_id] for arch_id in values}, values, objectives)
