"""Points of several objectives: which beat which, and how much they take up."""

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from nasattn.objectives import Objective

Floats = NDArray[np.float64]

REFERENCE = 1.1  # the reference point, in each objective scaled to 0..1


def minimised(values: Sequence[Sequence[float]], objectives: Sequence[Objective]) -> Floats:
    """Values (n, objectives) with the sign under which smaller is better."""
    return np.array(values, dtype=float) * [row.sign for row in objectives]


def ranks(points: Floats) -> NDArray[np.int_]:
    """0 for points that none beats, 1 for those beaten by them alone ...: (n, m) -> (n,)."""
    found: NDArray[np.int_] = moocore.pareto_rank(_wide(points))
    return found


def contributions(points: Floats, rank: NDArray[np.int_]) -> Floats:
    """How much hypervolume each point adds to the others of its rank: (n, m), (n,) -> (n,)."""
    unit = scaled(points, points.min(axis=0), points.max(axis=0))
    found = np.zeros(len(points))
    for one in np.unique(rank):
        own = rank == one
        found[own] = moocore.hv_contributions(_wide(unit[own]), ref=_reference(unit))
    return found


def hypervolume(points: Floats, low: Floats, high: Floats) -> float:
    """Of points (n, m), each objective scaled so that low is 0 and high is 1."""
    unit = scaled(points, low, high)
    return float(moocore.hypervolume(_wide(unit), ref=_reference(unit)))


def scaled(points: Floats, low: Floats, high: Floats) -> Floats:
    """Points with low at 0 and high at 1; an objective without a range at 0."""
    unit: Floats = (points - low) / np.where(high > low, high - low, 1.0)
    return unit


def _wide(points: Floats) -> Floats:
    """Points with a last column of zeros: moocore wants two objectives or more."""
    return np.column_stack([points, np.zeros(len(points))])


def _reference(points: Floats) -> list[float]:
    return [REFERENCE] * points.shape[1] + [1.0]
