"""Looking networks up in a table instead of training them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from nasattn.arch import Architecture
from nasattn.baselines.baseline import PICTURES, Pictures
from nasattn.cost import PieceCounter
from nasattn.errors import StudyError
from nasattn.evaluate import (
    ALWAYS_KNOWN,
    Evaluation,
    OnEpoch,
    Sketch,
    State,
    Stops,
    one_line,
)
from nasattn.objectives import OBJECTIVES, Constraint, Cost, Objective, get_objective
from nasattn.search.driver import Ending, Evaluator, Watcher
from nasattn.search.engines.engine import INLINE, Engine, Job
from nasattn.search.run import RUN, run_search
from nasattn.search.spec import StudySpec
from nasattn.search.table import Table
from nasattn.space import SearchSpace


@dataclass(frozen=True)
class TableEvaluator:
    """Evaluates networks by looking them up; of each figure's runs `seed` modulo their number.

    Multiply-adds and parameters that are not in the table are counted, for `pictures`. A network
    that is not in the table fails. Raises StudyError where an objective or a limit is of a figure
    that the table does not have.
    """

    table: Table
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()
    seed: int = 0
    pictures: Pictures = PICTURES["ImageNet"]

    def __post_init__(self) -> None:
        for row in self.needed():
            if not self.table.knows(row):
                known = [name for name, row in OBJECTIVES.items() if self.table.knows(row)]
                raise StudyError(
                    f"{self.table.name}: no column {row.name!r}; known: {', '.join(known)}"
                )

    def needed(self) -> list[Objective]:
        """Objectives to find: those of the study, and the static ones that the table has."""
        names = [row.name for row in self.objectives]
        names += [c.objective.name for c in self.constraints]
        names += [name for name in ALWAYS_KNOWN if name in self.table.columns]
        return [get_objective(name) for name in dict.fromkeys(names)]

    @cached_property
    def counter(self) -> PieceCounter:
        """Counts what is not in the table."""
        return PieceCounter(self.pictures.num_classes, self.pictures.resolution)

    def static_values(self, arch: Architecture) -> dict[str, float]:
        """The objectives that are known without a trial; StudyError for no network of the table."""
        if arch.arch_id not in self.table.networks:
            raise StudyError(f"not in {self.table.name}")
        rows = (row for row in self.needed() if row.cost == Cost.STATIC)
        return {row.name: self._find(row, arch) for row in rows}

    def __call__(
        self,
        arch: Architecture,
        on_epoch: OnEpoch = lambda epoch: None,
        stops: Stops = lambda curve, values: False,
    ) -> Evaluation:
        if arch.arch_id not in self.table.networks:
            return Evaluation("failed", reason=f"not in {self.table.name}")
        try:
            found = self._judge({row.name: self._find(row, arch) for row in self.needed()})
        except (RuntimeError, ValueError) as e:  # of counting, as in `evaluate`
            return Evaluation("failed", reason=one_line(e))
        estimates = self.table.estimates.get(arch.arch_id, {})
        if found.state != "complete" or not estimates:
            return found
        found = replace(found, estimates=estimates)
        known = {k: v for k, v in found.values.items() if get_objective(k).cost < Cost.TRAINED}
        if not stops((), {**estimates, **known}):
            return found
        reason = "stopped before its training, by its estimates"
        limits = {str(c) for c in self.constraints if c.objective.cost < Cost.TRAINED}
        kept = {name: v for name, v in found.violations.items() if name in limits}
        return replace(found, state="stopped", values=known, violations=kept, reason=reason)

    def _find(self, row: Objective, arch: Architecture) -> float:
        if row.name in self.table.columns:
            return self.table.find(row.name, arch.arch_id, self.seed)
        return row.measure(Sketch(arch, self.counter.count(arch)))

    def _judge(self, values: dict[str, float]) -> Evaluation:
        """As `evaluate` has it: a broken limit hides what costs more to know."""
        violations: dict[str, float] = {}
        for cost in Cost:
            limits = [c for c in self.constraints if c.objective.cost == cost]
            violations |= {str(c): c.violation(values[c.objective.name]) for c in limits}
            if broken := [name for name, excess in violations.items() if excess > 0]:
                known = {k: v for k, v in values.items() if get_objective(k).cost <= cost}
                state: State = "complete" if cost == Cost.TRAINED else "infeasible"
                return Evaluation(state, known, violations, f"breaks {', '.join(broken)}")
        return Evaluation("complete", values, violations)


@dataclass(frozen=True)
class LookUpAgain:
    """The Work of a selection: another run of the table."""

    evaluator: TableEvaluator

    def __call__(self, job: Job, on_epoch: OnEpoch) -> Evaluation:
        assert job.seed is not None
        return replace(self.evaluator, seed=job.seed)(job.arch)


def search_table(
    study: optuna.Study,
    spec: StudySpec,
    space: SearchSpace,
    evaluate: Evaluator,
    *,
    facts: dict[str, Any],
    artifacts: Path,
    watcher: Watcher,
    engine: Engine = INLINE,
    command: str = "",
) -> Ending:
    """As `run_search`, for evaluations that take no time: a trial is written when it is finished.

    All at once, where `run_search` writes some 25 times a trial, which here would be all that
    takes time. A process that is killed loses the same: the trial that was running.
    """
    trials = study.get_trials(deepcopy=False)
    queued = not all(trial.state.is_finished() for trial in trials)  # by somebody else
    if queued or engine is not INLINE or (spec.pending or 1) > 1:
        return run_search(
            study,
            spec,
            space,
            evaluate,
            facts=facts,
            artifacts=artifacts,
            watcher=watcher,
            engine=engine,
            command=command,
        )
    keeper = _Keeper(study, watcher, trials)
    try:
        return run_search(
            keeper.copy,
            spec,
            space,
            evaluate,
            facts=facts,
            artifacts=artifacts,
            watcher=keeper,
            command=command,
        )
    finally:
        keeper.n_kept = len(study.get_trials(deepcopy=False))  # one may just have been written
        keeper.keep()  # that of a bug, or finished when the user stopped it
        study.set_user_attr(RUN, keeper.copy.user_attrs[RUN])


class _Keeper:
    """A Watcher that searches in a copy in memory, and keeps what is finished in the study."""

    def __init__(
        self, study: optuna.Study, watcher: Watcher, trials: Sequence[FrozenTrial]
    ) -> None:
        self.study, self.watcher, self.n_kept = study, watcher, len(trials)
        self.copy = optuna.create_study(study_name=study.study_name, directions=study.directions)
        self.copy.add_trials(trials)
        self.started, self.epoch = watcher.started, watcher.epoch

    def finished(self, trial: FrozenTrial, spent: int) -> None:
        self.keep()
        self.watcher.finished(trial, spent)

    def keep(self) -> None:
        new = self.copy.get_trials(deepcopy=False)[self.n_kept :]
        for trial in (trial for trial in new if trial.state.is_finished()):
            self.study.add_trial(trial)
            self.n_kept += 1
