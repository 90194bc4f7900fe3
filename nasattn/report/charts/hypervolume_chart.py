"""How far a search has come, trial by trial, beside random search of the same budget."""

from collections.abc import Sequence

import numpy as np

from nasattn.report.canvas import BLUE, RED
from nasattn.report.charts.chart import Axis, Chart, Dash, Line
from nasattn.report.charts.front_chart import axis_of
from nasattn.report.charts.search_record import Network, SearchRecord
from nasattn.search.fronts import REFERENCE, Floats, hypervolume, ranks
from nasattn.search.outcomes import BUDGET

PLACES = 200  # at most so many hypervolumes along a search


def hypervolume_charts(record: SearchRecord) -> dict[str, Chart]:
    """The hypervolume over the trials of the budget; of one objective, the best value so far."""
    if not record.feasible:
        return {}
    draw = _best if len(record.objectives) == 1 else _hypervolume
    return {"progress": draw(record)}


def growth(points: Floats, low: Floats, high: Floats, ends: Sequence[int]) -> list[float]:
    """The hypervolume of the first `end` points, for each end: (n, m) -> as many as ends.

    Only those that none so far beats are carried on, so thousands of points take a second.
    """
    front = np.empty((0, points.shape[1]))
    found = []
    for start, end in zip([0, *ends], ends, strict=False):
        front = np.vstack([front, points[start:end]])
        front = front[ranks(front) == 0] if len(front) else front
        found.append(hypervolume(front, low, high) if len(front) else 0.0)
    return found


def _hypervolume(record: SearchRecord) -> Chart:
    own, random = (record.points(n) for n in (record.feasible, record.control_feasible))
    every = np.vstack([own, random]) if len(random) else own
    ends = every.min(axis=0), every.max(axis=0)
    lines = [_line("search", record.networks, own, record.feasible, ends, BLUE)]
    if len(random):
        rest = record.control, random, record.control_feasible
        lines.append(_line("random search", *rest, ends, RED, is_control=True))
    n, m = _spent(record.networks), len(record.objectives)
    parts = [
        f"n = {n:,} trials"
        + (f" and {_spent(record.control)} of random search" if random.size else "")
    ]
    whose = "both searches" if len(random) else "the search"
    parts.append(f"{m} objectives, each scaled to 0..1 over the {len(every):,} networks of {whose}")
    parts.append(f"reference point {REFERENCE:g}, so at most {REFERENCE**m:.3g}")
    parts.append("one run each: another seed may go otherwise" if len(random) else "one run")
    if max(n, _spent(record.control)) > PLACES:
        parts.append(f"computed at {PLACES} places")
    title = f"{record.study}: hypervolume over the trials"
    return Chart(title, "; ".join(parts), TRIALS, Axis("hypervolume", "no unit"), tuple(lines))


def _line(
    name: str,
    networks: tuple[Network, ...],
    points: Floats,
    judged: tuple[Network, ...],
    ends: tuple[Floats, Floats],
    colour: str,
    is_control: bool = False,
) -> Line:
    """Of the budget's trials; those that came to no values stand for what was there before."""
    spent = [one for one in networks if one.outcome in BUDGET]
    kept = set(judged)
    so_far = np.cumsum([one in kept for one in spent])
    places = np.unique(np.linspace(1, len(spent), PLACES).round().astype(int))
    values = growth(points, *ends, [int(so_far[place - 1]) for place in places])
    dash: Dash = "dash" if is_control else "solid"
    return Line(name, tuple(map(float, places)), tuple(values), colour, dash, steps=True)


def _best(record: SearchRecord) -> Chart:
    (row,) = record.objectives
    kept = set(record.feasible)
    spent = [one for one in record.networks if one.outcome in BUDGET]
    found: list[tuple[int, float]] = []
    for i, one in enumerate(spent, start=1):
        value = row.sign * one.values[row.name] if one in kept else np.inf
        if value < (found[-1][1] if found else np.inf):
            found.append((i, value))
    found.append((len(spent), found[-1][1]))
    axis = axis_of(row)
    line = Line(
        record.study,
        tuple(float(i) for i, _ in found),
        tuple(row.sign * value * row.scale for _, value in found),
        BLUE,
        steps=True,
    )
    caption = f"n = {len(spent):,} trials; the best of so many is better than it would be again"
    return Chart(f"{record.study}: best {axis.label} so far", caption, TRIALS, axis, (line,))


def _spent(networks: tuple[Network, ...]) -> int:
    return sum(one.outcome in BUDGET for one in networks)


TRIALS = Axis("trials of the budget", "count", whole=True)
