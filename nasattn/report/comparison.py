"""Two searches of one kind side by side: their fronts, how far each came, what they differ in."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import optuna

from nasattn.errors import StudyError
from nasattn.objectives import Objective
from nasattn.report.canvas import BLUE, RED
from nasattn.report.cells import Table
from nasattn.report.charts.chart import Chart, Line, Points
from nasattn.report.charts.front_chart import axis_of
from nasattn.report.charts.search_charts import is_ablation
from nasattn.report.charts.search_record import Network, SearchRecord, read_record
from nasattn.report.document import Bullets, Document, Plot, plain_table, section
from nasattn.report.ground import core_hours
from nasattn.search.fronts import Floats, hypervolume, minimised, ranks
from nasattn.search.trials import counts
from nasattn.spec import differences
from nasattn.words import plural

N_LIMITS = 6  # at which the best top1 of each is looked up
MOST_SHARED = 20  # networks in both
MOST_LETTERS = 60  # of a setting


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two."""

    study: optuna.Study
    record: SearchRecord
    name: str  # by which it is told from the other

    @cached_property
    def hours(self) -> str:
        """Processor time of its trials."""
        found = (t.user_attrs for t in self.study.get_trials(deepcopy=False) if counts(t))
        return core_hours(sum(a.get("seconds", 0.0) * a.get("threads", 1) for a in found))


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two searches, judged by the objectives that both have."""

    sides: tuple[Side, Side]
    objectives: tuple[Objective, ...]

    def front(self, side: Side) -> list[Network]:
        """The networks of a side that no other of its own beats in the common objectives."""
        known = [one for one in side.record.feasible if self.values(one) is not None]
        if not known:
            return []
        rank = ranks(self.points(known))
        return [known[i] for i in np.flatnonzero(rank == 0)]

    def values(self, network: Network) -> list[float] | None:
        """Those of the search itself: a mean over fresh seeds would be more than the other has."""
        found = [network.values.get(row.name) for row in self.objectives]
        return [v for v in found if v is not None] if None not in found else None

    def points(self, networks: Sequence[Network]) -> Floats:
        """(networks, objectives), smaller is better in each."""
        values = [self.values(one) for one in networks]
        return minimised([v for v in values if v], self.objectives)

    @cached_property
    def fronts(self) -> tuple[list[Network], list[Network]]:
        first, second = (self.front(side) for side in self.sides)
        return first, second

    @cached_property
    def front_points(self) -> tuple[Floats, Floats]:
        first, second = (self.points(own) for own in self.fronts)
        return first, second

    @cached_property
    def hypervolumes(self) -> tuple[float, float]:
        """Of both fronts, objectives scaled to 0..1 over all networks of the two."""
        every = np.vstack([self.points(side.record.feasible) for side in self.sides])
        low, high = every.min(axis=0), every.max(axis=0)
        first, second = (hypervolume(points, low, high) for points in self.front_points)
        return first, second

    def beaten(self, side: int) -> float:
        """The share of a side's front that a network of the other is better than."""
        own, other = self.front_points[side], self.front_points[1 - side]
        no_worse = (other[:, None] <= own[None]).all(axis=2)
        better = (other[:, None] < own[None]).any(axis=2)
        return float((no_worse & better).any(axis=0).mean())


def compare(a: optuna.Study, b: optuna.Study) -> Comparison:
    """Two studies of `nasattn search`; StudyError where nothing of them can be compared."""
    for study in (a, b):
        if is_ablation(study):
            raise StudyError(f"study {study.study_name!r}: is an ablation; two searches compare")
    names_of = (a.study_name, b.study_name)
    if names_of[0] == names_of[1]:
        names_of = (f"{a.study_name} (first)", f"{b.study_name} (second)")
    sides = Side(a, read_record(a), names_of[0]), Side(b, read_record(b), names_of[1])
    names = [{(row.name, row.direction) for row in side.record.objectives} for side in sides]
    common = tuple(r for r in sides[0].record.objectives if (r.name, r.direction) in names[1])
    if not common:
        raise StudyError(
            f"studies {a.study_name!r} and {b.study_name!r}: have no objective in common "
            f"({'; '.join(', '.join(map(' '.join, sorted(one))) for one in names)})"
        )
    comparison = Comparison(sides, common)
    for side, front in zip(sides, comparison.fronts, strict=True):
        if not front:
            raise StudyError(f"study {side.name!r}: has no network that keeps to its limits yet")
    return comparison


def comparison_report(comparison: Comparison) -> Document:
    """The two as one report."""
    first, second = comparison.sides
    return Document(
        title=f"{first.name} and {second.name}",
        summary=tuple(comparison_words(comparison)),
        sections=(
            *section("Both fronts", *front_plots(comparison)),
            *section(
                "In figures",
                figures_table(comparison),
                best_table(comparison),
                shared_table(comparison),
            ),
            *section("What they differ in", differences_table(comparison)),
        ),
    )


