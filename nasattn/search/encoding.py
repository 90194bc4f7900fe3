"""Networks as rows of numbers: a column a parameter, NaN where the parameter means nothing.

What exists only under some value of another parameter is learned from finished trials, for a study
whose objective calls `suggest_*` as it goes tells nothing else about it.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

from nasattn.search.values import (
    Floats,
    all_values,
    contains,
    count_values,
    from_unit,
    is_continuous,
    to_unit,
)

Params = dict[str, Any]
Distributions = Mapping[str, BaseDistribution]

ABSENT = -1e300  # stands for NaN where values are compared
KNOTS = np.linspace(0, 1, 5)  # of a numeric parameter's range, where its similarity is set up
REACH = 0.5  # of that range: how far what is learned at one number carries


@dataclass(frozen=True)
class Rule:
    """A parameter means nothing where the one in column `parent` has one of these values."""

    parent: int
    absent_under: tuple[float, ...]


@dataclass(frozen=True)
class Space:
    """The parameters of a study in the order of their asking, and when each means something.

    `meaningful` says which do, of many rows, where that is known; else `rules`, by column, do.
    """

    distributions: Distributions
    rules: Mapping[int, Rule]
    meaningful: Callable[[Floats], Floats] | None = None

    def rows(self, many: Sequence[Mapping[str, Any]]) -> Floats:
        """Params -> (n, d), in Optuna's internal numbers; NaN for what is not there."""
        rows = np.full((len(many), len(self.distributions)), np.nan)
        for j, (name, distribution) in enumerate(self.distributions.items()):
            for i, params in enumerate(many):
                if name in params and contains(distribution, params[name]):
                    rows[i, j] = distribution.to_internal_repr(params[name])
        return rows

    def params(self, row: Floats) -> Params:
        """A row -> the params that mean something in it."""
        pairs = zip(self.distributions.items(), row.tolist(), strict=True)
        return {name: d.to_external_repr(value) for (name, d), value in pairs if value == value}

    def draw(self, rng: np.random.Generator, n: int) -> Floats:
        """Uniform random values for all columns, whether or not they mean something: (n, d)."""
        columns = [from_unit(d, rng.random(n)) for d in self.distributions.values()]
        return np.stack(columns, axis=1)

    def settle(self, rows: Floats) -> Floats:
        """NaN in place of the values that mean nothing beside the others."""
        settled = self.meaningful(rows) if self.meaningful else rows.copy()
        for child, rule in sorted(self.rules.items()):  # parents come before their children
            parent = np.nan_to_num(settled[:, rule.parent], nan=ABSENT)
            settled[np.isin(parent, rule.absent_under), child] = np.nan
        return settled

    def breed(self, rng: np.random.Generator, parents: Floats, n: int) -> Floats:
        """n rows, each like one of the parents with a few new values or like a cross of two.

        What a parent does not have is drawn anew.
        """
        if not len(parents):
            return self.draw(rng, 0)
        d = parents.shape[1]
        a, b = (parents[rng.integers(len(parents), size=n)] for _ in "ab")
        crossed = rng.random((n, 1)) < 0.3
        rows = np.where(crossed & (rng.random((n, d)) < 0.5), b, a)
        changed = rng.random((n, d)) < rng.choice([1, 2, 4], size=(n, 1)) / d
        changed[np.arange(n), rng.integers(d, size=n)] |= ~crossed[:, 0]
        return np.where(changed | np.isnan(rows), self.draw(rng, n), rows)

    def every(self, limit: int) -> Floats | None:
        """All rows, (n, d), not settled; None where they are more than `limit`."""
        columns, n = [], 1.0
        for distribution in self.distributions.values():
            n *= count_values(distribution)
            if n > limit:
                return None
            columns.append(all_values(distribution))
        return np.array(list(itertools.product(*columns)), dtype=float)

    def similarity_columns(self, rows: Floats) -> Floats:
        """(n, d) -> (n, p): over one parameter's columns, the product of two rows says how alike
        they are in it: 1 for the same value, or none in both; 0 for different categories."""
        pairs = enumerate(self.distributions.values())
        return np.hstack([similarity(d, rows[:, j]) for j, d in pairs])

    def count_columns(self, rows: Floats) -> Floats:
        """(n, d) -> (n, r): the share of each value in every group of parameters that offer the
        same, such as one choice a block."""
        columns = self.similarity_columns(rows)
        d = len(self.distributions)
        blocks = [columns[:, self.owners == j] for j in range(d)]
        shares = [sum(blocks[j] for j in group) / np.sqrt(d * len(group)) for group in self.groups]
        return np.hstack(shares) if shares else np.empty((len(rows), 0))

    @cached_property
    def groups(self) -> list[list[int]]:
        """Columns with equal distributions, two or more."""
        groups: list[tuple[BaseDistribution, list[int]]] = []
        for j, distribution in enumerate(self.distributions.values()):
            own = next((columns for d, columns in groups if d == distribution), None)
            if own is None:
                groups.append((distribution, [j]))
            else:
                own.append(j)
        return [columns for _, columns in groups if len(columns) > 1]

    @cached_property
    def owners(self) -> NDArray[np.intp]:
        """Which parameter each of the similarity columns belongs to: (p,)."""
        widths = [similarity(d, np.zeros(1)).shape[1] for d in self.distributions.values()]
        return np.repeat(np.arange(len(widths)), widths)


