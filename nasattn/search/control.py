"""What a search is measured by: random search of the same budget, and plain size."""

import json
from dataclasses import dataclass

import numpy as np
import optuna
from scipy.stats import kendalltau

from nasattn.objectives import Objective
from nasattn.search.fronts import hypervolume, minimised
from nasattn.search.spec import StudySpec
from nasattn.search.trials import counts, finished_networks, is_new
from nasattn.spec import differences

SUFFIX = "-control"
SHARED = ("environment", "reference_ms", "n_val", "n_select", "n_classes")
MIN_RANKED = 6  # networks, below which a rank correlation says nothing


def control_of(spec: StudySpec) -> StudySpec:
    """The search by random draws that stands beside a search; its name ends in -control."""
    name = f"{spec.study_name}{SUFFIX}"
    return spec.model_copy(update={"name": name, "sampler": "random", "n_seeds": 0})


def share_start(study: optuna.Study, control: optuna.Study) -> None:
    """Give a control what it has in common with its search: where it ran, and the baselines."""
    for name in SHARED:
        if name in study.user_attrs and name not in control.user_attrs:
            control.set_user_attr(name, study.user_attrs[name])
    present = {t.user_attrs.get("baseline") for t in control.get_trials(deepcopy=False)}
    for trial in study.get_trials(deepcopy=False):
        baseline = trial.user_attrs.get("baseline")
        if is_new(trial) and baseline and baseline not in present:
            control.add_trial(trial)


@dataclass(frozen=True)
class Control:
    """Hypervolumes of two searches, objectives scaled to 0..1 over the networks of both."""

    search: float
    random: float
    n_search: int  # trials of the budget that were spent
    n_random: int

    @property
    def is_fair(self) -> bool:
        """Whether both have spent the same."""
        return self.n_search == self.n_random


def read_control(study: optuna.Study, objectives: tuple[Objective, ...]) -> Control | None:
    """What random search reached beside a search; None where there was none.

    A study of that name with other settings is another search, and no control.
    """
    try:
        name = f"{study.study_name}{SUFFIX}"
        control = optuna.load_study(study_name=name, storage=study._storage)
    except KeyError:
        return None
    settings = [one.user_attrs.get("settings", {}) for one in (study, control)]
    changed = {path for path, *_ in differences(*settings)}
    if changed - {"sampler"} or settings[1].get("sampler") != "random":
        return None
    found = [finished_networks(one) for one in (study, control)]
    if not all(found):
        return None
    own, random = (minimised([t.values for t in trials], objectives) for trials in found)
    every = np.vstack([own, random])
    low, high = every.min(axis=0), every.max(axis=0)
    spent = (sum(map(counts, one.get_trials(deepcopy=False))) for one in (study, control))
    return Control(hypervolume(own, low, high), hypervolume(random, low, high), *spent)


def rank_by_size(study: optuna.Study) -> dict[str, float]:
    """Kendall's tau between top1 and parameters, multiply-adds, depth: {size: -1 to 1}.

    Of the networks that were trained to the end; those that are not found for all, or are equal
    for all, are left out.
    """
    trials = [t for t in finished_networks(study) if "top1" in t.user_attrs.get("values", {})]
    if len(trials) < MIN_RANKED:
        return {}
    top1 = [trial.user_attrs["values"]["top1"] for trial in trials]
    sizes = {
        name: [trial.user_attrs["values"].get(name, np.nan) for trial in trials]
        for name in ("params", "macs")
    }
    sizes["depth"] = [_depth(trial.user_attrs["architecture"]) for trial in trials]
    found = {name: float(kendalltau(size, top1).statistic) for name, size in sizes.items()}
    return {name: tau for name, tau in found.items() if np.isfinite(tau)}


def _depth(architecture: str) -> int:
    """Blocks of a network, out of its JSON: to make all of a long search takes seconds."""
    return sum(stage["depth"] for stage in json.loads(architecture)["stages"])
