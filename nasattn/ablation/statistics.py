"""Arms against their base, by paired seeds: effect, interval, corrected p, verdict in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special, stats

from nasattn.ablation.flips import Floats, flip_test, max_t, seeds_needed
from nasattn.ablation.results import Values, check_values
from nasattn.errors import AblationError

Pair = tuple[str, str]  # arm, its base
Differences = Mapping[Pair, Mapping[int, float]]

ROUND = 12  # digits of a difference; what is smaller is the rounding of a subtraction


@dataclass(frozen=True)
class Comparison:
    """One arm against the base, over the n seeds that both have. All top-1 are fractions.

    `low` and `high` are Student's t interval of the effect, uncorrected; `bca_low` and `bca_high`
    Efron's BCa bootstrap, shown beside it because at six seeds it holds too seldom
    (docs/statistics.md). None: cannot be had, from one seed or from differences that are all equal.
    """

    arm: str
    n: int
    mean: float  # of the arm
    effect: float  # mean of arm - base, paired by seed
    low: float | None
    high: float | None
    p: float | None  # exact sign flips, uncorrected; None where not testable
    p_adjusted: float | None  # corrected for all testable arms by max-T
    significant: bool
    verdict: str
    testable: bool
    base: str
    sd: float | None  # of the arm over seeds
    sd_difference: float | None  # of arm - base
    bca_low: float | None
    bca_high: float | None
    effect_size: float | None  # Cohen's d_z with Hedges' correction
    margin: float | None
    p_equivalent: float | None  # 'no effect of `margin` or more', corrected by Holm
    equivalent: bool


def compare(
    runs: Values,
    base: str,
    *,
    alpha: float = 0.05,
    margin: float | None = None,
    n_boot: int = 9999,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Every arm with the base, in the order of `runs`; see `compare_pairs`."""
    if base in runs and len(runs) < 2:
        raise AblationError(f"there is no arm beside the base {base!r}")
    pairs = [(arm, base) for arm in runs if arm != base]
    return compare_pairs(runs, pairs, alpha=alpha, margin=margin, n_boot=n_boot, seed=seed)


