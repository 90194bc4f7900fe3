"""Selection: the best networks of a search again, over fresh seeds and pictures it has not seen."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial
from scipy.stats import t as student

from nasattn.evaluate import Evaluation, OnEpoch, Setting, evaluate
from nasattn.objectives import Constraint, Objective, parse_constraint
from nasattn.search.engines.engine import INLINE, Engine, Job, Work
from nasattn.search.fronts import Floats, contributions, minimised, ranks
from nasattn.search.plan import USED, Deadline
from nasattn.search.trials import finished_networks, network_of
from nasattn.train.loop import Epoch

RUNS = "selection"  # attribute of a study: arch_id -> seed -> what that training came to
FINALISTS = "finalists"  # attribute of a study: the arch_ids of those to be trained again
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
    """The runs that are still to be made: all networks with one seed, then with the next.

    Those that failed are made again.
    """
    runs = study.user_attrs.get(RUNS, {})

    def is_done(trial: FrozenTrial, seed: int) -> bool:
        run = runs.get(trial.user_attrs["arch_id"], {}).get(str(seed), {})
        return run.get("top1") is not None

    pairs = [(seed, trial) for seed in seeds for trial in trials]
    return [(seed, trial) for seed, trial in pairs if not is_done(trial, seed)]


def run_selection(
    study: optuna.Study,
    runs: Sequence[tuple[int, FrozenTrial]],
    work: Work,
    watcher: Watcher,
    *,
    engine: Engine = INLINE,
    max_retries: int = 0,
    deadline: Deadline | None = None,
) -> None:
    """Make the runs; each is written to the study when it is finished.

    With a `deadline` what they use of its budget is, too.
    """
    known = study.user_attrs.get(FINALISTS, [])
    ids = (trial.user_attrs["arch_id"] for _, trial in runs)
    study.set_user_attr(FINALISTS, [*dict.fromkeys([*known, *ids])])
    engine.run(_Runs(study, watcher, dict(enumerate(runs)), max_retries, deadline), work)


@dataclass
class _Runs:
    """A Source: one network after the other, with one seed after the other."""

    study: optuna.Study
    watcher: Watcher
    left: dict[int, tuple[int, FrozenTrial]]  # to be started
    max_retries: int
    deadline: Deadline | None
    open: dict[int, tuple[int, FrozenTrial]] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)  # that were lost, by job

    @property
    def is_over(self) -> bool:
        return not self.left and not self.open

    def next(self) -> Job | None:
        if not self.left:
            return None
        key = min(self.left)
        seed, trial = self.open[key] = self.left.pop(key)
        return Job(str(key), network_of(trial), seed=seed)

    def started(self, job: Job, place: str) -> None:
        seed, trial = self.open[int(job.key)]
        self.watcher.started(trial, seed)

    def epoch(self, job: Job, epoch: Epoch) -> None: ...

    def finished(self, job: Job, evaluation: Evaluation) -> None:
        if evaluation.transient and self.redo(job):
            return
        seed, trial = self.open.pop(int(job.key))
        run = {
            "state": evaluation.state,
            "reason": evaluation.reason,
            "top1": evaluation.values.get("top1"),
            "seconds": round(evaluation.seconds, 3),
        }
        every = dict(self.study.user_attrs.get(RUNS, {}))
        arch_id = trial.user_attrs["arch_id"]
        every[arch_id] = every.get(arch_id, {}) | {str(seed): run}
        self.study.set_user_attr(RUNS, every)
        if self.deadline:
            self.study.set_user_attr(USED, self.deadline.used)
        self.watcher.finished(trial, seed, run)

    def lost(self, job: Job, reason: str, trace: str = "") -> None:
        if not self.redo(job):
            self.finished(job, Evaluation("failed", reason=reason))

    def redo(self, job: Job) -> bool:
        """Start a lost run again; False where it was tried enough."""
        if self.attempts[job.key] >= self.max_retries:
            return False
        self.attempts[job.key] += 1
        self.left[int(job.key)] = self.open.pop(int(job.key))
        return True


@dataclass(frozen=True)
class Again:
    """The Work of a selection: a network trained with the job's seed."""

    setting: Setting

    def __call__(self, job: Job, on_epoch: OnEpoch) -> Evaluation:
        assert job.seed is not None
        return evaluate(job.arch, replace(self.setting, seed=job.seed), on_epoch)


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
    """Networks that were trained again.

    A network that breaks a limit on top1 is on no front, and beats none.
    """

    runs: Mapping[str, Mapping[str, float]]  # arch_id -> seed -> top1
    values: Mapping[str, Mapping[str, float]]  # arch_id -> objective -> value, known otherwise
    objectives: tuple[Objective, ...]
    limits: tuple[Constraint, ...] = ()
    n_failed: int = 0  # runs that came to no end
    unfinished: bool = False  # whether networks are still to be trained again

    def judge(self) -> dict[str, Selected]:
        """The noise-aware front, by arch_id.

        The spread of the seeds is taken to be one for all networks: s^2 is the mean of their
        variances, and a mean of k runs is sure to s / sqrt(k) by Student's t. The probability of
        being on the front counts draws of the true means (of a multivariate t, for s is shared)
        under which no other network is as good in everything and better in something; costs and
        latency are taken as they were found.
        """
        if not self.runs:
            return {}
        n = np.array([len(runs) for runs in self.runs.values()])
        means = np.array([np.mean([*runs.values()]) for runs in self.runs.values()])
        freedom = int((n - 1).sum())
        errors = self.spread / np.sqrt(n) if freedom else np.zeros(len(n))
        on_front = self.front(means)
        p_front = None
        if freedom:
            rng = np.random.default_rng(0)
            normal = rng.standard_normal((N_DRAWS, len(n)))
            spread = np.sqrt(freedom / rng.chisquare(freedom, (N_DRAWS, 1)))
            draws = means + errors * normal * spread
            p_front = np.mean([self.front(draw) for draw in draws], axis=0)
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

    def front(self, top1: Floats) -> NDArray[np.bool_]:
        """Which networks are on the front with these accuracies: (networks,)."""
        rows = [
            [one if row.name == "top1" else values[row.name] for row in self.objectives]
            for one, values in zip(top1, self.values.values(), strict=True)
        ]
        kept = np.array([all(c.violation(float(x)) <= 0 for c in self.limits) for x in top1])
        found = np.zeros(len(rows), dtype=bool)
        if kept.any():
            found[kept] = ranks(minimised(rows, self.objectives)[kept]) == 0
        return found


def read_selection(study: optuna.Study, objectives: tuple[Objective, ...]) -> Selection:
    """The runs of a study's selection; none while a finalist has not been trained at all."""
    settings = study.user_attrs.get("settings", {})
    texts = (*settings.get("space", {}).get("constraints", ()), *settings.get("constraints", ()))
    limits = [parse_constraint(text) for text in dict.fromkeys(texts)]
    stored = study.user_attrs.get(RUNS, {})
    known = {
        arch_id: {seed: run["top1"] for seed, run in own.items() if run["top1"] is not None}
        for arch_id, own in stored.items()
    }
    unfinished = any(arch_id not in stored for arch_id in study.user_attrs.get(FINALISTS, []))
    values = {
        trial.user_attrs["arch_id"]: trial.user_attrs["values"]
        for trial in finished_networks(study)
        if known.get(trial.user_attrs.get("arch_id")) and not unfinished
    }
    return Selection(
        {arch_id: known[arch_id] for arch_id in values},
        values,
        objectives,
        tuple(limit for limit in limits if limit.objective.name == "top1"),
        sum(run["top1"] is None for own in stored.values() for run in own.values()),
        unfinished,
    )
