"""run_search: ask, decode, skip what is known, evaluate, tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from nasattn.arch import Architecture
from nasattn.baselines import get_baseline
from nasattn.errors import ArchitectureError
from nasattn.evaluate import Evaluation, OnEpoch, State, Stops
from nasattn.objectives import Cost
from nasattn.search.candidates import Candidates
from nasattn.search.early_stop import EARLY_STOP, EarlyStop, Training, read_training
from nasattn.search.forecast import Forecast
from nasattn.search.history import FORETOLD, GIVEN_UP, named_constraints
from nasattn.search.samplers import SAMPLERS, Proposer
from nasattn.search.spec import StudySpec
from nasattn.search.trials import (
    TRIAL_STATES,
    counts,
    is_new,
    state_of,
    write_artifacts,
    write_facts,
)
from nasattn.space import SearchSpace
from nasattn.train.loop import Epoch

# A network that is known already, cannot be built, or breaks a limit before it is trained costs
# next to nothing and is no trial of the budget; after so many in a row nothing is left to find.
MAX_FREE_TRIALS = 200

# budget: all trials were run; exhausted: no other network was found that may be tried; in vain:
# MAX_FREE_TRIALS proposals in a row were known, broke a limit or could not be built.
Ending = Literal["budget", "exhausted", "in vain"]


class Evaluator(Protocol):
    """How networks come by their figures."""

    def __call__(self, arch: Architecture, on_epoch: OnEpoch, stops: Stops) -> Evaluation: ...

    def static_values(self, arch: Architecture) -> Mapping[str, float]:
        """Objectives known without a trial; RuntimeError or ValueError for no such network."""


class Watcher(Protocol):
    """Is told what happens, to show it. `spent` counts the trials of the budget so far."""

    def started(self, name: str, spent: int) -> None: ...
    def epoch(self, epoch: Epoch) -> None: ...
    def finished(self, trial: FrozenTrial, spent: int) -> None: ...


def run_search(
    study: optuna.Study,
    spec: StudySpec,
    space: SearchSpace,
    evaluate: Evaluator,
    *,
    facts: dict[str, Any],
    artifacts: Path,
    watcher: Watcher,
    forecast: Forecast | None = None,
) -> Ending:
    """Search until `spec.n_trials` networks were trained or failed; the baselines come first.

    Earlier trials of the study count, and no network is evaluated twice. `facts` (recipe_id, seed,
    device) become attributes of every trial; a `forecast` screens candidates and tells the sampler
    of them. Returns what ended the search.
    """
    return _Search(study, spec, space, evaluate, facts, artifacts, watcher, forecast).run()


@dataclass(frozen=True)
class Judge:
    """Judges one training by an early stopping rule and the trainings before it."""

    rule: EarlyStop
    costs: Mapping[str, int]  # objectives known before training, with their signs
    peers: Sequence[Training]
    baseline: bool  # is never stopped

    def stops(self, curve: Sequence[Epoch], values: Mapping[str, float]) -> bool:
        return self.rule.stops(self._training(curve, values), self.peers, baseline=self.baseline)

    def foretell(self, evaluation: Evaluation) -> float:
        """The top-1 that a stopped training would have ended with."""
        return self.rule.foretell(self._training(evaluation.curve, evaluation.values), self.peers)

    def _training(self, curve: Sequence[Epoch], values: Mapping[str, float]) -> Training:
        costs = {name: sign * values[name] for name, sign in self.costs.items()}
        return Training(tuple(epoch.top1 for epoch in curve), costs)


@dataclass
class _Search:
    study: optuna.Study
    spec: StudySpec
    space: SearchSpace
    evaluate: Evaluator
    facts: dict[str, Any]
    artifacts: Path
    watcher: Watcher
    forecast: Forecast | None = None
    known: dict[str, FrozenTrial] = field(default_factory=dict)  # by arch_id
    spent: int = 0

    @cached_property
    def candidates(self) -> Candidates:
        limits = self.spec.limits(self.space)
        how = self.spec.resolution, self.evaluate.static_values, limits, self.forecast
        return Candidates(self.space, *how)

    @cached_property
    def sampler(self) -> Proposer:
        make = SAMPLERS[self.spec.sampler]
        return make(self.spec.seed, self.candidates, self.spec.objective_rows())

    @cached_property
    def early_stop(self) -> EarlyStop:
        return EARLY_STOP[self.spec.early_stop](self.spec.recipe.epochs)

    def run(self) -> Ending:
        trials = self.study.get_trials(deepcopy=False)
        self.enqueue_baselines(trials)
        for trial in trials:
            self.remember(trial)
        in_vain = 0
        while self.spent < self.spec.n_trials:
            told = self.run_trial()
            if told is None:
                return "exhausted"
            self.remember(told)
            in_vain = 0 if counts(told) else in_vain + 1
            self.watcher.finished(told, self.spent)
            if in_vain == MAX_FREE_TRIALS:
                return "in vain"
        return "budget"

    def enqueue_baselines(self, trials: list[FrozenTrial]) -> None:
        """Queue the space's baselines that are not there yet."""
        present = {trial.user_attrs.get("baseline") for trial in trials}
        for name in self.space.baselines:
            if name not in present:
                params = self.space.encode(get_baseline(name).architecture, name)
                self.study.enqueue_trial(params, {"baseline": name})

    def remember(self, trial: FrozenTrial) -> None:
        if is_new(trial) and "arch_id" in trial.user_attrs:
            self.known[trial.user_attrs["arch_id"]] = trial
        self.spent += counts(trial)

    def run_trial(self) -> FrozenTrial | None:
        """One trial from ask to tell; None where the sampler knows that nothing is left."""
        trials = self.study.get_trials(deepcopy=False)
        number = sum(GIVEN_UP not in trial.user_attrs for trial in trials)
        self.study.sampler = self.sampler(number)
        trial = self.study.ask()
        try:
            params = self.space.suggest(trial)
            if getattr(self.study.sampler, "exhausted", False):
                trial.set_user_attr(GIVEN_UP, "nothing is left to propose")
                self.study.tell(trial, state=TrialState.FAIL)
                return None
            arch = self.candidates.decode(params)
        except ArchitectureError as e:
            return self.tell(trial, Evaluation("infeasible", reason=f"cannot be built: {e}"))
        except ValueError as e:
            stored = self.study.get_trials(deepcopy=False)[trial.number]
            if "fixed_params" not in stored.system_attrs:
                raise
            # It was queued by somebody else.
            return self.tell(trial, Evaluation("failed", reason=str(e)))
        trial.set_user_attr("arch_id", arch.arch_id)
        trial.set_user_attr("architecture", arch.to_json())
        if arch.arch_id in self.known:
            return self.tell_again(trial, self.known[arch.arch_id])
        self.watcher.started(trial.user_attrs.get("baseline", arch.arch_id), self.spent)
        judge = Judge(self.early_stop, self.costs(), self.peers(), "baseline" in trial.user_attrs)
        try:
            evaluation = self.evaluate(arch, self.watcher.epoch, judge.stops)
        except Exception as e:  # a bug: it shows itself, and the next start goes on behind it
            self.tell(trial, Evaluation("failed", reason=f"bug: {e!r}"))
            raise
        write_artifacts(trial, arch, evaluation, self.artifacts)
        if evaluation.state == "stopped":
            values = {"top1": judge.foretell(evaluation), **evaluation.values}
            trial.set_user_attr(FORETOLD, [values[name] for name in self.spec.objectives])
            limits = [c for c in self.candidates.limits if c.objective.cost == Cost.TRAINED]
            foretold = {str(c): c.violation(values[c.objective.name]) for c in limits}
            evaluation = replace(evaluation, violations=evaluation.violations | foretold)
        return self.tell(trial, evaluation)

    def costs(self) -> dict[str, int]:
        """The objectives that are known before training, with their signs."""
        rows = self.spec.objective_rows()
        return {row.name: row.sign for row in rows if row.cost != Cost.TRAINED}

    def peers(self) -> list[Training]:
        """The trainings of the study so far."""
        return [read_training(trial.user_attrs, self.costs()) for trial in self.known.values()]

    def tell(self, trial: Trial, evaluation: Evaluation) -> FrozenTrial:
        """Write what was found; the tell comes last, so that a kill before it redoes the trial."""
        write_facts(trial, evaluation, self.facts)
        return self.end(trial, evaluation.state, evaluation.values, evaluation.violations)

    def tell_again(self, trial: Trial, first: FrozenTrial) -> FrozenTrial:
        """A network proposed a second time gets what is known of it."""
        attributes = first.user_attrs
        again = {n: attributes[n] for n in ("values", "reason", "stopped_after") if n in attributes}
        for name, value in (self.facts | again | {"duplicate_of": first.number}).items():
            trial.set_user_attr(name, value)
        return self.end(trial, state_of(first), attributes["values"], named_constraints(first))

    def end(
        self,
        trial: Trial,
        state: State,
        values: Mapping[str, float],
        violations: Mapping[str, float],
    ) -> FrozenTrial:
        stored = self.study.get_trials(deepcopy=False)[trial.number].constraints
        for name in violations.keys() - stored.keys():  # a trial that is redone may have some
            trial.set_constraint(name, violations[name])
        if violations:  # Optuna Dashboard 0.21 knows of no other
            self.study._storage.set_trial_system_attr(
                trial._trial_id, "constraints", list(violations.values())
            )
        complete = state == "complete"
        told = [values[name] for name in self.spec.objectives] if complete else None
        return self.study.tell(trial, told, state=TRIAL_STATES[state])
