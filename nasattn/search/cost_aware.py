"""CostAwareSampler: for studies in which all objectives but one are known without a trial."""

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nasattn.errors import StudyError
from nasattn.search.catalogue import Catalogue, Knowledge
from nasattn.search.encoding import Params, Space, learn_space, seen_distributions
from nasattn.search.history import (
    PROPOSAL,
    History,
    as_attribute,
    count_before,
    other_trials,
    read_history,
)
from nasattn.search.proposal import ExhaustedError, propose
from nasattn.search.values import Floats, from_unit


class CostAwareSampler(BaseSampler):
    """Proposes networks by expected hypervolume improvement, the cheap objectives exact.

        sampler = CostAwareSampler(exact={1: count_macs_of_params}, seed=0)
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)

    `exact` maps an objective's index to a function of the params that mean something, which gives
    its value without a trial, or None for a network that cannot be built or breaks a limit and is
    never proposed. The one objective that is left is learned (of several, the first; the others
    count as they are expected to come out; without `exact` it is plain expected improvement).
    `features` gives further numbers that tell of it: proxies, a predicted latency. They and
    `exact` may raise KeyError for a parameter that no trial had yet.

    `space` are the parameters where they are known beforehand, else those that trials had are
    taken; which of them mean something beside which values is learned, unless `meaningful` tells
    (see Knowledge, also of `prepare`). `identity` is equal for params of the same network, and None
    for those of one that is never to be proposed. A network that is in the study, in whatever
    state, is not proposed again; where none is left, `exhausted` is True and the proposal is any.

    The first `n_startup_trials`, queued ones among them, are unlike each other and spread over the
    range of the exact objectives; one later trial in twenty is a random network. Networks that
    still run count as if they came out as predicted; a pruned trial teaches by its user attribute
    `foretold`, the values that it would have had. Constraints (`trial.set_constraint`) are
    learned, and a proposal keeps them in all likelihood.

    A proposal depends on the seed, the trials before it and what is stored of them alone: a new
    sampler object goes on as the old one would have.
    """

    def __init__(
        self,
        exact: Mapping[int, Callable[[Params], float | None]] | None = None,
        seed: int = 0,
        n_startup_trials: int = 5,
        features: Callable[[Params], Sequence[float]] | None = None,
        *,
        space: Mapping[str, BaseDistribution] | None = None,
        meaningful: Callable[[Floats], Floats] | None = None,
        prepare: Callable[[Floats], object] | None = None,
        identity: Callable[[Params], Hashable] | None = None,
    ) -> None:
        self.seed, self.n_startup_trials = seed, n_startup_trials
        self.space = dict(space or {})
        self.knowledge = Knowledge(
            dict(exact or {}), features, identity or _same_params, meaningful, prepare
        )
        self.exhausted = False
        self._catalogue: Catalogue | None = None
        self._lock = threading.Lock()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The given space, or all parameters of the study's trials."""
        return self.space or seen_distributions(other_trials(study, trial))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A value for every parameter of the search space, also those that mean nothing."""
        if not search_space:
            return {}
        n, exact = len(study.directions), self.knowledge.exact
        if not exact.keys() < set(range(n)):
            raise StudyError(
                f"exact: names the objectives {sorted(exact)}; of a study with {n} it may name "
                f"some of {list(range(n))}, but not all"
            )
        with self._lock:  # the next thread sees what this one proposes
            return self._propose(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A random value, for a parameter that no trial had yet."""
        index = count_before(other_trials(study, trial), trial)
        rng = np.random.default_rng([self.seed, index, *param_name.encode()])
        value = from_unit(param_distribution, rng.random(1))[0]
        return param_distribution.to_external_repr(float(value))

    def _propose(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        history = read_history(study, trial, search_space)
        space = self._settle_space(search_space, history)
        if self._catalogue is None or self._catalogue.space != space:
            self._catalogue = Catalogue(space, self.knowledge)
        rest = space.draw(np.random.default_rng([self.seed, history.index, 1]), 1)[0]
        given = space.rows([history.fixed])
        whole = space.settle(np.where(np.isnan(given), rest, given))
        if not (np.isnan(given) & ~np.isnan(whole)).any():  # nothing is left to choose
            self.exhausted = False
            return {}
        try:
            row = propose(self._catalogue, history, self.seed, self.n_startup_trials)
            self.exhausted = False
        except ExhaustedError:
            row = space.settle(rest[None])[0]
            self.exhausted = True
        params = space.params(row)
        stored = as_attribute(params, search_space)
        study._storage.set_trial_system_attr(trial._trial_id, PROPOSAL, stored)
        return space.params(rest) | params  # a parameter may turn out to mean something

    def _settle_space(self, search_space: dict[str, BaseDistribution], history: History) -> Space:
        if self.knowledge.meaningful:
            return Space(search_space, {}, self.knowledge.meaningful)
        return learn_space(search_space, history.complete)


def _same_params(params: Params) -> Hashable:
    return tuple(sorted(params.items()))
