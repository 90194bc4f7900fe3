"""A search as its charts need it: the trials of a study, read once."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from nasattn.errors import NasattnError
from nasattn.objectives import Cost, Direction, Objective, get_objective
from nasattn.search.control import SUFFIX, read_control
from nasattn.search.fronts import Floats, minimised, ranks
from nasattn.search.history import GIVEN_UP
from nasattn.search.outcomes import Outcome, outcome_of
from nasattn.search.selection import Selected, read_selection
from nasattn.search.trials import is_new

EXPLAINED = ("failed", "infeasible")  # outcomes with a reason


@dataclass(frozen=True, eq=False)
class Network:
    """A finished trial that was the first one of its network."""

    trial: FrozenTrial
    outcome: Outcome
    values: Mapping[str, float]  # by objective, those that were found and are finite

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def baseline(self) -> str:
        """The name of a baseline, else ''."""
        return str(self.trial.user_attrs.get("baseline", ""))

    @property
    def arch_id(self) -> str:
        return str(self.trial.user_attrs.get("arch_id", ""))

    @property
    def name(self) -> str:
        return self.baseline or self.arch_id or f"trial {self.number}"

    @cached_property
    def is_feasible(self) -> bool:
        """Whether it was trained to the end and keeps to the limits."""
        within = all(value <= 0 for value in self.trial.constraints.values())
        return self.outcome == "complete" and within

    @property
    def curve(self) -> list[float]:
        """Top-1 after each epoch, a fraction."""
        return [float(top1) for _, top1 in self.trial.user_attrs.get("curve", ())]


@dataclass(frozen=True)
class SearchRecord:
    """What a search has come to so far."""

    study: str
    objectives: tuple[Objective, ...]
    networks: tuple[Network, ...]  # in the order of their proposal
    control: tuple[Network, ...]  # those of the random search beside it
    selected: Mapping[str, Selected]  # by arch_id, those that were trained again
    endings: Mapping[tuple[Outcome, str], int]  # of all finished trials, by outcome and reason
    n_open: int  # trials that run, or wait
    n_val: int  # pictures behind each top1; 0: not known
    n_select: int = 0  # those behind top1 over fresh seeds

    @cached_property
    def feasible(self) -> tuple[Network, ...]:
        """Networks that were trained to the end and keep to the limits, all objectives known."""
        return _judged(self.networks, self.objectives)

    @cached_property
    def control_feasible(self) -> tuple[Network, ...]:
        return _judged(self.control, self.objectives)

    @cached_property
    def front(self) -> tuple[Network, ...]:
        """Those that no other beats; where networks were trained again, by what that came to."""
        if self.selected:
            again = {arch_id for arch_id, one in self.selected.items() if one.on_front}
            return tuple(one for one in self.feasible if one.arch_id in again)
        if not self.feasible:
            return ()
        rank = ranks(self.points(self.feasible))
        return tuple(self.feasible[i] for i in np.flatnonzero(rank == 0))

    @cached_property
    def baselines(self) -> tuple[Network, ...]:
        return tuple(one for one in self.networks if one.baseline)

    def points(self, networks: tuple[Network, ...]) -> Floats:
        """(networks, objectives), smaller is better in each."""
        if not networks:
            return np.empty((0, len(self.objectives)))
        values = [[one.values[row.name] for row in self.objectives] for one in networks]
        return minimised(values, self.objectives)

    def value(self, network: Network, name: str) -> float | None:
        """What is most surely known: top1's mean over fresh seeds before that of the search."""
        again = self.selected.get(network.arch_id) if name == "top1" else None
        return again.top1 if again else network.values.get(name)


def read_record(study: optuna.Study) -> SearchRecord:
    """Read a study of `nasattn search`, or any other of Optuna, also while it runs."""
    objectives = _objectives(study)
    trials = [t for t in study.get_trials(deepcopy=False) if GIVEN_UP not in t.user_attrs]
    networks = _networks(trials, objectives)
    return SearchRecord(
        study=study.study_name,
        objectives=objectives,
        networks=networks,
        control=_control(study, objectives),
        selected=read_selection(study, objectives).judge(),
        endings=_endings(trials),
        n_open=sum(not t.state.is_finished() for t in trials),
        n_val=int(study.user_attrs.get("n_val") or 0),
        n_select=int(study.user_attrs.get("n_select") or 0),
    )


def _objectives(study: optuna.Study) -> tuple[Objective, ...]:
    """The rows of OBJECTIVES; for other names, as those of a foreign study, plain ones."""
    n = len(study.directions)
    names = study.metric_names or [f"value {i}" if n > 1 else "value" for i in range(n)]
    return tuple(_objective(*pair) for pair in zip(names, study.directions, strict=True))


def _objective(name: str, direction: StudyDirection) -> Objective:
    try:
        return get_objective(name)
    except NasattnError:
        way: Direction = "maximize" if direction == StudyDirection.MAXIMIZE else "minimize"
        return Objective(name, way, Cost.TRAINED, lambda _: math.nan, "", digits=4)


def _networks(trials: list[FrozenTrial], objectives: tuple[Objective, ...]) -> tuple[Network, ...]:
    return tuple(
        Network(trial, outcome_of(trial.state, trial.user_attrs), _values(trial, objectives))
        for trial in trials
        if is_new(trial)
    )


def _values(trial: FrozenTrial, objectives: tuple[Objective, ...]) -> dict[str, float]:
    """What was found of a trial, by objective; what is not a finite number is left out."""
    told = trial.values or ()
    pairs: dict[str, Any] = dict(zip((row.name for row in objectives), told, strict=False))
    pairs |= trial.user_attrs.get("values", {})
    return {k: float(v) for k, v in pairs.items() if v is not None and math.isfinite(v)}


def _judged(
    networks: tuple[Network, ...], objectives: tuple[Objective, ...]
) -> tuple[Network, ...]:
    names = {row.name for row in objectives}
    return tuple(one for one in networks if one.is_feasible and names <= one.values.keys())


def _control(study: optuna.Study, objectives: tuple[Objective, ...]) -> tuple[Network, ...]:
    if read_control(study, objectives) is None:
        return ()
    name = f"{study.study_name}{SUFFIX}"
    control = optuna.load_study(study_name=name, storage=study._storage)
    return _networks(control.get_trials(deepcopy=False), objectives)


def _endings(trials: list[FrozenTrial]) -> dict[tuple[Outcome, str], int]:
    found: Counter[tuple[Outcome, str]] = Counter()
    for trial in trials:
        if trial.state.is_finished():
            outcome = outcome_of(trial.state, trial.user_attrs)
            reason = str(trial.user_attrs.get("reason", "")) if outcome in EXPLAINED else ""
            found[outcome, reason] += 1
    return dict(found)
