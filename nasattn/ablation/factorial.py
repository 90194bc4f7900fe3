"""What each part does in a factorial ablation: main effects, interactions, Shapley attribution.

Each effect is a contrast of one seed's arms, so the seeds pair themselves as in `statistics`: seeds
are blocks of the least squares, and the contrasts of a seed change sign together in max-T.
"""

from collections.abc import Collection
from dataclasses import dataclass
from math import factorial as permutations

import numpy as np

from nasattn.ablation.designs import Ints, Term, find_terms
from nasattn.ablation.flips import Floats, flip_test, max_t, seeds_needed
from nasattn.ablation.results import Levels, Values, check_values
from nasattn.ablation.statistics import ROUND, check_settings, student_interval
from nasattn.errors import AblationError

Interval = tuple[float | None, float | None]


@dataclass(frozen=True)
class Effect:
    """What changing a factor does to top-1, averaged over the other factors' levels.

    Of a pair: what changing both does beyond the sum of each, (both - one) - (other - neither).
    The interval is Student's t from the pooled least squares, uncorrected; None where the design
    leaves nothing to estimate the spread from.
    """

    term: str
    n: int  # seeds
    effect: float
    low: float | None
    high: float | None
    p: float | None  # exact sign flips of the seeds' contrasts; None where not testable
    p_adjusted: float | None  # max-T over all terms
    significant: bool
    verdict: str
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class Share:
    """A factor's Shapley value: its mean contribution over all orders of changing the factors."""

    factor: str
    effect: float  # these sum to: all factors changed - base
    low: float | None  # Student's t over seeds
    high: float | None


@dataclass(frozen=True)
class Factorial:
    """All that a two-level design says. `shapley` is empty for a fraction."""

    effects: tuple[Effect, ...]
    shapley: tuple[Share, ...]
    seeds: tuple[int, ...]
    dropped: tuple[int, ...]  # seeds that some arm lacks


def analyse_factorial(
    runs: Values,
    levels: Levels,
    base: str,
    *,
    alpha: float = 0.05,
    seed: int = 0,
) -> Factorial:
    """Effects of the factors by which the arms differ; level 0 of each is the base's.

    A seed counts where every arm has it. Raises AblationError for factors without two levels, arms
    of equal levels, a design that is not regular, and when no seed is complete.
    """
    check_values(runs, [(arm, base) for arm in runs if arm != base])
    check_settings(alpha)
    factors, rows = level_rows(runs, levels, base)
    terms = find_terms(rows, factors)
    every = sorted(set().union(*runs.values()))
    seeds = [s for s in every if all(s in by_seed for by_seed in runs.values())]
    if not seeds:
        raise AblationError("no seed was run in every arm; a factorial needs whole seeds")
    y = np.array([[by_seed[s] for by_seed in runs.values()] for s in seeds])  # (seeds, arms)
    return Factorial(
        effects=_effects(y, rows, terms, alpha, seed),
        shapley=_shapley(y, rows, factors, alpha),
        seeds=tuple(seeds),
        dropped=tuple(s for s in every if s not in seeds),
    )


def level_rows(arms: Collection[str], levels: Levels, base: str) -> tuple[tuple[str, ...], Ints]:
    """Factors, and 0 (the base's level) or 1 for every arm and factor: (arms, factors)."""
    missing = [arm for arm in arms if arm not in levels]
    if missing or not levels[base]:
        raise AblationError(f"arm {(missing or [base])[0]!r} has no factor levels")
    factors = tuple(levels[base])
    for factor in factors:
        found = sorted({levels[arm].get(factor, "") for arm in arms})
        if len(found) != 2:
            raise AblationError(
                f"factor {factor!r} has {len(found)} levels ({', '.join(found)}); needs two"
            )
    rows = [[int(levels[arm][f] != levels[base][f]) for f in factors] for arm in arms]
    seen: dict[tuple[int, ...], str] = {}
    for arm, row in zip(arms, rows, strict=True):
        twin = seen.setdefault(tuple(row), arm)
        if twin != arm:
            raise AblationError(f"arms {twin!r} and {arm!r} have the same levels; name them alike")
    return factors, np.array(rows)


