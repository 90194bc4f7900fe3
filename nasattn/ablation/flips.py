"""Sign flips by seed: the exact paired permutation test, and max-T over a family of arms.

Where an arm does nothing, its difference from the base is as likely to be x as -x. So the signs
of all seeds are flipped in every way, and p is the share of flips that look at least as extreme as
what was seen. Arms are flipped together, seed by seed, so that they stay correlated as they are:
all of them share the base.

Source: Westfall and Young 1993, Resampling-Based Multiple Testing, algorithm 4.1 (step-down max-T).
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

SEEDS_NEEDED = 6  # with fewer, nothing is called significant
EXACT_UP_TO = 16  # seeds; beyond, a seeded sample of the flips
SAMPLED = 100_000
TIE = 1e-9  # scores nearer than this are equal; differences are rounded to 1e-12 before


def seeds_needed(alpha: float) -> int:
    """The fewest seeds at which p can pass `alpha`: its floor is 2/2^n; never below six."""
    return max(SEEDS_NEEDED, math.ceil(math.log2(2 / alpha) - 1e-12))


@lru_cache(maxsize=8)
def sign_flips(n: int, seed: int = 0) -> Floats:
    """Signs (F, n), the unflipped row first: one of each pair f, -f up to 16 seeds, else a sample.

    All our scores are two-sided, so f and -f score alike and one of them stands for both.
    """
    if n <= EXACT_UP_TO:
        codes = np.arange(2 ** (n - 1))[:, None] >> np.arange(n)  # the last seed is never flipped
        flips = 1 - 2 * (codes & 1).astype(np.float64)  # (2^(n-1), n)
    else:
        rng = np.random.default_rng(seed)
        flips = rng.choice(np.array([-1.0, 1.0]), size=(SAMPLED + 1, n))
        flips[0] = 1.0
    flips.setflags(write=False)
    return flips


def studentise(sums: Floats, squares: Floats, n: Floats) -> Floats:
    """|t| of each arm from |sum| and sum of squares of its differences, on a scale from 0 to 1.

    With as many seeds in each arm it is r = |t| / sqrt(t^2 + n - 1), which divides by no spread of
    nothing; else it is 1 - p of Student's t, in which arms of other n can be compared.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        r: Floats = np.where(squares > 0, sums / np.sqrt(n * squares), 0.0).clip(0, 1)
        if (n == n.flat[0]).all():
            return r
        t = np.sqrt(n - 1) * r / np.sqrt(1 - r**2)
    result: Floats = 1 - 2 * special.stdtr(n - 1, -t)
    return result


def flip_scores(differences: Floats, flips: Floats) -> Floats:
    """Score of every arm under every flip: (..., seeds, arms), (F, seeds) -> (..., F, arms).

    NaN marks a seed that an arm lacks: it has no part in that arm's score.
    """
    present = ~np.isnan(differences)
    d = np.where(present, differences, 0.0)
    sums = np.abs(flips @ d)  # (..., F, arms)
    squares = (d**2).sum(axis=-2, keepdims=True)  # (..., 1, arms)
    return studentise(sums, squares, present.sum(axis=-2, keepdims=True, dtype=float))


def flip_test(differences: Floats, seed: int = 0) -> float:
    """Two-sided p of one arm's paired differences (seeds,); at least 2/2^n."""
    scores = flip_scores(differences[:, None], sign_flips(len(differences), seed))[:, 0]
    return float(np.mean(scores >= scores[0] - TIE))


def max_t(differences: Floats, seed: int = 0) -> Floats:
    """p of each arm, corrected for all arms by step-down max-T: (..., seeds, arms) -> (..., arms).

    The family-wise rate of false alarms is held at any level, whichever of the arms have an effect.
    Differences that an arm lacks are NaN: each arm is judged by all seeds that it has.
    """
    return step_down(flip_scores(differences, sign_flips(differences.shape[-2], seed)))


def step_down(scores: Floats) -> Floats:
    """Corrected p from scores (..., F, arms) whose first flip is the identity: -> (..., arms)."""
    seen = scores[..., 0, :]  # (..., arms)
    order = np.argsort(-seen, axis=-1, kind="stable")
    sorted_scores = np.take_along_axis(scores, order[..., None, :], axis=-1)
    seen = np.take_along_axis(seen, order, axis=-1)
    # An arm competes with itself and with those below it: the running maximum from the last.
    rivals = np.maximum.accumulate(sorted_scores[..., ::-1], axis=-1)[..., ::-1]  # (..., F, arms)
    p = np.mean(rivals >= seen[..., None, :] - TIE, axis=-2)  # (..., arms)
    p = np.maximum.accumulate(p, axis=-1)
    result: Floats = np.empty_like(p)
    np.put_along_axis(result, order, p, axis=-1)
    return result
