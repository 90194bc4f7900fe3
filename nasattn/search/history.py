"""History: a study as a proposal sees it."""

import json
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nasattn.search.catalogue import Batch, Catalogue, Entry, Found, as_batch
from nasattn.search.encoding import Distributions, Params
from nasattn.search.values import Floats

PROPOSAL = "cost_aware:proposal"  # attribute of a trial: its params before they are asked for
FORETOLD = "foretold"  # user attribute of a pruned trial: what its objectives would have come to
GIVEN_UP = "given_up"  # attribute of a trial that is as if it had never been (search.storage)


@dataclass(frozen=True)
class History:
    """All trials but the one that is asked for; an objective times its sign is minimised."""

    index: int  # how many trials were asked before
    signs: Floats
    complete: Sequence[FrozenTrial]  # and pruned ones with what was foretold of them as values
    constrained: Sequence[FrozenTrial]  # finished ones that tell of constraints
    running: Sequence[Params]
    tried: Sequence[Params]  # of all trials, also those that wait in the queue
    fixed: Mapping[str, Any]  # what the trial was given beforehand


def other_trials(study: Study, trial: FrozenTrial) -> list[FrozenTrial]:
    """All trials of a study but this one and those that were given up."""
    trials = study.get_trials(deepcopy=False)
    return [t for t in trials if t.number != trial.number and GIVEN_UP not in t.user_attrs]


def count_before(others: Sequence[FrozenTrial], trial: FrozenTrial) -> int:
    return sum(other.number < trial.number for other in others)


def read_history(study: Study, trial: FrozenTrial, distributions: Distributions) -> History:
    """The history of a trial; `distributions` are those of the params that are proposed."""
    others = other_trials(study, trial)
    params = [(other.state, _params(other, distributions)) for other in others]
    complete = [t for t in map(_as_foretold, others) if t.state == TrialState.COMPLETE]
    return History(
        index=count_before(others, trial),
        signs=np.array([-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in study.directions]),
        complete=[trial for trial in complete if np.isfinite(trial.values).all()],
        constrained=[other for other in others if other.state.is_finished() and other.constraints],
        running=[own for state, own in params if own and state == TrialState.RUNNING],
        tried=[own for _, own in params if own],
        fixed=trial.system_attrs.get("fixed_params", {}),
    )


def named_constraints(trial: FrozenTrial) -> dict[str, float]:
    """A trial's constraints; those without a name, which Optuna numbers, only where no other is."""
    every = trial.constraints
    return {name: value for name, value in every.items() if not name.isdecimal()} or every


def as_attribute(params: Params, distributions: Distributions) -> str:
    """Params as text for the attribute PROPOSAL."""
    return json.dumps({name: distributions[name].to_internal_repr(params[name]) for name in params})


def _as_foretold(trial: FrozenTrial) -> FrozenTrial:
    """A pruned trial of which values are foretold as if it had come to them."""
    if trial.state != TrialState.PRUNED or FORETOLD not in trial.user_attrs:
        return trial
    foretold = copy(trial)
    foretold.state, foretold.values = TrialState.COMPLETE, trial.user_attrs[FORETOLD]
    return foretold


def _params(trial: FrozenTrial, distributions: Distributions) -> Params:
    """The params of a trial; of one that is still asked for them, those that it will get."""
    if trial.state == TrialState.WAITING:
        return dict(trial.system_attrs.get("fixed_params", {})) | trial.params
    if trial.state == TrialState.RUNNING and PROPOSAL in trial.system_attrs:
        stored = json.loads(trial.system_attrs[PROPOSAL])
        known = {name: distributions[name] for name in stored if name in distributions}
        return {n: d.to_external_repr(stored[n]) for n, d in known.items()} | trial.params
    return trial.params


def describe_trials(
    catalogue: Catalogue, trials: Sequence[FrozenTrial]
) -> tuple[list[FrozenTrial], Batch]:
    """The trials of which all is known; the costs of the complete ones as they were told."""
    exact = list(catalogue.knowledge.exact)

    def told(trial: FrozenTrial) -> Sequence[float] | None:
        complete = trial.state == TrialState.COMPLETE
        return [trial.values[i] for i in exact] if complete else None

    found = _describe(catalogue, [trial.params for trial in trials], lambda i: told(trials[i]))
    return [trials[i] for i in found], as_batch(list(found.values()))


def describe_params(catalogue: Catalogue, many: Sequence[Params]) -> Batch:
    """Those of many params of which all is known."""
    return as_batch(list(_describe(catalogue, many, lambda _: None).values()))


def _describe(
    catalogue: Catalogue, many: Sequence[Params], told: Callable[[int], Sequence[float] | None]
) -> dict[int, Found]:
    found: dict[int, Found] = {}
    for i, row in enumerate(catalogue.space.rows(many)):
        entry = catalogue.entry(row)
        costs = told(i)
        features: Sequence[float] | None = None if catalogue.knowledge.features else ()
        if isinstance(entry, Entry):
            row = entry.row
            costs = entry.costs if costs is None else costs
            features = entry.features if features is None else features
        if costs is not None and features is not None:
            found[i] = (row, costs, features)
    return found
