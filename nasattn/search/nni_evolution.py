"""NniEvolution: regularized evolution as NNI 3.0 has it, a proposal at a time."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nasattn.exchange.nni_choices import as_mutable, as_params, as_sample
from nasattn.exchange.nni_library import nni_part
from nasattn.search.candidates import Candidates
from nasattn.search.history import FORETOLD, other_trials
from nasattn.space import Params

WHAT = "the sampler nni_evolution"
POPULATION = 20  # NNI's 100, and tournaments of 25, are for searches of thousands
TOURNAMENT = 5


class NniEvolution(BaseSampler):
    """Mutates the best of five out of the last twenty networks; the first twenty are random.

    It follows one objective, the first of the study. Networks that were found to break a limit are
    the worst there are; failed ones, and those that broke one before they were trained, are no part
    of the population. What may not be tried, or is in the study already, is drawn again; where NNI
    gives up on that, `exhausted` is True.

    NNI's strategy object is made anew for each proposal, of the study's trials and `seed`: what it
    proposes depends on them alone. Parameters that meant nothing in a parent are drawn at random.
    Source: Real et al., AAAI 2019; `nni.nas.strategy.RegularizedEvolution`, without its engine.
    """

    def __init__(self, candidates: Candidates, seed: int) -> None:
        self.candidates, self.seed = candidates, seed
        self.space, self.distributions = candidates.space, candidates.distributions()
        self.exhausted = False

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All parameters of the space; none for a network that was queued."""
        return {} if "fixed_params" in trial.system_attrs else self.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A value for every parameter, also those that mean nothing."""
        if not search_space:
            return {}
        others = other_trials(study, trial)
        tried = {other.user_attrs.get("arch_id") for other in others}
        mutable = as_mutable(self.space, lambda params: self._refuse(params, tried), WHAT)
        population = _population(study, others)
        n_open = sum(other.state == TrialState.RUNNING for other in others)
        rng = np.random.RandomState([self.seed, 1])  # not what NNI draws from
        with nni_part("nni.nas.strategy.evolution", WHAT) as evolution:
            strategy = evolution.RegularizedEvolution(
                population_size=POPULATION,
                sample_size=TOURNAMENT,
                mutation_prob=1 / len(self.space.free),  # one of them, on average
                dedup=False,
                seed=self.seed,
            )
            strategy._model_space = mutable  # `initialize` would want an engine that trains
            individuals = [
                evolution.Individual(self._whole(mutable, params, rng), value)
                for params, value in population[-POPULATION:]
            ]
            strategy.load_state_dict(strategy.state_dict() | {"population": individuals})
            start = len(population) + n_open < POPULATION or not population
            draw = strategy.random if start else strategy.new_individual
            retry = strategy._retry_helper.retry
            found = retry(draw) or retry(strategy.random)
            self.exhausted = found is None
            if found is None:
                found = self._whole(mutable, {}, rng)
        return as_params(self.space, found)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A random value, for what a queued network does not say."""
        mutable = as_mutable(self.space, lambda params: None, WHAT)
        sample = self._whole(mutable, {}, np.random.RandomState(self.seed))
        return as_params(self.space, sample)[param_name]

    def _refuse(self, params: Params, tried: set[Hashable]) -> str | None:
        arch_id = self.candidates.arch_id(params)
        if arch_id is None:
            return "cannot be built, or breaks a limit"
        return "is in the study" if arch_id in tried else None

    def _whole(self, mutable: Any, params: Params, rng: np.random.RandomState) -> Params:
        """A sample for all parameters: those of params, and random ones."""
        free = [p.name for p in self.space.free]
        drawn = {name: mutable[name].random(random_state=rng) for name in free}
        return drawn | as_sample(self.space, params)


def _population(study: Study, trials: list[FrozenTrial]) -> list[tuple[Params, float]]:
    """Params and fitness, the higher the better, of what was told, in its order."""
    sign = 1.0 if study.directions[0] == StudyDirection.MAXIMIZE else -1.0
    found = []
    for trial in trials:
        if "duplicate_of" in trial.user_attrs or not trial.state.is_finished():
            continue
        foretold = trial.user_attrs.get(FORETOLD)
        values = trial.values if trial.state == TrialState.COMPLETE else foretold
        if values:
            kept = all(violation <= 0 for violation in trial.constraints.values())
            found.append((trial.params, sign * values[0] if kept else -np.inf))
    return found
