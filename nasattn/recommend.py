"""Which network to begin with: the known ones, the limits, and what matters most.

Source: paper 001, stage one (requirements, then the choice of a base network). A published figure
is a claim and stays marked as one; measured is what a stored study found on the same pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nasattn.errors import StudyError
from nasattn.objectives import Constraint
from nasattn.search.spec import StudySpec
from nasattn.spec import parse
from nasattn.words import plural
from nasattn.zoo import NamedNetwork

NEAR = 0.03  # of top1: how far below the best one a network may be that is cheaper
MEASURED, PUBLISHED = "measured", "published"
DEFAULT_SPACE = "mobile"
SPACES = ("mobile", "resnet", "resnest", "alexnet")  # each holds every network of its family


@dataclass(frozen=True)
class Known:
    """A network and what is known of it; params and macs are counted for the pictures."""

    name: str
    space: str  # the shipped search space to go on in
    params: int
    macs: int
    top1: float
    basis: str  # of top1: MEASURED or PUBLISHED
    latencies: Mapping[str, float] = field(default_factory=dict)  # measured, by objective
    printed_ms: str = ""  # a published latency and its device

    def value(self, objective: str) -> float | None:
        """What is known of an objective; of top1 also what was only published."""
        if objective in ("top1", "params", "macs"):
            found: float | None = getattr(self, objective)
            return found
        return self.latencies.get(objective)


@dataclass(frozen=True)
class Priority:
    """What matters most: how the pick is made, and what the search goes on with."""

    words: str  # what the pick has most or least of
    leading: str  # the objective, "latency" for that of the limit
    objectives: tuple[str, ...]
    note: str = ""


PRIORITIES: dict[str, Priority] = {
    "size": Priority("fewest parameters", "params", ("top1", "params")),
    "accuracy": Priority("highest top-1", "top1", ("top1", "macs")),
    "speed": Priority("lowest latency", "latency", ("top1", "latency")),
    "power": Priority(
        "fewest multiply-adds",
        "macs",
        ("top1", "macs", "latency"),
        "power: cannot be measured here; multiply-adds and latency stand in for it",
    ),
}


@dataclass(frozen=True)
class Wish:
    """The limits and the priority. `latency` is the objective that stands for speed."""

    priority: str
    limits: tuple[Constraint, ...] = ()
    latency: str = "latency_ms"

    @property
    def row(self) -> Priority:
        return PRIORITIES[self.priority]

    @property
    def objectives(self) -> tuple[str, ...]:
        return tuple(self.latency if name == "latency" else name for name in self.row.objectives)


@dataclass(frozen=True)
class Pick:
    """The network to begin with, why, and those that were looked at beside it."""

    network: Known
    reason: str
    shown: tuple[Known, ...]  # within the limits, in the pick's order
    open: tuple[str, ...]  # limits of which nothing is known for the pick
    n_out: int  # networks that break a limit
    n_other: int  # networks within the limits whose top1 is only published, where some is measured


def published_figure(
    network: NamedNetwork, metric: str, where: str = ""
) -> tuple[float, str] | None:
    """A published figure of a network, as a value and as printed with its place."""
    for figure in network.published:
        if figure.metric == metric and where in ("", figure.where):
            return figure.value, f"{figure.printed} on {figure.where}"
    return None


def published_top1(network: NamedNetwork, where: str) -> float | None:
    """Published top-1 on a data set, a fraction."""
    if found := published_figure(network, "top1", where):
        return found[0]
    found = published_figure(network, "top1_error", where)
    return found and 1 - found[0]


def space_of(family: str) -> str:
    """The shipped space that holds a family; a library's network has none of its own."""
    return family if family in SPACES else DEFAULT_SPACE


def pick(networks: Sequence[Known], wish: Wish, where: str, *, same: bool) -> Pick:
    """The best of the known networks for a wish; `same`: `where` is these very pictures.

    Measured top1 is preferred to published one, and the two are never compared. Published top1 on
    other pictures neither keeps nor breaks a limit on top1. Raises StudyError where no network
    keeps to the limits.
    """

    def keeps(one: Known, limit: Constraint) -> bool:
        value = _for_limit(one, limit.objective.name, same=same)
        return value is None or limit.violation(value) <= 0

    within = [one for one in networks if all(keeps(one, limit) for limit in wish.limits)]
    if not within:
        raise StudyError(
            f"no known network keeps to {', '.join(map(str, wish.limits))}; the one with the fewest"
            f" parameters has {min(one.params for one in networks):,}, the one with the fewest"
            f" multiply-adds {min(one.macs for one in networks):,}"
        )
    basis = MEASURED if any(one.basis == MEASURED for one in within) else PUBLISHED
    group = [one for one in within if one.basis == basis]
    leading, stand_in = _leading(group, wish)
    best = max(one.top1 for one in group)
    near = group if leading == "top1" else [x for x in group if x.top1 >= best - NEAR]
    sign = -1 if leading == "top1" else 1

    def place(one: Known) -> tuple[float, float, int]:
        return (sign * (one.value(leading) or 0), -one.top1, one.params)

    found = min(near, key=place)
    what = f"{basis} top-1 " + (f"({where})" if basis == PUBLISHED else "(these pictures)")
    if leading == "top1":
        why = f"highest {what} of {plural(len(group), 'network')} within the limits"
    else:
        why = (
            f"{wish.row.words}{stand_in} of {plural(len(near), 'network')} within the limits whose "
            f"{what} is at most {100 * NEAR:g} points below the best"
        )
    reason = f"{found.name}: the {why}"
    names = (c for c in wish.limits if _for_limit(found, c.objective.name, same=same) is None)
    return Pick(
        found,
        reason,
        tuple(sorted(group, key=place)),
        tuple(map(str, names)),
        len(networks) - len(within),
        len(within) - len(group),
    )


def _for_limit(one: Known, objective: str, *, same: bool) -> float | None:
    """A value that a limit may be held against; None where nothing is known."""
    if objective == "top1" and one.basis == PUBLISHED and not same:
        return None
    return one.value(objective)


def _leading(group: Sequence[Known], wish: Wish) -> tuple[str, str]:
    """The objective that decides, and a word where it stands in for another."""
    if wish.row.leading != "latency":
        return wish.row.leading, ""
    if all(wish.latency in one.latencies for one in group):
        return wish.latency, ""
    return "macs", " (by multiply-adds: not all latencies were measured)"


def study_fields(
    found: Pick, wish: Wish, data: str, resolution: int | None, label: str
) -> dict[str, Any]:
    """A study to go on with, as the fields of its file; checked as StudySpec checks them."""
    fields: dict[str, Any] = {
        "description": f"recommended for {wish.priority}, beginning with {found.network.name}",
        "space": found.network.space,
        "name": f"{found.network.space}-{label}-{wish.priority}",
        "data": data,
        **({} if resolution is None else {"resolution": resolution}),
        "objectives": list(wish.objectives),
        "constraints": [str(limit) for limit in wish.limits],
    }
    parse(StudySpec, fields, "recommended study", StudyError)
    return fields
