"""Expected hypervolume improvement where all objectives but one are known.

At a budget (a limit on each known objective) only the networks within it count, and a candidate has
to beat the best of them, as in a search with one objective. Hypervolume is that improvement summed
over all budgets. So its expectation is a mean of expected improvements, each in closed form,
however many known objectives there are.
"""

import numpy as np
from scipy.special import ndtr

from nasattn.search.surrogate import Warp
from nasattn.search.values import Floats


def spread_budgets(low: Floats, high: Floats, n: int) -> Floats:
    """Points that fill the box between two corners evenly: (n, m); without objectives one point.

    Equal parts of one objective; of several, the additive recurrence of Roberts (2018), whose steps
    are the powers of 1 / g, with g the root of g^(m + 1) = g + 1.
    """
    m = len(low)
    if m == 0:
        return np.empty((1, 0))
    root = 2.0
    for _ in range(30):
        root = (1 + root) ** (1 / (m + 1))
    steps = root ** -np.arange(1.0, m + 1) if m > 1 else np.array([1 / n])
    return low + (high - low) * ((np.arange(n)[:, None] * steps + 0.5 * steps) % 1)


def best_within(budgets: Floats, costs: Floats, values: Floats, worst: float) -> Floats:
    """At each budget, the least value of the networks that keep it, at most `worst`: (budgets,)."""
    keeps = (costs <= budgets[:, None]).all(axis=2)  # (budgets, networks)
    least: Floats = np.where(keeps, values, worst).min(axis=1, initial=worst)
    return least


def expected_improvement(mean: Floats, sd: Floats, targets: Floats, warp: Warp) -> Floats:
    """E max(target - y, 0) where warp(y) is normal: (n,), (n,), (targets,) -> (n, targets).

    y is log-normal but for its place, so this is the price of a put option (Black and Scholes).
    """
    unit = warp.scale * warp.c
    above = (warp(targets) - mean[:, None]) / sd[:, None]
    strike = targets - warp.low + unit
    forward = unit * np.exp(mean / warp.c + 0.5 * (sd / warp.c) ** 2)
    shifted = above - sd[:, None] / warp.c
    return np.maximum(strike * ndtr(above) - forward[:, None] * ndtr(shifted), 0)


def expected_hypervolume(
    mean: Floats, sd: Floats, costs: Floats, budgets: Floats, targets: Floats, warp: Warp
) -> Floats:
    """Expected improvement of n candidates, as a mean over the budgets: (n,).

    `costs` is (n, m), `budgets` (budgets, m), `targets` the value to beat at each budget.
    """
    levels, level = np.unique(targets, return_inverse=True)
    keeps = (costs[:, None] <= budgets).all(axis=2).astype(float)  # (n, budgets)
    shares = keeps @ np.eye(len(levels))[level] / len(budgets)  # (n, levels)
    expected: Floats = (shares * expected_improvement(mean, sd, levels, warp)).sum(axis=1)
    return expected
