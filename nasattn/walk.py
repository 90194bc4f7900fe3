"""Walk: SearchSpace's walk over its parameters, for many rows of values side by side."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasattn.arch import Architecture
from nasattn.distributions import Categorical, Distribution, IntRange
from nasattn.errors import SpaceError
from nasattn.parts import BareAttention, Part
from nasattn.space import Parameter, SearchSpace, outside
from nasattn.spec import fields_of, spec_at
from nasattn.tables import NONE, Column, Ints, Levels, Numbers, Table

Rows = NDArray[np.float64]
Bools = NDArray[np.bool_]
Data = dict[str, Any]


@dataclass(frozen=True)
class State:
    """The plain fields of a part, those of the parts inside it left out."""

    part: type[Part]
    items: tuple[tuple[str, Any], ...]

    @property
    def data(self) -> Data:
        return dict(self.items)

    def changed(self, **fields: Any) -> "State":
        """With other values of these fields."""
        return _state(self.part, self.data | fields)


@dataclass(frozen=True)
class Walked:
    """Where n rows of d values lead."""

    states: Mapping[str, Ints]  # of each part, by its path: (n,)
    pattern: Ints  # (n,)
    active: Bools  # which values mean something: (n, d)
    there: Bools  # which rows have all of those, each an allowed one: (n,)


class Walk:
    """The states of the parts of many networks of a space, by numbers.

    A row has a number for each of `space.free`, in that order and as Optuna stores it (of a choice
    its index); NaN where the parameter is not given.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.states, self.settings = Numbers(), Numbers()
        tree = space.template.model_dump()
        self.start = {
            path: self.states.number(state) for path, state in _states(Architecture, tree)
        }
        self.stages = [f"stages.{i}" for i in range(len(space.template.stages))]
        self._steps = [(Levels(partial(self._setting, p)), _fields(p)) for p in space.free]
        self._setters: dict[str, Table] = {}
        self._meanings: dict[tuple[bool, str], Column] = {}
        self._attention = Table(self._find_attention)
        self.patterns = Table(self._find_pattern)  # of the stages: which there are, and attend
        self._empty = self.patterns.into.number(())
        self._allowed = Column(self.settings, lambda setting: setting[1])

    def __len__(self) -> int:
        return len(self.states) + len(self.settings) + len(self.patterns)

    def __call__(self, rows: Rows) -> Walked:
        states = {path: np.full(len(rows), number) for path, number in self.start.items()}
        active = np.zeros(rows.shape, dtype=bool)
        there = np.ones(len(rows), dtype=bool)
        for j, (levels, fields) in enumerate(self._steps):
            given = ~np.isnan(rows[:, j])
            settings = np.full(len(rows), NONE)
            settings[given] = levels(rows[given, j])
            meant = [self._means(states, path, name) for path, name in fields]
            for (path, name), on in zip(fields, meant, strict=True):
                found = self._setter(name)(states[path], np.where(on, settings, NONE))
                states[path] = np.where(found == NONE, states[path], found)
                active[:, j] |= on
            there &= ~active[:, j] | (self._allowed(settings) == 1)
        return Walked(states, self._pattern(states), active, there)

    def _means(self, states: Mapping[str, Ints], path: str, name: str) -> Bools:
        """Whether a field of the part at `path` means something, and that part in its own."""
        if not path:
            means = self._meaning(True, name, lambda p: Architecture.means(pattern_tree(p), name))
            on: Bools = means(self._pattern(states)) == 1
            return on
        means = self._meaning(False, name, lambda state: state.part.means(state.data, name))
        on = means(states[path]) == 1
        outer, _, own = path.rpartition(".")
        return on & self._means(states, outer, own) if outer in states and outer else on

    def _meaning(self, of_all: bool, name: str, find: Callable[[Any], bool]) -> Column:
        key = of_all, name
        if key not in self._meanings:
            numbers = self.patterns.into if of_all else self.states
            self._meanings[key] = Column(numbers, find)
        return self._meanings[key]

    def _setter(self, name: str) -> Table:
        """(state, setting) -> the state with that field set, as `set_path` does it."""

        def find(state: int, setting: int) -> State:
            before, (value, _) = self.states.values[state], self.settings.values[setting]
            data = before.data
            if issubclass(before.part, BareAttention) and name == "kind" and data[name] != value:
                data = {k: v for k, v in data.items() if k in fields_of(before.part)}
            return _state(before.part, data | {name: value})

        if name not in self._setters:
            self._setters[name] = Table(find, self.states)
        return self._setters[name]

    def _setting(self, parameter: Parameter, number: float) -> int:
        value = _value(parameter.distribution, number)
        return self.settings.number((value, parameter.distribution.contains(value)))

    def _pattern(self, states: Mapping[str, Ints]) -> Ints:
        found = np.full_like(states[""], self._empty)
        for stage in self.stages:
            own = self._attention(states[stage], states[f"{stage}.attention"])
            found = self.patterns(found, own)
        return found

    def _find_attention(self, stage: int, attention: int) -> tuple[bool, bool]:
        depth, kind = (
            self.states.values[state].data.get(name)
            for state, name in ((stage, "depth"), (attention, "kind"))
        )
        return depth != 0, kind != "none"

    def _find_pattern(self, before: int, own: int) -> tuple[Any, ...]:
        return (*self.patterns.into.values[before], self._attention.into.values[own])


