"""The smallest and the largest network of a space, found choice by choice."""

from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

from nasattn.arch import Architecture
from nasattn.distributions import Categorical
from nasattn.errors import ArchitectureError
from nasattn.space import SearchSpace

Size = Callable[[Architecture], tuple[float, ...]]


def largest(space: SearchSpace, size: Size) -> Architecture:
    """The network of a space that `size` puts highest, each choice made beside those before it.

    The choices are gone through once, those first that decide about others. Of a range the two
    ends are tried; what cannot be built is passed over; of equals the first one stays. Where one
    choice changes what another one is worth, a larger network may be missed.
    """
    params: dict[str, Any] = {p.name: p.distribution.values()[0] for p in space.free}
    params |= space.sample(Random(0))
    for parameter in space.free:
        name, values = parameter.name, parameter.distribution.values()
        ends = (
            values if isinstance(parameter.distribution, Categorical) else (values[0], values[-1])
        )
        found = []
        for value in (*ends, params[name]):
            with suppress(ArchitectureError):
                found.append((size(space.decode(params | {name: value})), value))
        params[name] = max(found, key=lambda pair: pair[0])[1]
    return space.decode(params)


def smallest(space: SearchSpace, size: Size) -> Architecture:
    """The network that `size` puts lowest, found as the largest is."""
    return largest(space, lambda arch: tuple(-x for x in size(arch)))
