"""SAMPLERS: which of Optuna's samplers proposes networks."""

import warnings
from collections.abc import Callable

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

# TPE: multivariate, and `group` so that the parameters that exist only in some networks are
# modelled together too. NSGA-II: a population of 20, for 50 (the default) searches nothing in the
# first 50 trials.
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True, group=True),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=20),
    "random": lambda seed: RandomSampler(seed=seed),
}


def make_sampler(name: str, seed: int, number: int) -> BaseSampler:
    """The sampler for trial `number` of a study.

    A new one a trial, seeded by study and trial: a proposal depends on the stored history alone,
    so that a search that was killed goes on as if it had not been.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return SAMPLERS[name]((seed * 1_000_003 + number) % 2**32)