def compare_pairs(
    runs: Values,
    pairs: Sequence[tuple[str, str]],
    *,
    alpha: float = 0.05,
    margin: float | None = None,
    n_boot: int = 9999,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Each (arm, its base) of `pairs`, all of them as one family.

    Significant: at least six seeds, and p corrected for the whole family at most `alpha`. `margin`
    is the smallest effect that would matter; with it an arm can be shown to have none so large.
    Raises AblationError for an unknown arm, a pair without a common seed or given twice, and values
    that are not from 0 to 1.
    """
    check_values(runs, pairs)
    check_settings(alpha, margin)
    needed = seeds_needed(alpha)
    differences = {(a, b): paired_differences(runs[a], runs[b]) for a, b in pairs}
    testable = {pair: d for pair, d in differences.items() if len(d) >= needed}
    corrected = _corrected(testable, seed)
    equivalence = _equivalence(testable, margin)
    rows = []
    for (arm, base), by_seed in differences.items():
        pair, d = (arm, base), np.array(list(by_seed.values()))
        values = np.array([runs[arm][s] for s in by_seed])
        low, high = student_interval(d, alpha)
        bca_low, bca_high = bca_interval(d, alpha, n_boot, seed)
        p = flip_test(d, seed) if pair in testable else None
        # A sampled set of flips may put the corrected p a hair below the plain one.
        p_adjusted = max(corrected[pair], p) if p is not None else None
        p_equivalent = equivalence.get(pair)
        row = Comparison(
            arm=arm,
            n=len(d),
            mean=float(values.mean()),
            effect=float(d.mean()),
            low=low,
            high=high,
            p=p,
            p_adjusted=p_adjusted,
            significant=p_adjusted is not None and p_adjusted <= alpha,
            verdict="",
            testable=pair in testable,
            base=base,
            sd=_sd(values),
            sd_difference=_sd(d),
            bca_low=bca_low,
            bca_high=bca_high,
            effect_size=hedges_d_z(d),
            margin=margin,
            p_equivalent=p_equivalent,
            equivalent=p_equivalent is not None and p_equivalent <= alpha,
        )
        rows.append(replace(row, verdict=verdict(row, needed)))
    return tuple(rows)


def check_settings(alpha: float, margin: float | None = None) -> None:
    """Refuse a level or a margin with which no test can be made."""
    if not 0.001 <= alpha <= 0.5:
        raise AblationError(f"alpha {alpha} must be from 0.001 to 0.5")
    if margin is not None and not 0 < margin < 1:
        raise AblationError(f"margin {margin} must be a fraction above 0 and below 1")


def paired_differences(arm: Mapping[int, float], base: Mapping[int, float]) -> dict[int, float]:
    """seed -> arm - base, for the seeds that both have, in rising order."""
    return {s: round(arm[s] - base[s], ROUND) for s in sorted(arm.keys() & base.keys())}


def student_interval(d: Floats, alpha: float) -> tuple[float | None, float | None]:
    """Student's t interval of a mean: (None, None) for one value or values that are all equal."""
    if _sd(d) in (None, 0):
        return None, None
    error = np.std(d, ddof=1) / math.sqrt(len(d))
    half = special.stdtrit(len(d) - 1, 1 - alpha / 2) * error
    return float(d.mean() - half), float(d.mean() + half)


def bca_interval(
    d: Floats, alpha: float, n_boot: int, seed: int
) -> tuple[float | None, float | None]:
    """Bias-corrected and accelerated bootstrap interval of a mean, from 3 values that differ.

    Source: Efron 1987, Better Bootstrap Confidence Intervals.
    """
    if len(d) < 3 or _sd(d) in (None, 0):
        return None, None
    done = stats.bootstrap(
        (np.sort(d),),  # sorted: the interval does not hang on the order of seeds
        np.mean,
        n_resamples=n_boot,
        confidence_level=1 - alpha,
        method="BCa",
        rng=np.random.default_rng(seed),
    )
    return float(done.confidence_interval.low), float(done.confidence_interval.high)


def hedges_d_z(d: Floats) -> float | None:
    """Mean difference in standard deviations of the differences, freed of its small-sample bias.

    Source: Hedges 1981, equation 6e: the factor Gamma(m/2) / (sqrt(m/2) Gamma((m-1)/2)), m = n - 1.
    """
    sd, m = _sd(d), len(d) - 1
    if not sd or m < 2:
        return None
    factor = math.exp(special.gammaln(m / 2) - special.gammaln((m - 1) / 2)) / math.sqrt(m / 2)
    return float(d.mean() / sd * factor)


def equivalence_p(d: Floats, margin: float) -> float:
    """p of 'the effect is as large as `margin`': two one-sided t-tests (Schuirmann 1987).

    1 for differences that are all equal: they show no spread to test with.
    """
    if _sd(d) in (None, 0):
        return 1.0
    t = (margin - abs(d.mean())) / np.std(d, ddof=1) * math.sqrt(len(d))  # of the nearer end
    return float(special.stdtr(len(d) - 1, -t))


def verdict(row: Comparison, needed: int) -> str:
    """What a comparison says, in a sentence; effects in points of top-1."""
    if not row.testable:
        return f"not testable: {row.n} seed{'' if row.n == 1 else 's'}, {needed} are needed"
    if row.significant:
        word = "lowers" if row.effect < 0 else "raises"
        small = f", less than {100 * row.margin:g}" if row.equivalent and row.margin else ""
        return f"{word} top-1 by {abs(100 * row.effect):.2f} points{_between(row)}{small}"
    if row.equivalent and row.margin:
        return f"no difference seen; an effect of {100 * row.margin:g} points or more is ruled out"
    return f"undecided: {100 * row.effect:+.2f} points{_between(row)}"


def untested(row: Comparison, *, significant: bool = False) -> Comparison:
    """The same without what tests say: where others decide, p and equivalence would mislead."""
    return replace(
        row,
        p=None,
        p_adjusted=None,
        p_equivalent=None,
        equivalent=False,
        significant=significant,
    )


def _between(row: Comparison) -> str:
    if row.low is None or row.high is None:
        return " in every seed"
    ends = [100 * row.low, 100 * row.high]
    if not row.significant:
        return f" ({ends[0]:+.2f} to {ends[1]:+.2f})"
    near, far = ends if row.effect > 0 else (-ends[1], -ends[0])
    return f" ({near:.2f} to {far:.2f})"


def _sd(values: Floats) -> float | None:
    if len(values) < 2:
        return None
    return 0.0 if np.ptp(values) == 0 else float(np.std(values, ddof=1))


def _corrected(differences: Differences, seed: int) -> dict[Pair, float]:
    """Pair -> p corrected by max-T; signs are flipped by seed, jointly over all pairs."""
    if not differences:
        return {}
    seeds = sorted(set().union(*differences.values()))
    table = np.array([[d.get(s, np.nan) for d in differences.values()] for s in seeds])
    return dict(zip(differences, max_t(table, seed).tolist(), strict=True))


def _equivalence(differences: Differences, margin: float | None) -> dict[Pair, float]:
    """Pair -> p of equivalence, corrected by Holm over the family; empty without a margin."""
    if margin is None:
        return {}
    p = [equivalence_p(np.array(list(d.values())), margin) for d in differences.values()]
    return dict(zip(differences, holm(p), strict=True))


def holm(p: Sequence[float]) -> list[float]:
    """p corrected by Holm 1979."""
    from statsmodels.stats.multitest import multipletests

    return [float(x) for x in multipletests(p, method="holm")[1]] if p else []


@dataclass(frozen=True)
class CostPerPoint:
    """What a point of top-1 costs where it is bought by what the arm lacks or adds.

    `per_point` is (arm's cost - base's) / (arm's top-1 - base's, in points); `low` and `high` are
    the same at the ends of the effect's interval. Below 0, the arm is better and cheaper, or worse
    and dearer.
    """

    arm: str
    cost: str  # params, macs, latency_ms, ...
    change: float  # arm - base
    per_point: float | None
    low: float | None
    high: float | None
    reason: str  # why there is none; else empty


def cost_per_point(
    comparison: Comparison, base: Mapping[str, float], arm: Mapping[str, float]
) -> tuple[CostPerPoint, ...]:
    """Each cost that both have, per point of top-1; none where the effect's interval covers 0."""
    reason, points = "", list[float]()
    if comparison.low is None or comparison.high is None:
        reason = "the effect has no interval"
    elif comparison.low <= 0 <= comparison.high:
        reason = "the effect's interval covers 0"
    else:
        points = [100 * x for x in (comparison.effect, comparison.low, comparison.high)]
    rows = []
    for name in (name for name in base if name in arm):
        change = arm[name] - base[name]
        ratios = [change / x for x in points]
        rows.append(
            CostPerPoint(
                arm=comparison.arm,
                cost=name,
                change=change,
                per_point=ratios[0] if ratios else None,
                low=min(ratios) if ratios else None,
                high=max(ratios) if ratios else None,
                reason=reason,
            )
        )
    return tuple(rows)