def comparison_words(comparison: Comparison) -> list[str]:
    """What may be said of the two, and what may not."""
    names = [side.name for side in comparison.sides]
    own = comparison.hypervolumes
    lead = 0 if own[0] >= own[1] else 1
    ratio = own[lead] / own[1 - lead] if own[1 - lead] > 0 else float("inf")
    words = [
        f"{names[0]} and {names[1]} have the same hypervolume."
        if own[0] == own[1]
        else f"{names[lead]} reaches {ratio:.2f} times the hypervolume of {names[1 - lead]}, in "
        f"{', '.join(row.name for row in comparison.objectives)}; one run each, so chance is "
        "part of it."
    ]
    settings = [side.study.user_attrs.get("settings", {}) for side in comparison.sides]
    data = [(s.get("data_hash"), s.get("resolution"), s.get("table_hash")) for s in settings]
    if data[0] != data[1]:
        words.append("They saw different pictures: their top-1 cannot be compared.")
    elif settings[0].get("recipe") != settings[1].get("recipe"):
        words.append("They trained by different recipes, which top-1 shows, too.")
    spent = [sum(map(counts, side.study.get_trials(deepcopy=False))) for side in comparison.sides]
    if spent[0] != spent[1]:
        words.append(f"They spent different budgets: {spent[0]:,} and {spent[1]:,} trials.")
    if any(side.record.selected for side in comparison.sides):
        words.append("Figures are those of the search itself, one seed a network, in both.")
    return words


def front_plots(comparison: Comparison) -> list[Plot]:
    """The first objective against each of the others, both fronts in one chart."""
    first, *others = comparison.objectives
    return [Plot(f"fronts-{row.name}", _front_chart(comparison, first, row)) for row in others]


def _front_chart(comparison: Comparison, first: Objective, second: Objective) -> Chart:
    marks: list[Points | Line] = []
    looks = ((BLUE, "circle", "solid"), (RED, "square", "dash"))
    numbers = []
    for side, front, look in zip(comparison.sides, comparison.fronts, looks, strict=True):
        x = [one.values[second.name] * second.scale for one in front]
        y = [one.values[first.name] * first.scale for one in front]
        order = np.argsort(x)
        xs, ys = (tuple(float(v[i]) for i in order) for v in (x, y))
        hover = tuple(f"{front[i].name}\ntrial {front[i].number}" for i in order)
        colour, symbol, dash = look
        marks.append(Line(side.name, xs, ys, colour, dash, in_legend=False, width=1.0))  # type: ignore[arg-type]
        marks.append(Points(side.name, xs, ys, colour, symbol, hover=hover))  # type: ignore[arg-type]
        numbers.append(f"n = {len(front)} of {side.name}")
    caption = f"{'; '.join(numbers)}: the networks that no other of the same search beats"
    title = f"{first.name} against {second.name}"
    return Chart(title, caption, axis_of(second), axis_of(first), tuple(marks))


def figures_table(comparison: Comparison) -> Table | None:
    """What each came to, a column each."""
    first, second = comparison.sides
    trials = [side.study.get_trials(deepcopy=False) for side in comparison.sides]
    rows = [
        ("trials of the budget", *(f"{sum(map(counts, found)):,}" for found in trials)),
        ("networks on the front", *(str(len(front)) for front in comparison.fronts)),
        ("hypervolume", *(f"{value:.4f}" for value in comparison.hypervolumes)),
        ("beaten by the other's", *(f"{100 * comparison.beaten(i):.0f} %" for i in (0, 1))),
        ("processor time", *(side.hours for side in comparison.sides)),
    ]
    return plain_table("what each came to", ("figure", first.name, second.name), rows)


def best_table(comparison: Comparison) -> Table | None:
    """The best first objective within limits on the second, for both."""
    if len(comparison.objectives) < 2:
        return None
    first, second = comparison.objectives[:2]
    costs = [one.values[second.name] for front in comparison.fronts for one in front]
    limits = np.unique(np.quantile(costs, np.linspace(0, 1, N_LIMITS), method="inverted_cdf"))
    rows = []
    for limit in limits:
        best = [_best(side, first, second, float(limit)) for side in comparison.sides]
        rows.append((second.show(float(limit)), *best))
    names = [side.name for side in comparison.sides]
    title = f"the best {first.heading} within a limit"
    return plain_table(
        title, (f"{second.heading} {'at most' if second.sign > 0 else 'at least'}", *names), rows
    )


def _best(side: Side, first: Objective, second: Objective, limit: float) -> str:
    found = [
        one
        for one in side.record.feasible
        if second.sign * one.values[second.name] <= second.sign * limit
    ]
    if not found:
        return "-"
    best = min(found, key=lambda one: first.sign * one.values[first.name])
    return f"{first.show(best.values[first.name])} ({best.name})"


def shared_table(comparison: Comparison) -> Table | None:
    """Networks that both have trained: what the first objective came to in each."""
    first = comparison.objectives[0]
    known = [{one.arch_id: one for one in side.record.feasible} for side in comparison.sides]
    shared = [arch_id for arch_id in known[0] if arch_id in known[1]]
    rows = []
    for arch_id in shared[:MOST_SHARED]:
        cells = (first.show(own[arch_id].values[first.name]) for own in known)
        rows.append((known[0][arch_id].name, *cells))
    names = [side.name for side in comparison.sides]
    left = len(shared) - MOST_SHARED
    more = f" ({left} more)" if left > 0 else ""
    title = f"{plural(len(shared), 'network')} in both, by {first.heading}{more}"
    return plain_table(title, ("network", *names), rows)


def differences_table(comparison: Comparison) -> Table | Bullets:
    """Every setting, version or machine that is not the same."""
    rows = []
    for place in ("settings", "environment"):
        found = [side.study.user_attrs.get(place, {}) for side in comparison.sides]
        rows += [(path, _short(a), _short(b)) for path, a, b in differences(*found)]
    names = [side.name for side in comparison.sides]
    table = plain_table("settings and machines", ("what", *names), rows)
    return table or Bullets(("Nothing: settings, versions and machine are the same.",))


def _short(value: object) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 3]}..."
