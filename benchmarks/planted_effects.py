"""Simulated ablations with known effects: does the statistics keep what it promises?

    python -m benchmarks.planted_effects

Nothing is trained. A run's top-1 is 90 % plus its arm's effect plus noise of 0.21 points; each
arm has the same seeds as the base. Prints every figure with its promise; exits 1 if one is broken.
"""

import math
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy
import statsmodels

from nasattn.ablation.designs import fraction
from nasattn.ablation.factorial import analyse_factorial
from nasattn.ablation.flips import Floats, flip_scores, max_t, sign_flips
from nasattn.ablation.power import detectable_effect, sd_of_difference
from nasattn.ablation.sequential import SPENDING, Sequential
from nasattn.ablation.statistics import (
    bca_interval,
    compare,
    equivalence_p,
    student_interval,
)

ABLATIONS, PARTS, SPREAD, ALPHA, POWER = 2000, 6, 0.0021, 0.05, 0.8
PARTS_NAMES = tuple("ABCDEF")
NOISES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Floats]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "Student's t, 3 degrees": lambda rng, shape: rng.standard_t(3, shape) / math.sqrt(3),
    "exponential": lambda rng, shape: rng.exponential(size=shape) - 1,
}


@dataclass(frozen=True)
class Figure:
    """One measured figure and what was promised of it."""

    name: str
    value: float
    promise: str
    kept: bool
    unit: str = "%"


def main() -> int:
    """Print all figures; the number of broken promises."""
    start = time.perf_counter()
    print(
        f"python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__},"
        f" statsmodels {statsmodels.__version__}; {ABLATIONS} ablations a figure, {PARTS} parts,"
        f" spread {100 * SPREAD:.2f} points"
    )
    broken = 0
    for section in (false_alarms, power, equivalence, widths, coverage, looks):
        print(f"\n{section.__doc__}")
        for figure in section():
            broken += not figure.kept
            mark = "" if figure.kept else "   BROKEN"
            print(f"  {figure.name:58} {figure.value:7.2f} {figure.unit:6} {figure.promise}{mark}")
    print(f"\n{time.perf_counter() - start:.0f} s, {broken} promises broken")
    return broken


def differences(n: int, effects: tuple[float, ...], noise: str = "normal", seed: int = 0) -> Floats:
    """Arms minus their common base: (ablations, seeds, arms)."""
    rng = np.random.default_rng(seed)
    tops = SPREAD * NOISES[noise](rng, (ABLATIONS, n, len(effects) + 1))
    d: Floats = tops[:, :, 1:] - tops[:, :, :1] + np.array(effects)
    return d


def at_most(name: str, rate: float, limit: float) -> Figure:
    """A rate that may pass its limit by two standard errors of this simulation, not by more."""
    slack = 2 * math.sqrt(limit * (1 - limit) / ABLATIONS)
    return Figure(name, 100 * rate, f"<= {100 * limit:g}", bool(rate <= limit + slack))


def at_least(name: str, rate: float, limit: float) -> Figure:
    """A rate that may miss its limit by two standard errors of this simulation, not by more."""
    slack = 2 * math.sqrt(limit * (1 - limit) / ABLATIONS)
    return Figure(name, 100 * rate, f">= {100 * limit:g}", bool(rate >= limit - slack))


def told(name: str, value: float, unit: str = "%") -> Figure:
    """A figure of which nothing was promised."""
    return Figure(name, value, "", kept=True, unit=unit)


def false_alarms() -> Iterator[Figure]:
    """False alarms: ablations in which any part without an effect is called significant."""
    nothing, some = (0.0,) * PARTS, (-0.02, -0.01, -0.005, 0.0, 0.0, 0.0)
    for noise in NOISES:
        for n in (6, 8, 10):
            p = max_t(differences(n, nothing, noise))
            rate = (p <= ALPHA).any(axis=1).mean()
            yield at_most(f"max-T, {n} seeds, no effect anywhere, {noise}", rate, ALPHA)
    for n in (6, 10):
        p = max_t(differences(n, some))[:, 3:]
        yield at_most(
            f"max-T, {n} seeds, three of six parts without", (p <= ALPHA).any(axis=1).mean(), ALPHA
        )
    p = plain_p(differences(6, nothing))
    yield told("for comparison: 6 seeds, not corrected", 100 * (p <= ALPHA).any(axis=1).mean())


