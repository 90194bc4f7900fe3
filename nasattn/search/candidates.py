"""Candidates: what is known of a space's networks before they are tried."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log1p
from typing import TYPE_CHECKING

from nasattn.arch import Architecture
from nasattn.objectives import Constraint, Cost
from nasattn.rows import SpaceRows
from nasattn.space import Params, SearchSpace
from nasattn.walk import Rows

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from nasattn.search.forecast import Forecast

MAX_REMEMBERED = 60_000
MAX_HELD = 1_000_000  # numbers in the tables of SpaceRows

StaticValues = Callable[[Architecture], Mapping[str, float]]


@dataclass(frozen=True)
class Known:
    """A network that may be tried: its id, and the objectives that are known without a trial."""

    arch_id: str
    values: Mapping[str, float]
    foretold: float | None = None  # the objective of a forecast


@dataclass
class Candidates:
    """The networks of a space on pictures of a resolution (None: as they are drawn).

    `static_values` finds the objectives that are known without a trial; `limits` on them hold of
    every network that may be tried. `counted` names static values that tell of the others, too. A
    `forecast` screens those on what it foretells: a network that
    would break one even at the better end of the interval may not be tried.
    """

    space: SearchSpace
    resolution: int | None
    static_values: StaticValues
    limits: Sequence[Constraint] = ()
    forecast: "Forecast | None" = None
    counted: Sequence[str] = ()
    known: dict[frozenset[tuple[str, object]], Known | None] = field(default_factory=dict)
    _rows: SpaceRows | None = None

    def decode(self, params: Params) -> Architecture:
        """The network of params, adapted to the pictures: spaces are drawn for 224 pixels."""
        arch = self.space.decode(params)
        return arch.at_resolution(self.resolution) if self.resolution else arch

    def find(self, params: Params) -> Known | None:
        """What is known of a network; None for params of none that may be tried."""
        key = frozenset(params.items())
        if key not in self.known:
            try:
                arch = self.decode(params)
            except ValueError:
                self._remember(key, None)
            else:
                self._remember(key, self._judge(arch))
        return self.known[key]

    def settle(self, rows: Rows) -> Rows:
        """Rows of values for all parameters, with NaN for those that mean nothing."""
        return self._many().settle(rows)

    def prepare(self, rows: Rows) -> None:
        """Find what is known of the networks of settled rows: faster than one by one."""
        names, choices = zip(*self.distributions().items(), strict=True)
        for row, arch in zip(rows.tolist(), self._many().decode(rows), strict=True):
            pairs = zip(names, choices, row, strict=True)
            params = {name: d.to_external_repr(v) for name, d, v in pairs if v == v}
            self._remember(frozenset(params.items()), self._judge(arch) if arch else None)

    def arch_id(self, params: Params) -> str | None:
        """The network's id; None where it may not be tried."""
        known = self.find(params)
        return known.arch_id if known else None

    def value(self, objective: str) -> Callable[[Params], float | None]:
        """The function that finds a static objective of params; None of what may not be tried."""

        def find(params: Params) -> float | None:
            known = self.find(params)
            return known.values[objective] if known else None

        return find

    def foretold(self, params: Params) -> tuple[float, ...]:
        """What a sampler may learn from beside the params: logarithms of sizes, a forecast."""
        known = self.find(params)
        if known is None:
            return (0.0,) * self.n_foretold
        sizes = (log1p(known.values[name]) for name in self.counted)
        return (*sizes, *([known.foretold or 0.0] if self.forecast else []))

    @property
    def n_foretold(self) -> int:
        """How many numbers that are."""
        return len(self.counted) + (self.forecast is not None)

    def distributions(self) -> "dict[str, BaseDistribution]":
        """Every parameter of the space in Optuna's own form, those that decide first."""
        from optuna.trial import FixedTrial

        first = {p.name: next(iter(p.distribution.values())) for p in self.space.free}
        trial = FixedTrial(first)
        for parameter in self.space.free:
            parameter.distribution.suggest(trial, parameter.name)
        return trial.distributions

    def _many(self) -> SpaceRows:
        if self._rows is None or len(self._rows) > MAX_HELD:
            self._rows = SpaceRows(self.space, self.resolution)
        return self._rows

    def _remember(self, key: frozenset[tuple[str, object]], known: Known | None) -> None:
        if len(self.known) >= MAX_REMEMBERED:
            self.known.clear()
        self.known[key] = known

    def _judge(self, arch: Architecture) -> Known | None:
        """What is known of a network that can be built; None where it may not be tried."""
        try:
            values = self.static_values(arch)
        except (RuntimeError, ValueError, MemoryError):  # as in `evaluate`
            return None
        limits = [c for c in self.limits if c.objective.cost == Cost.STATIC]
        if any(c.violation(values[c.objective.name]) > 0 for c in limits):
            return None
        if self.forecast is None:
            return Known(arch.arch_id, values)
        value, low, high = self.forecast(arch)
        limits = [c for c in self.limits if c.objective.name == self.forecast.objective]
        if any(c.violation(low if c.at_most else high) > 0 for c in limits):
            return None
        return Known(arch.arch_id, values, value)
