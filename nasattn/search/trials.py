"""A search's trials as Optuna stores them: what they were, and which of them count."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from nasattn.arch import Architecture, parse_architecture
from nasattn.evaluate import Evaluation, State
from nasattn.search.artifacts import attach, curve_csv
from nasattn.search.history import GIVEN_UP
from nasattn.search.quick import QuickStorage

# Attributes of a trial.
UNSEEN = "unseen"  # numbers of trials whose results were not waited for when it was proposed
PLACE = "place"  # HOST:PID where it is, or was, evaluated; "" once the user interrupted it
SINCE = "since"  # when that began, ISO 8601 in UTC
EPOCH = "epoch"  # the last one of this attempt that came to its end
ATTEMPTS = "attempts"  # those that were lost: reason, place, seconds
ENDED = "ended"  # its evaluation is there, to be told when its turn comes
# Those that say how a trial was run, and nothing of what it found.
RUNNING = (PLACE, SINCE, EPOCH, ATTEMPTS, ENDED, "seconds", "estimate_seconds")

CURVE_DIGITS = 5  # to which a stored learning curve is rounded

TRIAL_STATES: dict[State, TrialState] = {
    "complete": TrialState.COMPLETE,
    "infeasible": TrialState.PRUNED,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


def is_new(trial: FrozenTrial) -> bool:
    """Whether a trial is finished and the first one of its network."""
    return trial.state.is_finished() and not {"duplicate_of", GIVEN_UP} & trial.user_attrs.keys()


def finished_networks(study: optuna.Study) -> list[FrozenTrial]:
    """The first trial of each network that was trained to the end and keeps to the limits."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [t for t in trials if is_new(t) and all(v <= 0 for v in t.constraints.values())]


def network_of(trial: FrozenTrial) -> Architecture:
    """The network of a trial, as it was trained."""
    return parse_architecture(json.loads(trial.user_attrs["architecture"]))


def state_of(trial: FrozenTrial) -> State:
    """How a finished trial's evaluation ended; Optuna has one state for two of ours."""
    if trial.state == TrialState.PRUNED:
        return "stopped" if "stopped_after" in trial.user_attrs else "infeasible"
    return "complete" if trial.state == TrialState.COMPLETE else "failed"


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of the budget: its network was trained, or stopped, or failed."""
    return is_new(trial) and state_of(trial) != "infeasible"


def write_facts(trial: Trial, evaluation: Evaluation, facts: dict[str, Any]) -> None:
    """Write an Evaluation, and what is known beside it, into a trial's user attributes."""
    set_attributes(trial, facts | _attributes(evaluation))


def set_attributes(trial: Trial, attributes: Mapping[str, Any]) -> None:
    """Write user attributes, in one transaction where the storage is a database."""
    storage = getattr(trial.storage, "_backend", trial.storage)
    if isinstance(storage, QuickStorage):
        storage.set_trial_user_attrs(trial._trial_id, attributes)
        trial._cached_frozen_trial.user_attrs.update(attributes)
        return
    for name, value in attributes.items():
        trial.set_user_attr(name, value)


def read_evaluation(attributes: Mapping[str, Any], ended: Mapping[str, Any]) -> Evaluation:
    """An Evaluation that was written and not told, as far as telling needs it."""
    return Evaluation(
        ended["state"], attributes["values"], ended["violations"], attributes["reason"]
    )


def write_artifacts(trial: Trial, arch: Architecture, evaluation: Evaluation, folder: Path) -> None:
    """Keep a trial's architecture.json, curve.csv and pictures beside the storage."""
    files: dict[str, str | bytes] = {"architecture.json": arch.to_json() + "\n"}
    files |= evaluation.pictures
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
        "curve": [[round(x, CURVE_DIGITS) for x in (e.loss, e.top1)] for e in evaluation.curve],
        "latency": {name: asdict(latency) for name, latency in evaluation.latencies.items()},
        **_estimates(evaluation),
        **({"stopped_after": len(evaluation.curve)} if evaluation.state == "stopped" else {}),
        **({"static": asdict(static)} if static and odd else {}),
    }


def _estimates(evaluation: Evaluation) -> dict[str, Any]:
    """Estimates and the processor time each took, where any was asked for."""
    asked = evaluation.estimates or evaluation.estimate_seconds
    names = ("estimates", "estimate_seconds") if asked else ()
    return {name: dict(getattr(evaluation, name)) for name in names}