def as_rows(space: SearchSpace, many: Sequence[Mapping[str, Any]]) -> Rows:
    """Params as rows, (n, parameters); NaN for those that are not given.

    Raises SpaceError for a name or value outside the space.
    """
    rows = np.full((len(many), len(space.free)), np.nan)
    for i, params in enumerate(many):
        for name in params.keys() - space.names:
            raise SpaceError(f"space {space.name!r}: no parameter {name!r}")
        for j, parameter in enumerate(space.free):
            if parameter.name in params:
                value, distribution = params[parameter.name], parameter.distribution
                if not distribution.contains(value):
                    raise SpaceError(f"space {space.name!r}: {outside(parameter, value)}")
                if isinstance(distribution, Categorical):
                    value = distribution.choices.index(value)
                rows[i, j] = value
    return rows


def pattern_tree(pattern: tuple[tuple[bool, bool], ...]) -> Data:
    """As much of an architecture's plain data as a pattern tells."""
    kinds = {True: "some", False: "none"}
    return {
        "stages": [
            {"depth": int(there), "attention": {"kind": kinds[attends]}}
            for there, attends in pattern
        ]
    }


def _state(part: type[Part], data: Data) -> State:
    return State(part, tuple(sorted(data.items())))


def _states(part: type[Part], node: Data, path: str = "") -> Iterator[tuple[str, State]]:
    """A part of an architecture and those inside it, each with its path."""
    plain: Data = {}
    for name, value in node.items():
        inner = spec_at(part, name) if name in fields_of(part) else None
        if inner is None or not issubclass(inner, Part):
            plain[name] = value
            continue
        here = f"{path}.{name}" if path else name
        many = isinstance(value, list | tuple)
        for i, own in enumerate(value) if many else [("", value)]:
            yield from _states(inner, own, f"{here}.{i}" if many else here)
    yield path, _state(part, plain)


def _fields(parameter: Parameter) -> list[tuple[str, str]]:
    """The fields that a parameter sets, each as the path of its part and its name."""
    split = [path.rpartition(".") for path in parameter.paths]
    return [(part, name) for part, _, name in split]


def _value(distribution: Distribution, number: float) -> Any:
    """A value from the number that Optuna stores for it."""
    if isinstance(distribution, Categorical):
        return distribution.choices[int(number)]
    return int(number) if isinstance(distribution, IntRange) else number
