"""The charts of a front: the first objective against each of the others."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from nasattn.errors import NasattnError
from nasattn.objectives import Objective
from nasattn.report.canvas import BLUE, GREY, RED
from nasattn.report.charts.chart import (
    LIGHT_GREY,
    SKY,
    Axis,
    Chart,
    Interval,
    Line,
    Points,
    Symbol,
    present,
)
from nasattn.report.charts.search_record import Network, SearchRecord
from nasattn.report.front import describe
from nasattn.search.trials import network_of
from nasattn.train.metrics import Share

LABELS = {  # objective -> what it is called on an axis
    "top1": "top-1",
    "macs": "multiply-adds",
    "params": "parameters",
    "latency_ms": "latency",
}
LOG_FROM = 8.0  # an axis is logarithmic where its ends are this ratio apart
RARE, STRETCH = 0.03, 1.5  # share of networks that may be cut off, and what it must gain
CROWD = 500  # networks, above which they are drawn smaller
MANY = 200  # front networks, above which attention is not told in words


def front_charts(record: SearchRecord) -> dict[str, Chart]:
    """By name: the first objective upright, one of the others along."""
    if not record.feasible:
        return {}
    first, *others = record.objectives
    return {f"front-{first.name}-{row.name}": _chart(record, first, row) for row in others}


def axis_of(row: Objective, values: Iterable[float] = (), *, log: bool = False) -> Axis:
    """An objective's axis; where `log` is allowed, logarithmic if the values call for it."""
    base, _, place = row.name.partition("@")
    label = LABELS.get(base, base) + (f" on {place}" if place else "")
    shown = [value * row.scale for value in values]
    wide = log and bool(shown) and min(shown) > 0 and max(shown) >= LOG_FROM * min(shown)
    return Axis(label, row.unit, log=wide)


def _chart(record: SearchRecord, first: Objective, second: Objective) -> Chart:
    drawn = _Drawn(record, first, second)
    front = set(record.front)
    again = [n for n in record.feasible if n.arch_id in record.selected and n not in front]
    plain = [n for n in record.feasible if n not in front and n not in again and not n.baseline]
    beyond = [n for n in record.networks if n.outcome == "complete" and not n.is_feasible]
    stopped = [n for n in record.networks if n.outcome == "stopped"]
    marks = present(
        drawn.points("over a limit", beyond, GREY, "cross", size=6, opacity=0.7),
        drawn.points(
            "stopped early",
            stopped,
            LIGHT_GREY,
            "triangle",
            filled=False,
            size=6,
            opacity=light(len(stopped)).opacity,
        ),
        drawn.points("trained", plain, SKY, "circle", **light(len(plain))._asdict()),
        drawn.steps([n for n in record.front]),
        drawn.points("trained again", again, BLUE, "circle", filled=False, sure=True),
        drawn.points("front", record.front, BLUE, "circle", sure=True),
        drawn.points("baseline", record.baselines, RED, "star", size=14, sure=True, named=True),
    )
    y, below = _cut(axis_of(first), [one for one in marks if isinstance(one, Points)], first)
    x = axis_of(second, (v for one in marks if isinstance(one, Points) for v in one.x), log=True)
    title = f"{record.study}: {axis_of(first).label} against {axis_of(second).label}"
    caption = drawn.caption() + (
        f"; {below} are below {y.low:.3g} {y.unit} and not drawn" if below else ""
    )
    return Chart(title, caption, x, y, marks)


class Look(NamedTuple):
    size: float
    opacity: float


def light(n: int) -> Look:
    """How the many in the background look: the more, the fainter."""
    return Look(7, 0.75) if n <= CROWD else Look(5, 0.45)


def _cut(axis: Axis, marks: Sequence[Points], first: Objective) -> tuple[Axis, int]:
    """The axis without a few that are far below all others, and how many those are.

    Trainings that came to nothing would press the front flat. Front and baselines always stay.
    """
    every = [y for mark in marks for y in mark.y]
    sure = [end for mark in marks for bar in mark.y_bars if bar for end in bar]
    sure += [y for mark in marks if mark.y_bars for y in mark.y]
    low = min([float(np.quantile(every, RARE)), *sure])
    top = max([*every, *sure])
    if first.sign > 0 or top - min(every) <= STRETCH * (top - low):
        return axis, 0
    low -= 0.05 * (top - low)
    return replace(axis, low=low, high=top + 0.03 * (top - low)), sum(y < low for y in every)