def seen_distributions(trials: Iterable[FrozenTrial]) -> dict[str, BaseDistribution]:
    """All parameters of some trials, each behind the one it was asked after; the latest range."""
    order: list[str] = []
    latest: dict[str, BaseDistribution] = {}
    for trial in trials:
        place = 0
        for name, distribution in trial.distributions.items():
            if name not in latest:
                order.insert(place, name)
            place = order.index(name) + 1
            latest[name] = distribution
    return {name: latest[name] for name in order}


def learn_space(distributions: Distributions, finished: Sequence[FrozenTrial]) -> Space:
    """A space with the rules that all finished trials agree with."""
    rows = Space(distributions, {}).rows([trial.params for trial in finished])
    rows = np.nan_to_num(rows, nan=ABSENT)
    columns = list(distributions.values())
    sometimes = np.flatnonzero((rows == ABSENT).any(axis=0)).tolist()
    found = {j: _find_rule(rows, j, columns) for j in sometimes}
    return Space(distributions, {j: rule for j, rule in found.items() if rule is not None})


def _find_rule(rows: Floats, child: int, columns: Sequence[BaseDistribution]) -> Rule | None:
    """The likeliest parent of those whose values tell, in all rows, whether the child is there.

    A parent of v values fits by chance with 2^v patterns; one that was asked for d parameters
    before its child is taken to be d^2 times less likely than the one right before it.
    """
    absent = rows[:, child] == ABSENT
    found = {}
    for parent in range(child):
        if is_continuous(columns[parent]):
            continue
        without = set(rows[absent, parent].tolist())
        beside = set(rows[~absent, parent].tolist())
        if without.isdisjoint(beside):
            bits = len(without | beside) + 2 * math.log2(child - parent)
            found[bits, parent] = Rule(parent, tuple(sorted(without)))
    return found[min(found)] if found else None


def similarity(distribution: BaseDistribution, values: Floats) -> Floats:
    """One parameter's similarity columns, the last for NaN: (n,) -> (n, k + 1)."""
    absent = np.isnan(values)
    if isinstance(distribution, CategoricalDistribution):
        own = (values[:, None] == np.arange(len(distribution.choices))).astype(float)
    else:
        own = np.where(absent[:, None], 0, _number_columns(to_unit(distribution, values)))
    return np.hstack([own, absent[:, None]])


def _number_columns(unit: Floats) -> Floats:
    """(n,) -> (n, knots), of length 1; their products fall from 1 with the distance.

    Nystroem's approximation of a Gaussian kernel.
    """
    columns: Floats = _gauss(np.nan_to_num(unit)) @ _ROOT
    columns /= np.linalg.norm(columns, axis=1, keepdims=True)
    return columns


def _gauss(unit: Floats) -> Floats:
    near: Floats = np.exp(-0.5 * ((unit[:, None] - KNOTS) / REACH) ** 2)
    return near


def _inverse_root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    root: Floats = vectors / np.sqrt(values)
    return root


_ROOT = _inverse_root(_gauss(KNOTS))