def plain_p(d: Floats) -> Floats:
    """Exact p of each arm alone: (..., seeds, arms) -> (..., arms)."""
    scores = flip_scores(d, sign_flips(d.shape[-2]))
    result: Floats = np.mean(scores >= scores[..., :1, :] - 1e-9, axis=-2)
    return result


def holm_rows(p: Floats) -> Floats:
    """Holm's correction of each row: (ablations, arms), at once where statsmodels takes one."""
    order = np.argsort(p, axis=1)
    steps = np.take_along_axis(p, order, axis=1) * np.arange(p.shape[1], 0, -1)
    result = np.empty_like(p)
    np.put_along_axis(result, order, np.maximum.accumulate(steps, axis=1), axis=1)
    return result


def power() -> Iterator[Figure]:
    """Power: share of the planted effects that are found, each as large as the plan says."""
    for n in (6, 8, 10, 12):
        effect = detectable_effect(n, sd_of_difference(SPREAD), PARTS, power=POWER)
        assert effect is not None
        yield told(f"{n} seeds: smallest detectable effect", 100 * effect, "points")
        for carriers in (1, 3, 6):
            effects = (-effect,) * carriers + (0.0,) * (PARTS - carriers)
            d = differences(n, effects, seed=1)
            found = (max_t(d)[:, :carriers] <= ALPHA).mean()
            yield at_least(f"{n} seeds: found, {carriers} of {PARTS} parts have it", found, POWER)
        if n == 6:
            found = (holm_rows(plain_p(d)) <= ALPHA).mean()
            yield told("for comparison: 6 seeds, Holm, 6 of 6 parts", 100 * found)
    yield told("whole road: as `compare` says it, 8 seeds, 1 part", 100 * through_compare())


def through_compare() -> float:
    """The same by `compare` itself, on 200 of the ablations."""
    effect = detectable_effect(8, sd_of_difference(SPREAD), PARTS, power=POWER) or 0.0
    found = 0
    for table in differences(8, (-effect, *(0.0,) * (PARTS - 1)), seed=1)[:200]:
        runs = {str(i): dict(enumerate((0.9 + arm).tolist())) for i, arm in enumerate(table.T)}
        runs["base"] = dict.fromkeys(range(8), 0.9)
        found += compare(runs, "base", n_boot=99)[0].significant
    return found / 200


def equivalence() -> Iterator[Figure]:
    """Equivalence: 'an effect of m points or more is ruled out', m = 0.5, corrected by Holm."""
    margin = 0.005
    for n in (6, 8, 10):
        for name, effect, figure in (
            ("wrongly said of any of six effects of 0.5", margin, at_most),
            ("said of a part without an effect", 0.0, None),
        ):
            d = differences(n, (effect,) * PARTS, seed=2)
            p = np.array([[equivalence_p(x, margin) for x in table.T] for table in d])
            said = holm_rows(p) <= ALPHA
            if figure:
                yield figure(f"{n} seeds: {name}", said.any(axis=1).mean(), ALPHA)
            else:
                yield told(f"{n} seeds: {name}", 100 * said.mean())


