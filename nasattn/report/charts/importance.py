"""Which groups of parameters an objective hangs on, in the region that a search has visited.

Method: grouped permutation importance (Gregorutti, Michel and Saint-Pierre, "Grouped variable
importance with random forests", Computational Statistics and Data Analysis 90, 2015). A random
forest learns the objective from all parameters; then the columns of one group are shuffled
together, so that what a parameter says of the others in its group stays true (attention's group
count goes with its kind). The loss of R^2 is the group's importance. A parameter that is absent
has a value of its own. Everything is judged on trials that the forest has not seen.

Intervals: each replicate draws the trials anew with replacement, grows a forest on them, and
judges it by those that were not drawn. A forest that saw a copy of what it is judged by would
find importance where there is none.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

from nasattn.report.charts.parameter_groups import group_of
from nasattn.search.encoding import Space, seen_distributions
from nasattn.search.values import Floats

FEWEST = 20  # trials
MOST = 500  # of them; more are thinned out at random
N_TREES = 40
REPLICATES = 30
SHUFFLES = 3  # of each group in a replicate
LEAF = 2  # trials in a leaf at least
ABSENT = -1.0  # a parameter that is not there: below all others, which are 0 and more


@dataclass(frozen=True)
class Importance:
    """Loss of R^2 by group, the mean over the replicates with its 95 % percentile interval."""

    groups: Mapping[str, tuple[float, float, float]]  # mean, low, high; the largest first
    r2: float  # of the forests on trials that they have not seen, the mean over the replicates
    n: int  # trials that were used
    n_all: int  # trials that there were


def measure_importance(
    trials: Sequence[FrozenTrial], values: Sequence[float], seed: int = 0
) -> Importance | None:
    """Importance of the groups for `values`; None where there are fewer than FEWEST trials, no
    parameters, or equal values only."""
    rng = np.random.default_rng(seed)
    kept = sorted(rng.permutation(len(trials))[:MOST].tolist())
    y: Floats = np.array(pd.Series([values[i] for i in kept]).rank(), dtype=np.float64)
    if len(kept) < FEWEST or np.ptp(y) == 0:
        return None
    x, owners = columns([trials[i] for i in kept])
    if not owners:
        return None
    names = sorted(set(owners))
    found, r2 = [], []
    for _ in range(REPLICATES):
        replicate = _replicate(x, y, owners, names, rng)
        if replicate is not None:
            r2.append(replicate[0])
            found.append(replicate[1])
    if not found:  # no replicate had different values on both sides
        return None
    losses = np.array(found)  # (replicates, groups)
    ends = np.percentile(losses, [2.5, 97.5], axis=0)
    rows = {
        name: (float(losses[:, i].mean()), float(ends[0, i]), float(ends[1, i]))
        for i, name in enumerate(names)
    }
    ordered = dict(sorted(rows.items(), key=lambda row: -row[1][0]))
    return Importance(ordered, float(np.mean(r2)), len(kept), len(trials))


def columns(trials: Sequence[FrozenTrial]) -> tuple[Floats, list[str]]:
    """(n, columns), and the group of each column.

    A number is a column, a category a column for each of its values. Parameters that differ in
    their stage alone add what they have in common: the mean, or the share of each value.
    """
    distributions = seen_distributions(trials)
    rows = Space(distributions, {}).rows([trial.params for trial in trials])
    blocks: list[Floats] = [np.empty((len(trials), 0))]
    owners: list[str] = []
    families: dict[tuple[str, int], list[Floats]] = {}
    for j, (path, distribution) in enumerate(distributions.items()):
        own = _numbers(rows[:, j], distribution)
        blocks.append(own)
        owners += [group_of(path)] * own.shape[1]
        families.setdefault((re.sub(r"\d+", "*", path), own.shape[1]), []).append(own)
    for (path, width), members in families.items():
        if len(members) > 1:
            together = np.stack(members)  # (members, n, width)
            there = np.where(together == ABSENT, 0.0, together).sum(axis=0)
            blocks.append(there / np.maximum((together != ABSENT).sum(axis=0), 1))
            owners += [group_of(path)] * width
    return np.hstack(blocks), owners


def _numbers(internal: Floats, distribution: object) -> Floats:
    """A parameter's values, in Optuna's internal numbers, as columns: (n,) -> (n, k)."""
    absent = np.isnan(internal)[:, None]
    if not isinstance(distribution, CategoricalDistribution):
        return np.where(absent, ABSENT, internal[:, None])
    choices = distribution.choices
    index = np.nan_to_num(internal).astype(int)
    if all(isinstance(choice, int | float) for choice in choices):  # false and true, too
        numbers = np.array([float(choice) for choice in choices])  # type: ignore[arg-type]
        return np.where(absent, ABSENT, numbers[index][:, None])
    return np.where(absent, ABSENT, (index[:, None] == np.arange(len(choices))).astype(float))


def _replicate(
    x: Floats, y: Floats, owners: list[str], names: list[str], rng: np.random.Generator
) -> tuple[float, Floats] | None:
    """R^2 of a forest on the trials that were not drawn, and what each group's shuffle takes."""
    from sklearn.ensemble import ExtraTreesRegressor

    drawn = rng.integers(len(y), size=len(y))
    rest = np.setdiff1d(np.arange(len(y)), drawn)
    if len(rest) < 2 or np.ptp(y[rest]) == 0 or np.ptp(y[drawn]) == 0:
        return None
    forest = ExtraTreesRegressor(
        N_TREES, min_samples_leaf=LEAF, max_features=1 / 3, random_state=int(rng.integers(2**31))
    )
    forest.fit(x[drawn], y[drawn])
    tables = [x[rest]]
    for name in names:
        own = [i for i, owner in enumerate(owners) if owner == name]
        for _ in range(SHUFFLES):
            table = x[rest].copy()
            table[:, own] = table[rng.permutation(len(rest))][:, own]
            tables.append(table)
    foretold: NDArray[np.float64] = forest.predict(np.vstack(tables)).reshape(len(tables), -1)
    scores = 1 - ((foretold - y[rest]) ** 2).mean(axis=1) / y[rest].var()
    losses = scores[0] - scores[1:].reshape(len(names), SHUFFLES).mean(axis=1)
    return float(scores[0]), losses
