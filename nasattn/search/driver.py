"""Driver: the one that asks the sampler and tells the study, whoever evaluates the networks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from nasattn.arch import Architecture
from nasattn.baselines import get_baseline
from nasattn.errors import ArchitectureError
from nasattn.evaluate import ALWAYS_KNOWN, Evaluation, OnEpoch, State, Stops
from nasattn.objectives import Cost
from nasattn.search.artifacts import attach
from nasattn.search.candidates import Candidates
from nasattn.search.early_stop import EARLY_STOP, Training, read_training
from nasattn.search.engines.engine import Job
from nasattn.search.forecast import Forecast
from nasattn.search.history import FORETOLD, GIVEN_UP, named_constraints
from nasattn.search.judge import Judge
from nasattn.search.plan import USED, Deadline
from nasattn.search.samplers import SAMPLERS, Proposer
from nasattn.search.selection import finalists
from nasattn.search.spec import StudySpec
from nasattn.search.trials import (
    ATTEMPTS,
    ENDED,
    EPOCH,
    PLACE,
    SINCE,
    TRIAL_STATES,
    UNSEEN,
    counts,
    is_new,
    read_evaluation,
    set_attributes,
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
# MAX_FREE_TRIALS proposals in a row were known, broke a limit or could not be built; time: another
# network would not come to its end in time.
Ending = Literal["budget", "exhausted", "in vain", "time"]

KILLED = "the search was killed"


class Evaluator(Protocol):
    """How networks come by their figures."""

    def __call__(self, arch: Architecture, on_epoch: OnEpoch, stops: Stops) -> Evaluation: ...

    def static_values(self, arch: Architecture) -> Mapping[str, float]:
        """Objectives known without a trial; RuntimeError or ValueError for no such network."""


class Watcher(Protocol):
    """Is told what happens, to show it. `spent` counts the trials of the budget so far."""

    def started(self, name: str, spent: int) -> None: ...
    def epoch(self, name: str, epoch: Epoch) -> None: ...
    def finished(self, trial: FrozenTrial, spent: int) -> None: ...


@dataclass
class Open:
    """A trial that was asked and is not told yet."""

    trial: Trial
    arch: Architecture
    unseen: list[int]
    attempts: list[dict[str, Any]]
    duplicate_of: int | None = None  # another open trial, of the same network
    evaluation: Evaluation | None = None
    place: str = ""
    since: datetime | None = None

    @property
    def name(self) -> str:
        name: str = self.trial.user_attrs.get("baseline", self.arch.arch_id)
        return name


@dataclass
class Driver:
    """A Source of jobs: the networks that a sampler proposes, after a space's baselines.

    Results are told in the order of the trials, each as late as may be: network k is proposed when
    all but the last `pending` - 1 networks before it were told. So what is proposed depends on what
    was told before and on `pending`, and not on how many workers there are, which of them is
    faster, or how often the search was killed; with `pending` 1 on every network before it.
    """

    study: optuna.Study
    spec: StudySpec
    space: SearchSpace
    evaluate: Evaluator
    facts: dict[str, Any]
    artifacts: Path
    watcher: Watcher
    forecast: Forecast | None = None
    deadline: Deadline | None = None  # in place of n_trials
    pending: int = 1  # networks that are open at once
    alone: bool = True  # whether it evaluates in this process, so that they die together
    known: dict[str, FrozenTrial] = field(default_factory=dict)  # told ones, by arch_id
    open: dict[int, Open] = field(default_factory=dict)  # by number, in their order
    ready: list[int] = field(default_factory=list)  # open ones that wait for a worker
    spent: int = 0  # told ones of the budget
    in_vain: int = 0  # trials in a row that are none of the budget
    exhausted: bool = False  # nothing is left to propose
    ending: Ending | None = None

    @cached_property
    def candidates(self) -> Candidates:
        limits = self.spec.limits(self.space)
        how = self.spec.resolution, self.evaluate.static_values, limits, self.forecast
        sizes = set(ALWAYS_KNOWN) - set(self.spec.objectives)  # those are known to it as they are
        return Candidates(self.space, *how, [n for n in self.spec.estimators if n in sizes])

    @cached_property
    def sampler(self) -> Proposer:
        make = SAMPLERS[self.spec.sampler]
        return make(self.spec.seed, self.candidates, self.spec.objective_rows())

    @cached_property
    def costs(self) -> dict[str, int]:
        """The objectives that are known before training, with their signs."""
        rows = self.spec.objective_rows()
        return {row.name: row.sign for row in rows if row.cost != Cost.TRAINED}

    def begin(self) -> None:
        """Read what is stored, and queue the space's baselines that are not there yet."""
        trials = self.study.get_trials(deepcopy=False)
        present = {trial.user_attrs.get("baseline") for trial in trials}
        for name in self.space.baselines:
            if name not in present:
                params = self.space.encode(get_baseline(name).architecture, name)
                self.study.enqueue_trial(params, {"baseline": name})
        for trial in trials:
            self.remember(trial)

    def interrupt(self) -> None:
        """Note that trials which are still open did not come to their end by their own doing."""
        for one in self.open.values():
            if one.place and one.evaluation is None:
                one.trial.set_user_attr(PLACE, "")

    # -- a Source ------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        return self.ending is not None

    def next(self) -> Job | None:
        """The next network to evaluate; None where one must end first, or all is done."""
        while self.ending is None:
            if self.ready:
                return self.job(self.ready.pop(0))
            if self.may_ask():
                self.ask()
            elif not self.open:
                self.ending = self.find_ending()
            elif not self.settle():
                break
        return None

    def started(self, job: Job, place: str) -> None:
        one = self.open[int(job.key)]
        one.place, one.since = place, datetime.now(UTC)
        since = one.since.isoformat(timespec="milliseconds")
        set_attributes(one.trial, {PLACE: place, SINCE: since})
        self.watcher.started(one.name, self.spent)

    def epoch(self, job: Job, epoch: Epoch) -> None:
        one = self.open[int(job.key)]
        if not self.alone:
            one.trial.set_user_attr(EPOCH, epoch.number)
        self.watcher.epoch(one.name, epoch)

    def finished(self, job: Job, evaluation: Evaluation) -> None:
        """Keep what was found; it is told when its turn comes."""
        one = self.open[int(job.key)]
        odd = [k for k, v in evaluation.values.items() if not math.isfinite(v)]
        if odd:
            self.lost(job, f"{odd[0]} is {evaluation.values[odd[0]]}")
            return
        if evaluation.transient and self.redo(one, evaluation.reason):
            return
        if evaluation.state == "stopped" and job.judge:
            evaluation = self.foretell(one.trial, job.judge, evaluation)
        write_artifacts(one.trial, one.arch, evaluation, self.artifacts)
        ended = {"state": evaluation.state, "violations": evaluation.violations}
        write_facts(one.trial, evaluation, self.facts | {ENDED: ended})
        one.evaluation = evaluation
        if self.deadline:
            self.study.set_user_attr(USED, self.deadline.used)
        if self.pending == 1:
            self.settle()

    def lost(self, job: Job, reason: str, trace: str = "") -> None:
        one = self.open[int(job.key)]
        ends_us = bool(trace) and self.alone  # then the next start goes on behind it
        if not ends_us and self.redo(one, reason):
            return
        if trace:
            attach(one.trial, {"traceback.txt": trace}, self.artifacts)
        n = len(one.attempts) + 1
        self.finished(
            job, Evaluation("failed", reason=f"{reason} ({n} attempts)" if n > 1 else reason)
        )

    # -- from ask to tell ----------------------------------------------------------------------

    def may_ask(self) -> bool:
        """Whether another network may be proposed before an open one is told."""
        n_open = sum(one.duplicate_of is None for one in self.open.values())
        return (
            n_open < self.pending
            and self.in_budget(n_open)
            and self.in_vain < MAX_FREE_TRIALS
            and not self.exhausted
        )

    def in_budget(self, n_open: int) -> bool:
        """Whether the budget has another network; of a time the first, however slow."""
        if self.deadline is None:
            return self.spent + n_open < self.spec.n_trials
        if not self.spent + n_open:
            return True
        whole = [t for t in self.known.values() if t.state == TrialState.COMPLETE]
        best = finalists(self.study, self.spec.objective_rows(), self.deadline.finalists)
        took = ([t.user_attrs.get("seconds", 0.0) for t in some] for some in (whole, best))
        return self.deadline.has_room(n_open, *took)

    def find_ending(self) -> Ending:
        """Why nothing may be asked though nothing is open."""
        if not self.in_budget(0):
            return "time" if self.deadline else "budget"
        return "exhausted" if self.exhausted else "in vain"

    def ask(self) -> None:
        """One more trial: opened, or told at once where there is nothing to evaluate."""
        trials = self.study.get_trials(deepcopy=False)
        number = sum(GIVEN_UP not in trial.user_attrs for trial in trials)
        self.study.sampler = self.sampler(number)
        trial = self.study.ask()
        unseen = [n for n, one in self.open.items() if one.duplicate_of is None]
        if unseen and UNSEEN not in trial.user_attrs:
            trial.set_user_attr(UNSEEN, unseen)
        try:
            params = self.space.suggest(trial)
            if getattr(self.study.sampler, "exhausted", False):
                self.exhausted = True
                trial.set_user_attr(GIVEN_UP, "nothing is left to propose")
                self.study.tell(trial, state=TRIAL_STATES["failed"])
                return
            arch = self.candidates.decode(params)
        except ArchitectureError as e:
            self.tell_free(trial, Evaluation("infeasible", reason=f"cannot be built: {e}"))
        except ValueError as e:
            stored = self.study.get_trials(deepcopy=False)[trial.number]
            if "fixed_params" not in stored.system_attrs:
                raise
            # It was queued by somebody else.
            self.tell_free(trial, Evaluation("failed", reason=str(e)))
        else:
            self.admit(trial, arch)

    def admit(self, trial: Trial, arch: Architecture) -> None:
        """Open a trial, unless its network is known."""
        stored = trial.user_attrs
        set_attributes(trial, {"arch_id": arch.arch_id, "architecture": arch.to_json()})
        first = self.known.get(arch.arch_id)
        twins = [n for n, one in self.open.items() if one.arch.arch_id == arch.arch_id]
        if first and self.open and first.number in stored.get(UNSEEN, ()):
            twins = [first.number]  # it was not told yet when the search was killed
        elif first:
            self.after(self.tell_again(trial, first))
            return
        if twins:
            self.open[trial.number] = Open(trial, arch, [], [], duplicate_of=twins[0])
            self.in_vain += 1
            return
        one = Open(trial, arch, stored.get(UNSEEN, []), list(stored.get(ATTEMPTS, [])))
        self.open[trial.number] = one
        if ENDED in stored:
            one.evaluation = read_evaluation(stored, stored[ENDED])
            return
        self.ready.append(trial.number)
        if stored.get(PLACE):
            one.place = stored[PLACE]
            self.note(one, KILLED)
            if self.n_lost(one) > self.spec.max_retries:
                self.ready.remove(trial.number)
                reason = f"{KILLED} while it ran ({len(one.attempts)} attempts)"
                self.finished(self.job(trial.number), Evaluation("failed", reason=reason))

    def job(self, number: int) -> Job:
        one = self.open[number]
        judge = None
        if self.spec.early_stop != "none":
            rule = EARLY_STOP[self.spec.early_stop](self.spec.n_epochs)
            baseline = "baseline" in one.trial.user_attrs
            peers = self.peers(number, one.unseen)
            judge = Judge(rule, self.costs, peers, baseline, self.spec.estimators)
        return Job(str(number), one.arch, judge)

    def peers(self, number: int, unseen: list[int]) -> list[Training]:
        """The trainings that were told when a trial was proposed."""
        seen = (t for t in self.known.values() if t.number < number and t.number not in unseen)
        return [read_training(trial.user_attrs, self.costs) for trial in seen]

    def foretell(self, trial: Trial, judge: Judge, evaluation: Evaluation) -> Evaluation:
        """Write down what a stopped training would have come to."""
        values = {"top1": judge.foretell(evaluation), **evaluation.values}
        trial.set_user_attr(FORETOLD, [values[name] for name in self.spec.objectives])
        limits = [c for c in self.candidates.limits if c.objective.cost == Cost.TRAINED]
        foretold = {str(c): c.violation(values[c.objective.name]) for c in limits}
        return replace(evaluation, violations=evaluation.violations | foretold)

    def note(self, one: Open, reason: str) -> None:
        """Keep a lost attempt with its reason."""
        seconds = (datetime.now(UTC) - one.since).total_seconds() if one.since else 0.0
        lost = {"reason": reason, "place": one.place, "seconds": round(seconds, 3)}
        one.attempts.append(lost)
        set_attributes(one.trial, {ATTEMPTS: one.attempts, PLACE: ""})
        one.place, one.since = "", None

    def n_lost(self, one: Open) -> int:
        """Attempts that a trial may have ended itself: a driver that is killed beside its workers
        was not killed by them."""
        return sum(self.alone or attempt["reason"] != KILLED for attempt in one.attempts)

    def redo(self, one: Open, reason: str) -> bool:
        """Queue a lost trial again, the lowest number first; False where it was tried enough."""
        if self.n_lost(one) >= self.spec.max_retries:
            return False
        self.note(one, reason)
        self.ready = sorted([*self.ready, one.trial.number])
        return True

    def settle(self) -> bool:
        """Tell the oldest open trial, and the duplicates behind it; False where it still runs."""
        number, one = next(iter(self.open.items()))
        if one.evaluation is None:
            return False
        del self.open[number]
        told = self.end(
            one.trial, one.evaluation.state, one.evaluation.values, one.evaluation.violations
        )
        self.after(told)
        while self.open:
            number, one = next(iter(self.open.items()))
            if one.duplicate_of is None:
                break
            del self.open[number]
            first = self.known[one.arch.arch_id]
            self.watcher.finished(self.tell_again(one.trial, first), self.spent)
        return True

    def after(self, told: FrozenTrial) -> None:
        self.remember(told)
        self.in_vain = 0 if counts(told) else self.in_vain + 1
        self.watcher.finished(told, self.spent)

    def remember(self, trial: FrozenTrial) -> None:
        if is_new(trial) and "arch_id" in trial.user_attrs:
            self.known[trial.user_attrs["arch_id"]] = trial
        self.spent += counts(trial)

    def tell_free(self, trial: Trial, evaluation: Evaluation) -> None:
        """Tell a trial that is not evaluated."""
        write_facts(trial, evaluation, self.facts)
        self.after(self.end(trial, evaluation.state, evaluation.values, evaluation.violations))

    def tell_again(self, trial: Trial, first: FrozenTrial) -> FrozenTrial:
        """A network proposed a second time gets what is known of it."""
        attributes = first.user_attrs
        again = {n: attributes[n] for n in ("values", "reason", "stopped_after") if n in attributes}
        set_attributes(trial, self.facts | again | {"duplicate_of": first.number})
        return self.end(trial, state_of(first), attributes["values"], named_constraints(first))

    def end(
        self,
        trial: Trial,
        state: State,
        values: Mapping[str, float],
        violations: Mapping[str, float],
    ) -> FrozenTrial:
        """The tell comes last, so that a kill before it redoes the trial."""
        stored = self.study.get_trials(deepcopy=False)[trial.number].constraints
        for name in violations:
            if name in stored:  # a trial that is redone may have some
                continue
            trial.set_constraint(name, violations[name])
        if violations:  # Optuna Dashboard 0.21 knows of no other
            self.study._storage.set_trial_system_attr(
                trial._trial_id, "constraints", list(violations.values())
            )
        complete = state == "complete"
        told = [values[name] for name in self.spec.objectives] if complete else None
        return self.study.tell(trial, told, state=TRIAL_STATES[state])
