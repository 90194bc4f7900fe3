"""Plan: what a search is about to do and, where its budget is a time, what that is spent on."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from nasattn.search.early_stop import EARLY_STOP, RankStop
from nasattn.search.spec import StudySpec
from nasattn.spec import write_seconds
from nasattn.words import duration, plural

USED = "budget_used"  # attribute of a study: seconds of its budget, by the clock


@dataclass(frozen=True)
class Pace:
    """What a search takes on this machine, in seconds by the clock."""

    training: float  # of a usual network of the space
    measuring: float  # of the same, before it is trained
    baselines: float  # trainings and measurements of all baselines
    n_baselines: int
    took: float = 0.0  # to find out

    @property
    def trial(self) -> float:
        return self.training + self.measuring


@dataclass(frozen=True)
class Row:
    """How a search is made for whose time `trainings` whole trainings are enough, or more."""

    trainings: int
    finalists: int
    seeds: int
    early_stop: str = "none"


# Time buys trials; then certainty of the front, early stopping (which has first to learn from ten
# and more whole trainings) and at last enough seeds for a test. The recipe is the user's. Estimates
# before a training paid for themselves nowhere: docs/results/estimators.md.
PLANS = (
    Row(0, finalists=1, seeds=1),
    Row(10, finalists=2, seeds=1),
    Row(20, finalists=3, seeds=2),
    Row(60, finalists=6, seeds=3, early_stop="rank"),
    Row(300, finalists=8, seeds=6, early_stop="rank"),
)


@dataclass(frozen=True)
class Plan:
    """What a search will do; times in seconds by the clock, None where they were not asked for."""

    n_trials: int  # where there is a budget of time: about so many
    early_stop: str
    estimator: str | None
    rungs: tuple[int, ...]  # epochs after which a training is judged; 0: before it
    n_epochs: int
    finalists: int
    seeds: int
    budget: float | None = None
    used: float = 0.0  # of the budget, before
    pace: Pace | None = None
    search: float | None = None  # of which is the search
    selection: float | None = None  # and the training of the finalists

    def of(self, spec: StudySpec) -> StudySpec:
        """The spec, by this plan."""
        return spec.model_copy(
            update={
                "n_trials": self.n_trials,
                "early_stop": self.early_stop,
                "estimator": self.estimator,
                "finalists": self.finalists,
                "n_seeds": self.seeds,
            }
        )

    def _rungs(self) -> str:
        """Where a training is judged, in words."""
        after = [str(rung) for rung in self.rungs if rung]
        span = " to ".join(dict.fromkeys((after[0], after[-1]))) if after else ""
        before = [" before a training"] if self.estimator else []
        every = [*before, *([f" after epoch {span} of {self.n_epochs}"] if after else [])]
        return (
            ":" + " and".join(every) if every else f": not within {plural(self.n_epochs, 'epoch')}"
        )

    def lines(self) -> list[str]:
        """In words, of at most 80 columns."""
        lines = []
        if self.budget is not None and self.pace:
            used = f", {duration(self.used)} used" if self.used else ""
            pace = self.pace
            first = f", {plural(pace.n_baselines, 'baseline')} {_brief(pace.baselines)}"
            lines += [
                f"budget {write_seconds(self.budget)}{used}: about {duration(self.search or 0)} of "
                f"search, {duration(self.selection or 0)} of finalists",
                f"by a probe of {duration(pace.took)}: a usual network takes "
                f"{_brief(pace.trial)}{first * bool(pace.n_baselines)}",
            ]
        if self.estimator:
            lines.append(f"before each training {self.estimator}")
        if self.early_stop != "none":
            lines.append(f"early stopping by {self.early_stop}{self._rungs()}")
        if self.seeds:
            n = self.finalists * self.seeds
            best = "best" if self.finalists == 1 else f"best {self.finalists}"
            lines.append(
                f"finalists: the {best} over {plural(self.seeds, 'fresh seed')}, "
                f"{plural(n, 'training')} at most"
            )
        return lines


def make_plan(
    spec: StudySpec, *, pace: Pace | None = None, used: float = 0.0, done: int = 0, n_jobs: int = 1
) -> Plan:
    """The plan of a study; of one by time with the machine's `pace`.

    `used`: seconds of the budget that earlier runs and the probe have used; `done`: trials. What
    the spec says itself stays: finalists, seeds, early stopping, estimator.
    """
    budget = spec.budget
    if budget is None or pace is None:
        return _plan(spec)
    row = [row for row in PLANS if row.trainings <= budget * n_jobs / pace.trial][-1]
    changes: dict[str, Any] = {"finalists": spec.finalists or row.finalists}
    if "n_seeds" not in spec.model_fields_set:
        changes["n_seeds"] = row.seeds
    if "early_stop" not in spec.model_fields_set:
        changes["early_stop"] = row.early_stop
    spec = spec.model_copy(update=changes)
    left = max(budget - used, 0.0)
    selection = min(spec.n_finalists * spec.n_seeds * pace.training / n_jobs, left)
    first, n_first = (0.0, done) if done else (pace.baselines, pace.n_baselines)
    more = int(((left - selection) * n_jobs - first) / pace.trial)
    spec = spec.model_copy(update={"n_trials": max(n_first + max(more, 0), 1)})
    return _plan(
        spec, budget=budget, used=used, pace=pace, search=left - selection, selection=selection
    )


def _plan(spec: StudySpec, **times: Any) -> Plan:
    rule = EARLY_STOP[spec.early_stop](spec.n_epochs)
    return Plan(
        n_trials=spec.n_trials,
        early_stop=spec.early_stop,
        estimator=spec.estimator,
        rungs=rule.rungs if isinstance(rule, RankStop) else (),
        n_epochs=spec.n_epochs,
        finalists=min(spec.n_finalists, spec.n_trials),
        seeds=spec.n_seeds if "top1" in spec.objectives else 0,
        **times,
    )


@dataclass(frozen=True)
class Deadline:
    """When a search by time is over, its finalists included, whatever the plan thought."""

    at: float  # by `clock`
    trial: float  # seconds of one, as planned
    finalists: int  # networks that are trained again after the search,
    seeds: int  # each so often
    n_jobs: int = 1
    budget: float = 0.0  # seconds that lead to it
    clock: Callable[[], float] = time.monotonic

    @property
    def left(self) -> float:
        """Seconds."""
        return self.at - self.clock()

    @property
    def used(self) -> float:
        """Seconds of the budget, those of earlier runs included."""
        return self.budget - self.left

    def has_room(self, n_open: int, took: Sequence[float], best: Sequence[float]) -> bool:
        """Whether one more network may begin beside `n_open`.

        `took`: seconds of the whole trials so far, which know better than the plan; `best`: of
        those that would be finalists now.
        """
        usual = fmean(took) if took else self.trial
        again = self.seeds * (sum(best) + usual * (self.finalists - len(best)))
        side_by_side = min(self.n_jobs, self.finalists * self.seeds) or 1
        search = usual * math.ceil((n_open + 1) / self.n_jobs)
        return search + again / side_by_side <= self.left

    def fits(self, took: Sequence[float]) -> bool:
        """Whether trainings of so many seconds each may still be made."""
        return sum(took) / self.n_jobs <= self.left


def _brief(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)