class _Drawn:
    """Turns networks into points of one pair of objectives, in the axes' units."""

    def __init__(self, record: SearchRecord, first: Objective, second: Objective) -> None:
        self.record = record
        self.first = first
        self.second = second
        self.bars: set[str] = set()  # what the bars mean that were drawn

    def place(self, network: Network) -> tuple[float, float] | None:
        x = self.record.value(network, self.second.name)
        y = self.record.value(network, self.first.name)
        if y is None and self.first.name == "top1" and network.curve:
            y = network.curve[-1]  # stopped there
        if x is None or y is None or not math.isfinite(y):
            return None
        return x * self.second.scale, y * self.first.scale

    def points(
        self,
        name: str,
        networks: Sequence[Network],
        colour: str,
        symbol: Symbol,
        *,
        filled: bool = True,
        size: float = 9,
        opacity: float = 1,
        sure: bool = False,
        named: bool = False,
    ) -> Points | None:
        """Points of one kind, None where there are none; `sure` ones with bars and all words."""
        pairs = [(n, place) for n in networks if (place := self.place(n))]
        if not pairs:
            return None
        kept = [n for n, _ in pairs]
        in_words = sure and len(kept) <= MANY
        return Points(
            name,
            tuple(x for _, (x, _) in pairs),
            tuple(y for _, (_, y) in pairs),
            colour,
            symbol,
            filled,
            size,
            opacity,
            x_bars=tuple(self.bar(n, self.second) for n in kept) if sure else (),
            y_bars=tuple(self.bar(n, self.first) for n in kept) if sure else (),
            hover=tuple(self.words(n) if in_words else _short(n) for n in kept),
            labels=tuple(n.name for n in kept) if named else (),
            keys=tuple(n.number for n in kept),
        )

    def steps(self, networks: Sequence[Network]) -> Line | None:
        """The staircase of those that no other beats in these two objectives."""
        places = [(n, place) for n in networks if (place := self.place(n))]
        ordered = sorted(
            (place for _, place in places),
            key=lambda p: (self.second.sign * p[0], self.first.sign * p[1]),
        )
        best: list[tuple[float, float]] = []
        for x, y in ordered:
            if not best or self.first.sign * y < self.first.sign * best[-1][1]:
                best.append((x, y))
        if len(best) < 2:
            return None
        several = len(self.record.objectives) > 2
        name = "best of these two" if several else "front's edge"
        x_line, y_line = zip(*best, strict=True)
        return Line(name, x_line, y_line, BLUE, steps=True, width=1.5, in_legend=several)

    def bar(self, network: Network, row: Objective) -> Interval | None:
        """The interval of a value, in the axis' unit."""
        found = self._top1_bar(network) if row.name == "top1" else self._latency_bar(network, row)
        return (found[0] * row.scale, found[1] * row.scale) if found else None

    def _top1_bar(self, network: Network) -> Interval | None:
        again = self.record.selected.get(network.arch_id)
        if again:
            if again.half is None:
                return None
            self.bars.add("selected")
            return again.top1 - again.half, again.top1 + again.half
        n, top1 = self.record.n_val, network.values.get("top1")
        if not n or top1 is None:
            return None
        self.bars.add("wilson")
        return Share(round(top1 * n), n).interval

    def _latency_bar(self, network: Network, row: Objective) -> Interval | None:
        facts = network.trial.user_attrs.get("latency", {}).get(row.name) or {}
        interval, relative = facts.get("interval"), facts.get("relative")
        if not interval or not relative:
            return None
        self.bars.add("latency")
        factor = network.values[row.name] / relative
        return interval[0] * factor, interval[1] * factor

    def words(self, network: Network) -> str:
        """A network in a few lines: name, trial, attention, all objectives."""
        lines = [_short(network)]
        attributes = network.trial.user_attrs
        if "architecture" in attributes:
            try:
                lines.append(describe(network_of(network.trial)))
            except (NasattnError, json.JSONDecodeError):  # of another version, or a plug-in's
                lines.append("attention: not known here")
        shown = {self.first.name, self.second.name}
        rows = [row for row in self.record.objectives if row.name not in shown]
        lines += [row.say(network.values[row.name]) for row in rows if row.name in network.values]
        again = self.record.selected.get(network.arch_id)
        if again and "top1" in network.values:
            lines.append(f"search said top-1 {100 * network.values['top1']:.1f} %")
            lines.append(f"mean of {len(again.runs)} fresh seeds")
            if again.p_front is not None:
                lines.append(f"on the front with probability {again.p_front:.2f}")
        return "\n".join(lines)

    def caption(self) -> str:
        record = self.record
        parts = [f"n = {len(record.feasible):,} networks trained to the end"]
        hidden = sum(self.place(n) is None for n in record.networks if n.outcome == "infeasible")
        if hidden:
            parts.append(f"{hidden:,} over a limit were never trained and are not drawn")
        if self.first.name == "top1" and record.n_val:
            parts.append(f"top-1 on {record.n_val:,} val-search pictures")
            if record.selected and record.n_select:
                parts.append(f"where trained again, on {record.n_select:,} val-select pictures")
        parts += [words for key, words in BAR_WORDS.items() if key in self.bars]
        if not self.bars:
            parts.append("no bars: the spread is not known")
        if any(n.outcome == "stopped" for n in record.networks):
            parts.append("stopped early: top-1 as it was then")
        return "; ".join(parts)


BAR_WORDS = {
    "wilson": "bars of top-1: 95 % interval over pictures (Wilson), other seeds would add to it",
    "selected": "where trained again, mean over fresh seeds with its 95 % interval (Student's t)",
    "latency": "bars of latency: 95 % interval of one measurement",
}


def _short(network: Network) -> str:
    return f"{network.name}, trial {network.number}"


def sorted_by_first(record: SearchRecord, networks: Sequence[Network]) -> list[Network]:
    """The best in the first objective first."""
    first = record.objectives[0]

    def place(network: Network) -> float:
        value = record.value(network, first.name)
        return math.inf if value is None else first.sign * value

    return sorted(networks, key=place)