def widths() -> Iterator[Figure]:
    """Factorial: the 16-run fraction of six parts against one part at a time, equal width."""
    design = fraction(PARTS_NAMES, 16)
    truth = np.array([-0.01, -0.005, 0.0, 0.002, 0.0, 0.0])
    names = [str(i) for i in range(16)]
    levels = {
        name: dict(zip(PARTS_NAMES, map(str, row), strict=True))
        for name, row in zip(names, design.rows, strict=True)
    }
    base = names[design.rows.index((0,) * PARTS)]
    rng = np.random.default_rng(3)
    sizes, held, alarms = [], [], []
    for _ in range(ABLATIONS):
        shift = 0.003 * rng.standard_normal(6)  # seeds differ; the blocks take it out
        means = 0.9 + np.array(design.rows) @ truth
        tops = means[:, None] + shift + SPREAD * rng.standard_normal((16, 6))
        runs = {name: dict(enumerate(row.tolist())) for name, row in zip(names, tops, strict=True)}
        effects = analyse_factorial(runs, levels, base).effects
        for effect, true in zip(effects[:PARTS], truth, strict=True):
            assert effect.low is not None
            assert effect.high is not None
            sizes.append(effect.high - effect.low)
            held.append(effect.low <= true <= effect.high)
        nulls = [e for e, true in zip(effects, [*truth, *[0.0] * 15], strict=False) if not true]
        alarms.append(any(e.significant for e in nulls))
    width = float(np.mean(sizes))
    n = next(n for n in range(6, 200) if mean_width(n) <= width)
    yield told("16 arms x 6 seeds: mean width of a main effect's interval", 100 * width, "points")
    yield told("16 arms x 6 seeds: runs", 96, "runs")
    yield told(f"one at a time, same width ({n} seeds): runs", (PARTS + 1) * n, "runs")
    share = 96 / ((PARTS + 1) * n)
    yield Figure("runs of the factorial to those", 100 * share, "<= 50", share <= 0.5)
    yield at_least("main effects' intervals that hold the truth", float(np.mean(held)), 0.95)
    yield at_most("false alarms among all terms without effect", float(np.mean(alarms)), ALPHA)


def mean_width(n: int) -> float:
    """Mean width of Student's interval of one arm at n seeds."""
    d = differences(n, (0.0,), seed=4)[:, :, 0]
    return float(np.mean([high - low for low, high in (ends(x) for x in d)]))


def ends(d: Floats) -> tuple[float, float]:
    """Student's interval of differences that are known to spread."""
    low, high = student_interval(d, ALPHA)
    assert low is not None
    assert high is not None
    return low, high


def coverage() -> Iterator[Figure]:
    """Intervals: share that holds the true effect, 95 % wanted."""
    for noise in ("normal", "Student's t, 3 degrees"):
        for n in (6, 8, 12, 20):
            samples = differences(n, (0.0,), noise, seed=5)[:, :, 0]
            student = np.mean([low <= 0 <= high for low, high in map(ends, samples)])
            bca = [bca_interval(d, ALPHA, 1999, 0) for d in samples]
            held = np.mean([low is not None and low <= 0 <= (high or 0) for low, high in bca])
            name = f"{n} seeds, {noise}"
            yield at_least(f"Student's t, {name}", float(student), 0.95)
            yield told(f"BCa, {name}", 100 * float(held))


def looks() -> Iterator[Figure]:
    """Looks at 6, 8, 10 and 12 seeds: false alarms, what is found, what it costs."""
    steps = (6, 8, 10, 12)
    pairs = tuple((f"part {i}", "base") for i in range(PARTS))
    effect = detectable_effect(12, sd_of_difference(SPREAD), PARTS, power=POWER) or 0.0
    for spending in SPENDING:
        plan = Sequential(steps, pairs, alpha=ALPHA, spending=spending)
        for noise in NOISES:
            alarms, _ = follow(plan, differences(12, (0.0,) * PARTS, noise, seed=6))
            yield at_most(f"{spending}: false alarms, {noise}", alarms.any(axis=1).mean(), ALPHA)
        _, seeds = follow(plan, differences(12, (0.0,) * PARTS, seed=6))
        yield told(f"{spending}: seeds for a part without effect", float(seeds.mean()), "seeds")
        for factor in (1, 2):
            size = 100 * factor * effect
            d = differences(12, (-factor * effect, *(0.0,) * (PARTS - 1)), seed=7)
            found, seeds = follow(plan, d)
            yield told(f"{spending}: found, {size:.2f} points", 100 * found[:, 0].mean())
            yield told(f"{spending}: seeds, {size:.2f} points", seeds[:, 0].mean(), "seeds")


def follow(plan: Sequential, d: Floats) -> tuple[Floats, Floats]:
    """Whether each arm was stopped for an effect, and after how many seeds: (ablations, arms)."""
    found, seeds = np.zeros((len(d), d.shape[2])), np.zeros((len(d), d.shape[2]))
    for i, j in np.ndindex(found.shape):
        decision, seeds[i, j] = plan.follow(d[i, :, j])
        found[i, j] = decision == "stop: effect"
    return found, seeds


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
