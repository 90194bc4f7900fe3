"""Before the runs: the smallest effect that a design can show, from the spread between seeds."""

import math
from functools import lru_cache

import numpy as np

from nasattn.ablation.flips import TIE, Floats, flip_scores, seeds_needed, sign_flips, studentise
from nasattn.ablation.statistics import check_settings
from nasattn.errors import AblationError

SIMULATED = 10_000  # ablations; the power is then known to 0.4 points
FLIPPED = 512  # at most so many flips of each: more cost time and change the answer little
MAX_SEEDS, MAX_ARMS = 100, 100
LARGEST = 64.0  # standard deviations; six seeds show 3
SCORES = 4_000_000  # at a time: flips * arms * ablations


def sd_of_difference(spread: float, rho: float = 0.0) -> float:
    """Standard deviation of arm - base where each spreads by `spread` over seeds: sqrt(2(1-rho)).

    `rho` is their correlation within a seed; 0 supposes that a shared seed makes nothing alike.
    """
    if not 0 < spread < 1:
        raise AblationError(f"spread {spread} must be a fraction above 0 and below 1")
    if not -1 <= rho < 1:
        raise AblationError(f"rho {rho} must be from -1 to below 1")
    return math.sqrt(2 * (1 - rho)) * spread


def detectable_effect(
    n_seeds: int,
    sd_diff: float,
    n_arms: int,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    correlation: float = 0.5,
    seed: int = 0,
) -> float | None:
    """Smallest effect that `compare` calls significant with probability `power`; in sd_diff's unit.

    By seeded simulation with normal differences, one of the `n_arms` having the effect, and erring
    on the large side by two standard errors. `correlation` is that between the arms' differences:
    0.5 where they share a base, 0 for a factorial's effects. None: no effect, however large, can
    be significant with so few seeds.
    """
    check_settings(alpha)
    if not 1 <= n_arms <= MAX_ARMS or not 1 <= n_seeds <= MAX_SEEDS or not sd_diff > 0:
        raise AblationError(
            f"{n_seeds} seeds, {n_arms} arms, sd {sd_diff}: must be 1 to {MAX_SEEDS},"
            f" 1 to {MAX_ARMS}, and above 0"
        )
    if not 0.01 <= power <= 0.99 or not 0 <= correlation < 1:
        raise AblationError(f"power {power} must be 0.01 to 0.99, correlation {correlation} 0 to 1")
    if n_seeds < seeds_needed(alpha):
        return None
    found = _detectable(n_seeds, n_arms, power, alpha, correlation, seed)
    return None if found is None else sd_diff * found


@lru_cache(maxsize=64)
def _detectable(
    n: int, n_arms: int, power: float, alpha: float, correlation: float, seed: int
) -> float | None:
    """The effect in standard deviations of a difference, by bisection on one set of ablations."""
    flips = _some_flips(n, alpha, seed)
    ablations = max(500, min(SIMULATED, 20_000_000 // (len(flips) * n_arms)))
    wanted = power + 2 * math.sqrt(power * (1 - power) / ablations)
    planted, rivals = _simulate(n, n_arms, correlation, ablations, flips, seed)
    low, high = 0.0, LARGEST
    if _power(high, planted, rivals, flips, alpha) < wanted:
        return None
    while high - low > 0.005:
        middle = (low + high) / 2
        enough = _power(middle, planted, rivals, flips, alpha) >= wanted
        low, high = (low, middle) if enough else (middle, high)
    return high


def _some_flips(n: int, alpha: float, seed: int) -> Floats:
    """All flips while they are few; else a sample, large enough for p to pass alpha with ease."""
    wanted = max(FLIPPED, math.ceil(20 / alpha))
    if 2 ** (n - 1) <= wanted:
        return sign_flips(n)
    flips = np.random.default_rng(seed).choice([-1.0, 1.0], size=(wanted, n))
    flips[0] = 1.0
    return flips


def _simulate(
    n: int, n_arms: int, correlation: float, ablations: int, flips: Floats, seed: int
) -> tuple[Floats, Floats]:
    """Noise of the arm with the effect (ablations, n), and the highest score of the other arms
    under each flip (ablations, F)."""
    rng = np.random.default_rng(seed)
    own = rng.standard_normal((ablations, n, n_arms)) * math.sqrt(1 - correlation)
    noise = own + rng.standard_normal((ablations, n, 1)) * math.sqrt(correlation)
    rivals = np.zeros((ablations, len(flips)))
    chunk = max(1, SCORES // (len(flips) * n_arms))
    for i in range(0, ablations if n_arms > 1 else 0, chunk):
        scores = flip_scores(noise[i : i + chunk, :, 1:], flips)  # (chunk, F, arms - 1)
        rivals[i : i + chunk] = scores.max(axis=-1)
    return noise[:, :, 0], rivals


def _power(effect: float, planted: Floats, rivals: Floats, flips: Floats, alpha: float) -> float:
    """Share of the ablations that find `effect`; single-step, so a step-down finds no fewer."""
    sums = np.abs(planted @ flips.T + effect * flips.sum(axis=1))  # (ablations, F)
    squares = ((planted + effect) ** 2).sum(axis=1, keepdims=True)
    scores = studentise(sums, squares, np.array([float(planted.shape[1])]))
    p = (np.maximum(scores, rivals) >= scores[:, :1] - TIE).mean(axis=1)
    return float((p <= alpha).mean())
