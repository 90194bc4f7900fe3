"""run_ablation: every arm on every seed, paired by construction, resumable."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from nasattn.ablation.arms import Design
from nasattn.ablation.results import Values
from nasattn.ablation.statistics import Pair, paired_differences
from nasattn.arch import Architecture
from nasattn.evaluate import Evaluation
from nasattn.search.history import GIVEN_UP
from nasattn.search.trials import TRIAL_STATES, write_artifacts, write_facts
from nasattn.train.loop import Epoch

Evaluate = Callable[[Architecture, int, Callable[[Epoch], None]], Evaluation]

MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class Run:
    """One training: an arm on a seed."""

    arm: str
    seed: int


class Watcher(Protocol):
    """Is told what happens, to show it. `done` counts the finished runs, of this call or before."""

    def started(self, run: Run, done: int) -> None: ...
    def epoch(self, epoch: Epoch) -> None: ...
    def finished(self, trial: FrozenTrial, done: int) -> None: ...


def plan_runs(design: Design, seeds: Sequence[int]) -> list[Run]:
    """Seed by seed, so that what is there after a stop is balanced."""
    return [Run(arm, seed) for seed in seeds for arm in design.arms]


def run_ablation(
    study: optuna.Study,
    design: Design,
    seeds: Sequence[int],
    evaluate: Evaluate,
    *,
    facts: dict[str, Any],
    artifacts: Path,
    watcher: Watcher,
    wanted: Callable[[int], Collection[str]] | None = None,
) -> None:
    """Train what is not there yet; a failed run is recorded with its reason and not tried again.

    `wanted`, asked before each seed, gives the arms that go on; without it all do.
    """
    ablation = _Ablation(study, design, evaluate, facts, artifacts, watcher)
    for seed in seeds:
        arms = design.arms if wanted is None else wanted(seed)
        for run in (Run(arm, seed) for arm in design.arms if arm in arms):
            while run not in done_runs(study):  # one that was killed comes out of the queue first
                ablation.run_trial(run)


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The finished runs; one that was killed while it was being asked is none."""
    trials = study.get_trials(deepcopy=False)
    return [t for t in trials if t.state.is_finished() and GIVEN_UP not in t.user_attrs]


def done_runs(study: optuna.Study) -> set[Run]:
    """The runs that are finished."""
    return {run_of(trial) for trial in finished_trials(study)}


def top1_by_arm(study: optuna.Study) -> Values:
    """arm -> seed -> top1 of the runs that came to an end."""
    values: dict[str, dict[int, float]] = {}
    for trial in finished_trials(study):
        run = run_of(trial)
        if trial.state == TrialState.COMPLETE:
            values.setdefault(run.arm, {})[run.seed] = trial.values[0]
    return values


def differences_of(
    study: optuna.Study, pairs: Iterable[Pair], seeds: Sequence[int]
) -> dict[Pair, list[float]]:
    """(arm, its base) -> their difference on each of the seeds; NaN where one of them failed."""
    values = top1_by_arm(study)
    found = {}
    for arm, base in pairs:
        by_seed = paired_differences(values.get(arm, {}), values.get(base, {}))
        found[arm, base] = [by_seed.get(seed, math.nan) for seed in seeds]
    return found


def run_of(trial: FrozenTrial | Trial) -> Run:
    """Which run a trial is."""
    return Run(trial.params["arm"], trial.params["seed"])


@dataclass(frozen=True)
class _Ablation:
    study: optuna.Study
    design: Design
    evaluate: Evaluate
    facts: dict[str, Any]
    artifacts: Path
    watcher: Watcher

    def run_trial(self, wanted: Run) -> None:
        """One trial from ask to tell: what waits in the queue, else the wanted run."""
        if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self.study.enqueue_trial(asdict(wanted))
        arms = CategoricalDistribution(sorted(self.design.arms))
        trial = self.study.ask({"arm": arms, "seed": IntDistribution(0, MAX_SEED)})
        run = run_of(trial)
        arch = self.design.arms[run.arm]
        trial.set_user_attr("arch_id", arch.arch_id)
        trial.set_user_attr("architecture", arch.to_json())
        self.watcher.started(run, len(done_runs(self.study)))
        try:
            evaluation = self.evaluate(arch, run.seed, self.watcher.epoch)
        except Exception as e:  # a bug: it shows itself, and the next start goes on behind it
            write_facts(trial, Evaluation("failed", reason=f"bug: {e!r}"), self.facts)
            self.study.tell(trial, state=TrialState.FAIL)
            raise
        write_artifacts(trial, arch, evaluation, self.artifacts)
        write_facts(trial, evaluation, self.facts | {"seed": run.seed})
        value = evaluation.values["top1"] if evaluation.state == "complete" else None
        told = self.study.tell(trial, value, state=TRIAL_STATES[evaluation.state])
        self.watcher.finished(told, len(done_runs(self.study)))
