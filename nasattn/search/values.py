"""The values that Optuna's distributions hold, as arrays of its internal numbers."""

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Floats = NDArray[np.float64]


def contains(distribution: BaseDistribution, value: object) -> bool:
    """Whether a value can be written as a number of this distribution (in its range or not)."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return isinstance(value, int | float)


def is_continuous(distribution: BaseDistribution) -> bool:
    return isinstance(distribution, FloatDistribution) and distribution.step is None


def count_values(distribution: BaseDistribution) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    d = _numeric(distribution)
    return float("inf") if d.step is None else round((d.high - d.low) / d.step) + 1


def all_values(distribution: BaseDistribution) -> Floats:
    """All values of a distribution that has finitely many."""
    n = int(count_values(distribution))
    return np.unique(from_unit(distribution, (np.arange(4 * n) + 0.5) / (4 * n)))


def from_unit(distribution: BaseDistribution, unit: Floats) -> Floats:
    """Numbers from 0 to 1 -> values, those of a grid equally often (by ratio where it is log)."""
    if isinstance(distribution, CategoricalDistribution):
        return np.floor(unit * len(distribution.choices))
    d = _numeric(distribution)
    half = 0.0 if d.step is None else d.step / 2
    low, high = _scale(d, np.array([d.low - half, d.high + half]))
    values = low + (high - low) * unit
    values = np.exp(values) if d.log else values
    if d.step is not None:
        values = d.low + d.step * np.round((values - d.low) / d.step)
    clipped: Floats = np.clip(values, d.low, d.high)
    return clipped


def to_unit(distribution: BaseDistribution, values: Floats) -> Floats:
    """Numeric values -> 0 to 1, by ratio where the distribution is logarithmic."""
    d = _numeric(distribution)
    low, high = _scale(d, np.array([d.low, d.high], dtype=float))
    unit: Floats = (_scale(d, np.clip(values, d.low, d.high)) - low) / ((high - low) or 1.0)
    return unit


def _numeric(distribution: BaseDistribution) -> IntDistribution | FloatDistribution:
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return distribution


def _scale(d: IntDistribution | FloatDistribution, values: Floats) -> Floats:
    scaled: Floats = np.log(values) if d.log else values
    return scaled
