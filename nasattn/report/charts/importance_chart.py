"""Which groups of parameters matter, for every objective that takes a training or a measurement."""

from nasattn.objectives import Cost, Objective
from nasattn.report.canvas import BLUE, GREY
from nasattn.report.charts.chart import Axis, Bars, Chart
from nasattn.report.charts.front_chart import axis_of
from nasattn.report.charts.importance import FEWEST, REPLICATES, Importance, measure_importance
from nasattn.report.charts.search_record import SearchRecord


def importance_charts(record: SearchRecord) -> dict[str, Chart]:
    """By objective; where there are too few trials, or nothing was learned, words say so."""
    return {
        f"importance-{row.name}": _chart(record, row)
        for row in record.objectives
        if row.cost != Cost.STATIC and record.feasible
    }


def _chart(record: SearchRecord, row: Objective) -> Chart:
    networks = [n for n in record.networks if n.outcome == "complete" and row.name in n.values]
    found = measure_importance([n.trial for n in networks], [n.values[row.name] for n in networks])
    axis = axis_of(row)
    title = f"{record.study}: what {axis.label} hangs on"
    x = Axis("R² lost by shuffling the group", "share of the variance of ranks")
    if found is None or found.r2 <= 0:
        return Chart(
            title, f"n = {len(networks):,} trained networks", x, Axis(""), words=_why(found)
        )
    names = tuple(found.groups)
    bars = tuple(
        Bars(
            name,
            (i,),
            (mean,),
            BLUE if low > 0 else GREY,
            ((low, high),),
            texts=(f"{_say(mean)} ({_say(low)} to {_say(high)})",),
            hatched=low <= 0,
        )
        for i, (name, (mean, low, high)) in enumerate(found.groups.items())
    )
    return Chart(title, _caption(found), x, Axis("", names=names), bars)


def _why(found: Importance | None) -> str:
    if found is None:
        return f"Not enough: it takes {FEWEST} trained networks that are not all equally good."
    return (
        f"Not enough: forests of {found.n:,} trained networks foretell nothing of the others"
        f" (R² {found.r2:.2f} where 0 is guessing the mean)."
    )


def _caption(found: Importance) -> str:
    thinned = f" drawn from {found.n_all:,}" if found.n < found.n_all else ""
    return (
        f"n = {found.n:,} trained networks{thinned}; what a forest's R² on the ranks of unseen"
        f" networks ({found.r2:.2f}) loses when a group's parameters are shuffled together; bars:"
        f" 95 % bootstrap interval ({REPLICATES} replicates); hatched: not told from 0; holds for"
        " the region that the search visited; groups that say the same share what they are worth"
    )


def _say(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no -0.00