def _effects(
    y: Floats, rows: Ints, terms: tuple[Term, ...], alpha: float, seed: int
) -> tuple[Effect, ...]:
    signs = np.stack([(2 * rows - 1)[:, t.word].prod(axis=1) for t in terms], axis=1)
    contrasts = np.round(y @ signs * 2 / len(rows), ROUND)  # (seeds, terms): high mean - low mean
    sizes = np.array([len(t.word) for t in terms], dtype=float)  # a pair's effect is twice that
    intervals = _least_squares(y, signs / (2 * sizes), alpha)
    n, needed = len(y), seeds_needed(alpha)
    testable = n >= needed
    adjusted = max_t(contrasts, seed) if testable else np.ones(len(terms))
    effects = []
    for i, (term, (low, high)) in enumerate(zip(terms, intervals, strict=True)):
        effect = float(contrasts[:, i].mean() * sizes[i])
        p = flip_test(contrasts[:, i], seed) if testable else None
        p_adjusted = max(float(adjusted[i]), p) if p is not None else None
        significant = p_adjusted is not None and p_adjusted <= alpha
        said = _verdict(term, effect, (low, high), significant)
        if not testable:
            said = f"not testable: {n} seed{'' if n == 1 else 's'}, {needed} are needed"
        row = Effect(
            term.name, n, effect, low, high, p, p_adjusted, significant, said, term.aliases
        )
        effects.append(row)
    return tuple(effects)


def _least_squares(y: Floats, columns: Floats, alpha: float) -> list[Interval]:
    """t interval of each column's coefficient, with a mean for each seed: y (seeds, arms)."""
    from statsmodels.regression.linear_model import OLS

    n, arms = y.shape
    blocks = np.kron(np.eye(n), np.ones((arms, 1)))  # (seeds * arms, seeds)
    design = np.hstack([np.tile(columns, (n, 1)), blocks])
    if len(design) == design.shape[1]:  # nothing left over to see the spread in
        return [(None, None)] * columns.shape[1]
    fit = OLS(y.reshape(-1), design).fit()
    if fit.mse_resid < 1e-24:  # runs that differ by their levels alone
        return [(None, None)] * columns.shape[1]
    return [(float(low), float(high)) for low, high in fit.conf_int(alpha)[: columns.shape[1]]]


def _shapley(y: Floats, rows: Ints, factors: tuple[str, ...], alpha: float) -> tuple[Share, ...]:
    if len(rows) < 2 ** len(factors):
        return ()
    by_seed = np.round(y @ shapley_weights(rows).T, ROUND)  # (seeds, factors)
    return tuple(
        Share(factor, float(values.mean()), *student_interval(values, alpha))
        for factor, values in zip(factors, by_seed.T, strict=True)
    )


def shapley_weights(rows: Ints) -> Floats:
    """Weight of each arm of a full design in each factor's Shapley value: (factors, arms).

    Source: Shapley 1953: |S|! (k - |S| - 1)! / k! for the step from S to S with the factor.
    """
    k = rows.shape[1]
    size = rows.sum(axis=1)  # changed factors of each arm
    weight = [permutations(s) * permutations(k - 1 - s) / permutations(k) for s in range(k)]
    to = np.array([0.0, *weight])[size]  # where the arm is S with the factor
    gone = np.array([*weight, 0.0])[size]  # where it is S
    weights: Floats = np.where(rows == 1, to[:, None], -gone[:, None]).T
    return weights


def _verdict(term: Term, effect: float, interval: Interval, significant: bool) -> str:
    low, high = interval
    between = "" if low is None or high is None else f" ({100 * low:+.2f} to {100 * high:+.2f})"
    if not significant:
        return f"undecided: {100 * effect:+.2f} points{between}"
    size = f"{abs(100 * effect):.2f} points"
    if len(term.word) == 1:
        return f"{'lowers' if effect < 0 else 'raises'} top-1 by {size}{between}"
    return f"together {'lower' if effect < 0 else 'raise'} top-1 by {size} beyond the sum{between}"
