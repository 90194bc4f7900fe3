"""SearchSpace: a template network and the fields of it that may vary."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from nasattn.arch import Architecture, parse_architecture
from nasattn.baselines import get_baseline
from nasattn.distributions import Categorical, Distribution, FloatRange, IntRange, draw
from nasattn.errors import ArchitectureError, SpaceError
from nasattn.library import find_file
from nasattn.objectives import parse_constraint
from nasattn.paths import (
    default_of,
    expand_path,
    get_path,
    is_active,
    path_order,
    replace_paths,
    set_path,
)
from nasattn.spec import Spec, differences, parse, read_yaml

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Params = dict[str, Any]
S = TypeVar("S", bound="SpaceOutline")

N_TRIES = 500
N_FIRST = 30  # networks that show most values at once, before the rest are looked for
MAX_FAILED = 50  # networks that cannot be built, before it is said that none can
MAX_VALUES = 64


@dataclass(frozen=True)
class Parameter:
    """One free choice: its name in Optuna, the fields that it sets, the values it may take."""

    name: str
    paths: tuple[str, ...]
    distribution: Categorical | IntRange | FloatRange


class SpaceOutline(Spec):
    """What a space says of itself, before it is checked that its values make networks."""

    name: str
    description: str = ""
    template: Architecture
    parameters: dict[str, Distribution] = Field(min_length=1)
    constraints: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()

    @field_validator("template", mode="before")
    @classmethod
    def _named_template(cls, value: Any) -> Any:
        return get_baseline(value).architecture if isinstance(value, str) else value

    @field_validator("constraints")
    @classmethod
    def _readable_constraints(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(parse_constraint(text)) for text in texts)

    @cached_property
    def free(self) -> tuple[Parameter, ...]:
        """The parameters, one an Optuna parameter, those that decide about others first."""
        tree = self.template.model_dump()
        found = []
        for key, distribution in self.parameters.items():
            for name, paths in _expand(key, len(self.template.stages)):
                left = tuple(p for p in paths if p == key or p not in self.parameters)
                if left:
                    found.append(Parameter(name, left, distribution))
        return tuple(sorted(found, key=lambda p: path_order(tree, p.paths[0])))

    @cached_property
    def space_id(self) -> str:
        """12 hex digits over template and parameters: equal ids, equal choices."""
        text = self.model_dump_json(include={"template", "parameters"})
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of the parameters."""
        return frozenset(p.name for p in self.free)


class SearchSpace(SpaceOutline):
    """A set of networks: `template` with the fields at dotted paths left free.

    In `parameters`, `head.pooling` names one field; `stages.2.width` one field of one stage;
    `stages.width` that field of every stage, each by itself; `stages.*.width` of every stage, tied
    to one value. The more exact path wins. A parameter exists in a network only where its field
    means something there (an option that the chosen attention kind has, GeM's p under GeM).
    A depth of 0, allowed for the last stage, leaves the stage out. Some choices may not go together
    (groups that do not divide a width); a value that goes with none is refused.
    """

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_parameters(self)
        _check_values(self)
        for name in self.baselines:
            self.encode(get_baseline(name).architecture, name)
        return self

    def decode(self, params: Mapping[str, Any]) -> Architecture:
        """The network that params stand for; params that mean nothing in it are not looked at.

        Raises SpaceError for a name or value outside the space and for one that is missing.
        """
        for name in params.keys() - self.names:
            raise SpaceError(f"space {self.name!r}: no parameter {name!r}")

        def given(parameter: Parameter, paths: Sequence[str]) -> Any:
            if parameter.name not in params:
                raise SpaceError(f"space {self.name!r}: parameter {parameter.name!r} is missing")
            value = params[parameter.name]
            if not parameter.distribution.contains(value):
                raise SpaceError(f"space {self.name!r}: {outside(parameter, value)}")
            return value

        return self._build(given)[1]

    def settle(self, params: Mapping[str, Any]) -> Params:
        """Of values for all parameters, those that mean something beside the others, in order."""
        return self._walk(lambda parameter, _: params[parameter.name])[0]

    def encode(self, arch: Architecture, name: str = "architecture") -> Params:
        """The params that decode to `arch`; raises SpaceError saying what lies outside."""

        def read(parameter: Parameter, paths: Sequence[str]) -> Any:
            # Where a field makes no difference it stands at its default: another value is meant.
            values = [get_path(arch, path) for path in paths]
            defaults = [default_of(arch, path) for path in paths]
            told = [v for v, d in zip(values, defaults, strict=True) if v not in (None, d)]
            value = next(iter(told), values[0])
            if value is None and parameter.name.endswith(".depth"):
                value = 0  # a stage that the network does not have
            one_offered = set(values) == {value} and parameter.distribution.contains(value)
            if not told and not one_offered:
                value = next(_equal_values(arch, paths, parameter.distribution), value)
            if not parameter.distribution.contains(value):
                raise SpaceError(
                    f"{name} is outside space {self.name!r}: {outside(parameter, value)}"
                )
            return value

        params, decoded = self._build(read)
        if decoded != arch:
            path, own, here = next(differences(arch.model_dump(), decoded.model_dump()))
            if isinstance(own, tuple):
                own, here = f"{len(own)} of them", f"{len(here)}"
            raise SpaceError(
                f"{name} is outside space {self.name!r}: {path} = {own}, here always {here}"
            )
        return params

    def suggest(self, trial: "BaseTrial") -> Params:
        """Ask an Optuna trial for every parameter that means something, in order.

        Raises ArchitectureError where the choices do not go together.
        """
        return self._build(lambda p, _: p.distribution.suggest(trial, p.name))[0]

    def sample(self, rng: Random) -> Params:
        """Params drawn uniformly, choice by choice, until their network can be built."""
        for _ in range(N_TRIES):
            with suppress(ArchitectureError):
                return self._draw(rng)
        raise SpaceError(f"space {self.name!r}: none of {N_TRIES} sampled networks can be built")

    def _draw(self, rng: Random) -> Params:
        """Params drawn once; ArchitectureError where they do not go together."""
        return self._build(lambda p, _: draw(p.distribution, rng))[0]

    def _build(self, choose: Callable[[Parameter, list[str]], Any]) -> tuple[Params, Architecture]:
        """The params that are chosen, and their network."""
        params, tree = self._walk(choose)
        return params, parse_architecture(tree, f"space {self.name!r}")

    def _walk(self, choose: Callable[[Parameter, list[str]], Any]) -> tuple[Params, dict[str, Any]]:
        """Walk the parameters in order, choosing a value for each that means something.

        `choose` is given the parameter and those of its fields that mean something so far.
        """
        tree = self.template.model_dump()
        params: Params = {}
        for parameter in self.free:
            active = [path for path in parameter.paths if is_active(tree, path)]
            if not active:
                continue
            params[parameter.name] = choose(parameter, active)
            for path in active:
                set_path(tree, path, params[parameter.name])
        return params, tree


