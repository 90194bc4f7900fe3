"""Candidates: what is known of a space's networks before they are tried."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nasattn.arch import Architecture
from nasattn.objectives import Constraint, Cost
from nasattn.space import Params, SearchSpace

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MAX_REMEMBERED = 60_000

StaticValues = Callable[[Architecture], Mapping[str, float]]


@dataclass(frozen=True)
class Known:
    """A network that may be tried: its id, and the objectives that are known without a trial."""

    arch_id: str
    values: Mapping[str, float]


@dataclass
class Candidates:
    """The networks of a space on pictures of a resolution (None: as they are drawn).

    `static_values` finds the objectives that are known without a trial; `limits` on them hold of
    every network that may be tried.
    """

    space: SearchSpace
    resolution: int | None
    static_values: StaticValues
    limits: Sequence[Constraint] = ()
    known: dict[frozenset[tuple[str, object]], Known | None] = field(default_factory=dict)

    def decode(self, params: Params) -> Architecture:
        """The network of params, adapted to the pictures: spaces are drawn for 224 pixels."""
        arch = self.space.decode(params)
        return arch.at_resolution(self.resolution) if self.resolution else arch

    def find(self, params: Params) -> Known | None:
        """What is known of a network; None for params of none that may be tried."""
        key = frozenset(params.items())
        if key not in self.known:
            if len(self.known) >= MAX_REMEMBERED:
                self.known.clear()
            self.known[key] = self._find(params)
        return self.known[key]

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

    def distributions(self) -> "dict[str, BaseDistribution]":
        """Every parameter of the space in Optuna's own form, those that decide first."""
        from optuna.trial import FixedTrial

        first = {p.name: next(iter(p.distribution.values())) for p in self.space.free}
        trial = FixedTrial(first)
        for parameter in self.space.free:
            parameter.distribution.suggest(trial, parameter.name)
        return trial.distributions

    def _find(self, params: Params) -> Known | None:
        try:
            arch = self.decode(params)
            values = self.static_values(arch)
        except (RuntimeError, ValueError, MemoryError):  # as in `evaluate`
            return None
        limits = [c for c in self.limits if c.objective.cost == Cost.STATIC]
        if any(c.violation(values[c.objective.name]) > 0 for c in limits):
            return None
        return Known(arch.arch_id, values)
