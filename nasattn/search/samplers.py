"""SAMPLERS: what proposes the networks of a search."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from nasattn.objectives import Cost, Objective
from nasattn.search.candidates import Candidates

Proposer = Callable[[int], BaseSampler]  # the sampler for a trial, by its number


def cost_aware(seed: int, candidates: Candidates, objectives: Sequence[Objective]) -> Proposer:
    """Ours, with all that is known of the candidates; it remembers what it has looked at."""
    from nasattn.search.cost_aware import CostAwareSampler  # brings scipy

    dear = [row for row in objectives if row.cost != Cost.STATIC] or objectives[:1]
    exact = {i: candidates.value(row.name) for i, row in enumerate(objectives) if row not in dear}
    sampler = CostAwareSampler(
        exact,
        seed,
        features=candidates.foretold if candidates.n_foretold else None,
        space=candidates.distributions(),
        meaningful=candidates.settle,
        prepare=candidates.prepare,
        identity=candidates.arch_id,
    )
    return lambda number: sampler


def study_seed(seed: int, number: int) -> int:
    """The seed of a trial, by its number, in a study that has a seed."""
    return (seed * 1_000_003 + number) % 2**32


def optunas(make: Callable[[int], BaseSampler]) -> Callable[..., Proposer]:
    """One of Optuna's: a new one a trial, seeded by study and trial.

    So a proposal depends on the stored history alone, and a search that was killed goes on as if it
    had not been.
    """

    def for_study(seed: int, candidates: Candidates, objectives: Sequence[Objective]) -> Proposer:
        def for_trial(number: int) -> BaseSampler:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return make(study_seed(seed, number))

        return for_trial

    return for_study


def nni_evolution(seed: int, candidates: Candidates, objectives: Sequence[Objective]) -> Proposer:
    """NNI's; a new one a trial, as Optuna's are."""
    from nasattn.search.nni_evolution import NniEvolution

    return lambda number: NniEvolution(candidates, study_seed(seed, number))


def nni_strategies() -> Any:
    """NNI's module; raises StudyError where it is absent."""
    from nasattn.exchange.nni_library import load_nni

    return load_nni("nni.nas.strategy", "the sampler nni_evolution")


# By name: (seed, candidates, objectives) -> Proposer. TPE: multivariate, and `group` so that the
# parameters that exist only in some networks are modelled together too. NSGA-II: a population of
# 20, for 50 (the default) searches nothing in the first 50 trials.
SAMPLERS: dict[str, Callable[[int, Candidates, Sequence[Objective]], Proposer]] = {
    "cost_aware": cost_aware,
    "tpe": optunas(lambda seed: TPESampler(seed=seed, multivariate=True, group=True)),
    "nsga2": optunas(lambda seed: NSGAIISampler(seed=seed, population_size=20)),
    "nni_evolution": nni_evolution,
    "random": optunas(lambda seed: RandomSampler(seed=seed)),
}
# Those that look at the first objective alone.
FOLLOWS_FIRST = ("nni_evolution",)
# By sampler: what loads a library that may be absent, which it says as StudyError.
LIBRARIES: dict[str, Callable[[], object]] = {"nni_evolution": nni_strategies}


def check_sampler(name: str) -> None:
    """Whether a sampler's library is there; raises StudyError, before anything is written."""
    LIBRARIES.get(name, lambda: None)()
