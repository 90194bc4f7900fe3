"""How well multiply-adds foretell latency."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from nasattn.objectives import OBJECTIVES, Objective
from nasattn.report.canvas import BLUE, GREY, RED
from nasattn.report.charts.chart import SKY, Chart, Floats, Line, Points, present
from nasattn.report.charts.front_chart import axis_of, light
from nasattn.report.charts.search_record import Network, SearchRecord
from nasattn.train.metrics import Z

FEW = 5  # networks, below which there is nothing to see
STEPS = 50  # of a curve


def latency_charts(record: SearchRecord) -> dict[str, Chart]:
    """For each latency that was measured, those networks of which it is known."""
    charts = {}
    for row in record.objectives:
        if row.name.partition("@")[0] == "latency_ms":
            known = [n for n in record.networks if min(_pair(n, row), default=0) > 0]
            sizes = [n.values["macs"] for n in known]
            if len(known) >= FEW and min(sizes) < max(sizes):
                charts[f"{row.name}-macs"] = _chart(record, row, known)
    return charts


def _pair(network: Network, row: Objective) -> tuple[float, ...]:
    values = network.values
    return (values["macs"], values[row.name]) if {"macs", row.name} <= values.keys() else ()


def spearman(x: Floats, y: Floats) -> tuple[float, tuple[float, float]]:
    """Spearman's rho with its 95 % interval; NaN where all of one side are equal.

    Source of the interval: Bonett and Wright, Psychometrika 65 (2000): Fisher's z with the
    variance (1 + rho^2 / 2) / (n - 3).
    """
    if min(np.ptp(x), np.ptp(y)) == 0:
        return math.nan, (-1.0, 1.0)
    rho = float(np.corrcoef(pd.Series(x).rank(), pd.Series(y).rank())[0, 1])
    z = np.arctanh(min(max(rho, -1 + 1e-12), 1 - 1e-12))
    half = Z * math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    return rho, (float(np.tanh(z - half)), float(np.tanh(z + half)))


def _chart(record: SearchRecord, row: Objective, known: list[Network]) -> Chart:
    macs = OBJECTIVES["macs"]
    pairs = {n: (n.values["macs"] * macs.scale, n.values[row.name]) for n in known}
    x, y = zip(*pairs.values(), strict=True)
    rho, (low, high) = spearman(x, y)
    ratio = float(np.median(np.array(y) / np.array(x)))
    slope, fixed = np.polyfit(x, y, 1, w=1 / np.array(y))  # of relative errors
    along = np.geomspace(min(x), max(x), STEPS)
    missed = np.median(np.abs(np.array(y) / (slope * np.array(x) + fixed) - 1))
    unit = f"{row.unit} a million multiply-adds"
    marks = present(
        Line(
            "in proportion",
            tuple(along.tolist()),
            tuple((ratio * along).tolist()),
            GREY,
            "dash",
            width=1.5,
            hover=f"in proportion: {ratio:.3g} {unit}",
        ),
        Line(
            "fixed and in proportion",
            tuple(along.tolist()),
            tuple((slope * along + fixed).tolist()),
            BLUE,
            width=1.5,
            hover=f"{fixed:.3g} {row.unit} and {slope:.3g} {unit}",
        ),
        _points("network", [n for n in known if not n.baseline], pairs),
        _points("baseline", [n for n in known if n.baseline], pairs),
    )
    x_axis = axis_of(macs, _raw(x, macs), log=True)
    y_axis = replace(axis_of(row), log=x_axis.log)  # proportion is a straight line
    said = f"Spearman's rho {rho:.2f}, 95 % interval {low:.2f} to {high:.2f}"
    caption = (
        f"n = {len(known):,} networks, over a limit or not; {said}; fixed and in proportion:"
        f" {fixed:.3g} {row.unit} + {slope:.3g} {unit}, half of the networks are off by more than"
        f" {100 * missed:.0f} %; the search chose the networks, so this is its region of the space"
    )
    title = f"{record.study}: {y_axis.label} against multiply-adds, rho {rho:.2f}"
    return Chart(title, caption, x_axis, y_axis, marks)


def _raw(values: Floats, row: Objective) -> Floats:
    return tuple(value / row.scale for value in values)


def _points(
    name: str, networks: list[Network], pairs: dict[Network, tuple[float, float]]
) -> Points | None:
    if not networks:
        return None
    is_baseline = name == "baseline"
    x, y = zip(*(pairs[n] for n in networks), strict=True)
    return Points(
        name,
        x,
        y,
        RED if is_baseline else SKY,
        "star" if is_baseline else "circle",
        size=14 if is_baseline else light(len(networks)).size,
        opacity=1 if is_baseline else light(len(networks)).opacity,
        hover=tuple(f"{n.name}, trial {n.number}" for n in networks),
        labels=tuple(n.name for n in networks) if is_baseline else (),
        keys=tuple(n.number for n in networks),
    )
