"""run_search: ask, decode, skip what is known, evaluate, tell."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from nasattn.arch import Architecture
from nasattn.baselines import get_baseline
from nasattn.errors import ArchitectureError
from nasattn.evaluate import Evaluation, State
from nasattn.search.artifacts import attach, curve_csv
from nasattn.search.samplers import make_sampler
from nasattn.search.spec import StudySpec
from nasattn.space import Params, SearchSpace
from nasattn.train.loop import Epoch

Evaluate = Callable[[Architecture, Callable[[Epoch], None]], Evaluation]

# A network that is known already, cannot be built, or breaks a limit before it is trained costs
# next to nothing and is no trial of the budget; after so many in a row nothing is left to find.
MAX_FREE_TRIALS = 200

TRIAL_STATES: dict[State, TrialState] = {
    "complete": TrialState.COMPLETE,
    "infeasible": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
STATES: dict[TrialState, State] = {state: name for name, state in TRIAL_STATES.items()}


class Watcher(Protocol):
    """Is told what happens, to show it. `spent` counts the trials of the budget so far."""

    def started(self, name: str, spent: int) -> None: ...
    def epoch(self, epoch: Epoch) -> None: ...
    def finished(self, trial: FrozenTrial, spent: int) -> None: ...


def run_search(
    study: optuna.Study,
    spec: StudySpec,
    space: SearchSpace,
    evaluate: Evaluate,
    *,
    facts: dict[str, Any],
    artifacts: Path,
    watcher: Watcher,
) -> bool:
    """Search until `spec.n_trials` networks were trained or failed; the baselines come first.

    Earlier trials of the study count, and no network is evaluated twice. `facts` (recipe_id, seed,
    device) become attributes of every trial. Returns False when the search ended early because
    MAX_FREE_TRIALS proposals in a row were known, broke a limit or could not be built.
    """
    return _Search(study, spec, space, evaluate, facts, artifacts, watcher).run()


def is_new(trial: FrozenTrial) -> bool:
    """Whether a trial is finished and the first one of its network."""
    return trial.state.is_finished() and not {"duplicate_of", "given_up"} & trial.user_attrs.keys()


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of the budget: its network was trained, or failed."""
    return is_new(trial) and trial.state != TrialState.PRUNED


@dataclass
class _Search:
    study: optuna.Study
    spec: StudySpec
    space: SearchSpace
    evaluate: Evaluate
    facts: dict[str, Any]
    artifacts: Path
    watcher: Watcher
    known: dict[str, FrozenTrial] = field(default_factory=dict)  # by arch_id
    spent: int = 0

    def run(self) -> bool:
        trials = self.study.get_trials(deepcopy=False)
        self.enqueue_baselines(trials)
        for trial in trials:
            self.remember(trial)
        in_vain = 0
        while self.spent < self.spec.n_trials and in_vain < MAX_FREE_TRIALS:
            told = self.run_trial()
            self.remember(told)
            in_vain = 0 if counts(told) else in_vain + 1
            self.watcher.finished(told, self.spent)
        return self.spent >= self.spec.n_trials

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

    def run_trial(self) -> FrozenTrial:
        """One trial from ask to tell."""
        trials = self.study.get_trials(deepcopy=False)
        number = sum("given_up" not in trial.user_attrs for trial in trials)
        self.study.sampler = make_sampler(self.spec.sampler, self.spec.seed, number)
        trial = self.study.ask()
        try:
            arch = self.decode(self.space.suggest(trial))
        except ArchitectureError as e:
            return self.tell(trial, Evaluation("infeasible", reason=f"cannot be built: {e}"))
        except ValueError as e:  # queued by somebody else
            return self.tell(trial, Evaluation("failed", reason=str(e)))
        trial.set_user_attr("arch_id", arch.arch_id)
        trial.set_user_attr("architecture", arch.to_json())
        if arch.arch_id in self.known:
            return self.tell_again(trial, self.known[arch.arch_id])
        self.watcher.started(trial.user_attrs.get("baseline", arch.arch_id), self.spent)
        try:
            evaluation = self.evaluate(arch, self.watcher.epoch)
        except Exception as e:  # a bug: it shows itself, and the next start goes on behind it
            self.tell(trial, Evaluation("failed", reason=f"bug: {e!r}"))
            raise
        write_artifacts(trial, arch, evaluation, self.artifacts)
        return self.tell(trial, evaluation)

    def decode(self, params: Params) -> Architecture:
        """The network of params, adapted to the pictures: spaces are drawn for 224 pixels."""
        arch = self.space.decode(params)
        return arch.at_resolution(self.spec.resolution) if self.spec.resolution else arch

    def tell(self, trial: Trial, evaluation: Evaluation) -> FrozenTrial:
        """Write what was found; the tell comes last, so that a kill before it redoes the trial."""
        write_facts(trial, evaluation, self.facts)
        return self.end(trial, evaluation.state, evaluation.values, evaluation.violations)

    def tell_again(self, trial: Trial, first: FrozenTrial) -> FrozenTrial:
        """A network proposed a second time gets what is known of it."""
        attributes = first.user_attrs
        again = {name: attributes[name] for name in ("values", "reason")}
        for name, value in (self.facts | again | {"duplicate_of": first.number}).items():
            trial.set_user_attr(name, value)
        return self.end(trial, STATES[first.state], attributes["values"], first.constraints)

    def end(
        self, trial: Trial, state: State, values: dict[str, float], violations: dict[str, float]
    ) -> FrozenTrial:
        stored = self.study.get_trials(deepcopy=False)[trial.number].constraints
        for name in violations.keys() - stored.keys():  # a trial that is redone may have some
            trial.set_constraint(name, violations[name])
        complete = state == "complete"
        told = [values[name] for name in self.spec.objectives] if complete else None
        return self.study.tell(trial, told, state=TRIAL_STATES[state])


def write_facts(trial: Trial, evaluation: Evaluation, facts: dict[str, Any]) -> None:
    """Write an Evaluation, and what is known beside it, into a trial's user attributes."""
    for name, value in (facts | _attributes(evaluation)).items():
        trial.set_user_attr(name, value)


def write_artifacts(trial: Trial, arch: Architecture, evaluation: Evaluation, folder: Path) -> None:
    """Keep a trial's architecture.json and curve.csv beside the storage."""
    files = {"architecture.json": arch.to_json() + "\n"}
    if evaluation.curve:
        files["curve.csv"] = curve_csv(evaluation.curve)
    attach(trial, files, folder)


def _attributes(evaluation: Evaluation) -> dict[str, Any]:
    """An Evaluation as user attributes, which Optuna Dashboard shows."""
    static = evaluation.static
    odd = static is not None and (static.uncounted or static.max_macs != static.macs)
    return {
        "values": evaluation.values,
        "reason": evaluation.reason,
        "seconds": round(evaluation.seconds, 3),
        "curve": [[round(epoch.loss, 5), round(epoch.top1, 5)] for epoch in evaluation.curve],
        "latency": asdict(evaluation.latency) if evaluation.latency else None,
        **({"static": asdict(static)} if static and odd else {}),
    }