def load_space(name: str) -> SearchSpace:
    """A space by the name of a shipped file or by the path of a YAML file.

    Raises UnknownNameError for a name that is neither, SpaceError for a file that is not right.
    """
    return _load(SearchSpace, name)


def load_outline(name: str) -> SpaceOutline:
    """What `load_space` loads, without the search for a network with each of its values."""
    return _load(SpaceOutline, name)


def _load(cls: type[S], name: str) -> S:
    path = find_file("search_spaces", name, what="search space")
    data = read_yaml(path, SpaceError)
    return parse(cls, {"name": path.stem, **data}, str(path), SpaceError)


def _equal_values(arch: Architecture, paths: Sequence[str], choice: Distribution) -> Iterator[Any]:
    """The values, of about MAX_VALUES, with which at `paths` the network stays as it is."""
    for value in _some(choice.values()):
        with suppress(ArchitectureError):
            if replace_paths(arch, dict.fromkeys(paths, value)) == arch:
                yield value


def _expand(key: str, n_stages: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """A key of `parameters` as (parameter name, fields that it sets)."""
    head, _, rest = key.partition(".")
    if head != "stages" or rest[:1].isdigit() or rest.startswith("*."):
        yield key, expand_path(key, n_stages)
    else:
        for i in range(n_stages):
            yield f"stages.{i}.{rest}", (f"stages.{i}.{rest}",)


def _check_parameters(space: SearchSpace) -> None:
    """Every field exists, no field is set twice, only the last stage may be left out."""
    owner: dict[str, str] = {}
    last = len(space.template.stages) - 1
    for parameter in space.free:
        for path in parameter.paths:
            if path in owner:
                raise ValueError(
                    f"parameters: {parameter.name!r} and {owner[path]!r} both set {path!r}"
                )
            owner[path] = parameter.name
            may_be_empty = path.endswith(".depth") and parameter.distribution.contains(0)
            if may_be_empty and path != f"stages.{last}.depth":
                raise ValueError(
                    f"parameters.{parameter.name}: only the last stage may have depth 0"
                )


def _check_values(space: SearchSpace) -> None:
    """Every parameter means something, and some network with each of its values can be built.

    On seeded samples; ranges of over MAX_VALUES values by that many of them, both ends included.
    """
    rng = Random(0)
    met: set[tuple[str, Any]] = set()
    for _ in range(N_FIRST):
        with suppress(ArchitectureError):
            met.update(space._draw(rng).items())
    names = {name for name, _ in met}
    for parameter in space.free:
        if parameter.name not in names:
            _check_value(space, parameter, None, N_TRIES, rng)
        for value in _some(parameter.distribution.values()):
            if (parameter.name, value) not in met:
                _check_value(space, parameter, value, N_TRIES // 5, rng)


def _some(values: Sequence[Any]) -> Sequence[Any]:
    """At most about MAX_VALUES of them, both ends included."""
    return (*values[:: 1 + len(values) // MAX_VALUES], values[-1])


def _check_value(
    space: SearchSpace, wanted: Parameter, value: Any, n_tries: int, rng: Random
) -> None:
    """Find a network in which `wanted` means something, with `value` if given."""

    def choose(parameter: Parameter, paths: Sequence[str]) -> Any:
        given = parameter is wanted and value is not None
        return value if given else draw(parameter.distribution, rng)

    reason, failed = f"means nothing in {n_tries} sampled networks", 0
    for _ in range(n_tries):
        try:
            if wanted.name in space._build(choose)[0]:
                return
        except ArchitectureError as e:
            failed += 1
            reason = f"no network of {failed} can be built: {e}"
            if failed == MAX_FAILED:
                break
    if value is None or failed == MAX_FAILED:
        shown = "" if value is None else f" {value!r}:"
        raise ValueError(f"parameters.{wanted.name}:{shown} {reason}")


def outside(parameter: Parameter, value: object) -> str:
    """What is wrong with a value that a parameter may not take."""
    d = parameter.distribution
    allowed = list(d.values()) if isinstance(d, Categorical) else f"{d.low} to {d.high}"
    return f"{parameter.name} = {value!r}, allowed: {allowed}"
