"""A Chart as a matplotlib figure, for SVG and PNG files."""

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nasattn.report.canvas import GREY, SMALL, WIDTH, bare, new_figure, plain
from nasattn.report.charts.chart import (
    Band,
    Bars,
    Chart,
    Coordinates,
    Dash,
    Interval,
    Line,
    Points,
    Symbol,
    label_sides,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

HEIGHT = 4.4  # inches
ROW = 0.26  # inches of a bar
FEW_BARS = 4  # places for so many are there at least
WRAP = 128  # letters of a line of the caption
NAMES = 6  # in the legend, above which they stand one below the other
SMALL_POINT = 6.0  # pixels; those have no white edge
DOT = 0.7  # points of type a pixel of the screen
SYMBOLS: dict[Symbol, str] = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle": "^",
    "cross": "x",
    "star": "*",
}
DASHES: dict[Dash, Any] = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}


def static_figure(chart: Chart) -> "Figure":
    """A figure as wide as a page; `drawing.image` makes a file of it."""
    rows = len(chart.y.names)
    figure = new_figure(WIDTH, 1.6 + ROW * max(rows, FEW_BARS) if rows else HEIGHT)
    axes = figure.subplots()
    if chart.marks:
        _frame(axes, chart)
        for mark in chart.marks:
            DRAW[type(mark)](axes, mark, chart)
        if (chart.x.low, chart.x.high) != (None, None):
            axes.set_xlim(chart.x.low, chart.x.high)
        if (chart.y.low, chart.y.high) != (None, None):
            axes.set_ylim(chart.y.low, chart.y.high)
        _legend(axes, chart)
    else:
        axes.axis("off")
        words = textwrap.fill(chart.words, 70)
        axes.text(0.5, 0.5, _lines(words), ha="center", va="center", color=GREY)
    figure.suptitle(plain(chart.title), x=0.01, ha="left", fontsize=11, fontweight="bold")
    caption = _lines(textwrap.fill(chart.caption, WRAP))
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=SMALL - 1, color="#444444")
    return figure


def _lines(text: str) -> str:
    return "\n".join(plain(line) for line in text.split("\n"))


def _frame(axes: "Axes", chart: Chart) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    bare(axes)
    axes.tick_params(labelsize=SMALL)
    axes.set_axisbelow(True)
    for axis, side in ((chart.x, axes.xaxis), (chart.y, axes.yaxis)):
        side.set_label_text(plain(axis.title), fontsize=SMALL + 1)
        if axis.names:
            side.set_ticks(range(len(axis.names)), [plain(name) for name in axis.names])
            continue
        side.grid(color="#E6E6E6", linewidth=0.7)
        if axis.log:
            _set_scale(axes, axis is chart.x, "log")
            side.set_major_locator(LogLocator(subs=(1, 2, 5)))
            side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            side.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        elif axis.whole:
            side.set_major_locator(MaxNLocator(integer=True))
            side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _set_scale(axes: "Axes", along: bool, scale: str) -> None:
    (axes.set_xscale if along else axes.set_yscale)(scale)


def _legend(axes: "Axes", chart: Chart) -> None:
    """All marks with a name; where there are bars, their names stand at the axis."""
    if any(isinstance(mark, Bars) for mark in chart.marks):
        return
    handles, names = axes.get_legend_handles_labels()
    if len(names) < 2:
        return
    many = len(names) > NAMES
    legend = axes.legend(
        handles,
        [str(i) for i in range(len(names))],  # given as a key, a leading '_' would hide it
        loc="upper left" if many else "lower left",
        bbox_to_anchor=(1, 1) if many else (-0.02, 1),
        borderaxespad=0.2,
        ncols=1 if many else len(names),
        frameon=False,
        fontsize=SMALL,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(plain(name.removeprefix(KEY)))


KEY = " "  # before a name in the legend: matplotlib leaves out those that begin with '_'


def _points(axes: "Axes", mark: Points, chart: Chart) -> None:
    hollow = not mark.filled
    is_cross = mark.symbol == "cross"
    face, edge = ("white", mark.colour) if hollow else (mark.colour, "white")
    colours: dict[str, Any] = (
        {"color": mark.colour} if is_cross else {"facecolors": face, "edgecolors": edge}
    )
    for bars, other, name in ((mark.x_bars, mark.y, "xerr"), (mark.y_bars, mark.x, "yerr")):
        own = mark.x if name == "xerr" else mark.y
        _error_bars(axes, own, other, bars, name, mark.colour)
    axes.scatter(
        mark.x,
        mark.y,
        s=(DOT * mark.size) ** 2,
        marker=SYMBOLS[mark.symbol],
        alpha=mark.opacity,
        zorder=3,
        label=KEY + mark.name,
        linewidths=1 if hollow or is_cross else 0.5 * (mark.size > SMALL_POINT),
        **colours,
    )
    sides = label_sides(mark, chart)
    for x, y, label, (left, above) in zip(mark.x, mark.y, mark.labels, sides, strict=False):
        axes.annotate(
            plain(label),
            (x, y),
            xytext=(-6 if left else 6, 5 if above else -5),
            textcoords="offset points",
            ha="right" if left else "left",
            va="bottom" if above else "top",
            fontsize=SMALL,
            color=mark.colour,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3, "alpha": 0.7},
            zorder=4,
        )


def _error_bars(
    axes: "Axes",
    own: Sequence[float],
    other: Sequence[float],
    bars: Sequence[Interval | None],
    name: str,
    colour: str,
) -> None:
    if not any(bars):
        return
    x, y = (own, other) if name == "xerr" else (other, own)
    style: dict[str, Any] = {"ecolor": colour, "elinewidth": 0.8, "capsize": 2, "zorder": 2}
    style[name] = _reach(own, bars)
    axes.errorbar(x, y, fmt="none", **style)


def _reach(values: Sequence[float], bars: Sequence[Interval | None]) -> "NDArray[np.float64]":
    """How far bars go down and up: (2, n)."""
    ends = np.array([bar or (value, value) for bar, value in zip(bars, values, strict=True)])
    reach: NDArray[np.float64] = np.stack(
        [np.array(values) - ends[:, 0], ends[:, 1] - np.array(values)]
    )
    return np.clip(reach, 0, None)


def _line(axes: "Axes", mark: Line, chart: Chart) -> None:
    axes.plot(
        mark.x,
        mark.y,
        color=mark.colour,
        linestyle=DASHES[mark.dash],
        linewidth=DOT * mark.width,
        drawstyle="steps-post" if mark.steps else "default",
        label=KEY + mark.name if mark.in_legend else "_",
        zorder=2,
    )


def _band(axes: "Axes", mark: Band, chart: Chart) -> None:
    axes.fill_between(
        mark.x,
        mark.low,
        mark.high,
        color=mark.colour,
        alpha=0.18,
        linewidth=0,
        step="post" if mark.steps else None,
        label=KEY + mark.name,
    )


def _bars(axes: "Axes", mark: Bars, chart: Chart) -> None:
    axes.barh(
        mark.places,
        mark.values,
        height=0.7,
        color="white" if mark.hatched else mark.colour,
        edgecolor=mark.colour,
        hatch="////" if mark.hatched else None,
        linewidth=0.8,
        zorder=2,
    )
    if any(mark.intervals):
        _error_bars(axes, mark.values, mark.places, mark.intervals, "xerr", "black")
    for place, end, text in zip(mark.places, mark.ends, mark.texts, strict=False):
        axes.annotate(
            plain(text),
            (max(end, 0), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
        )
    axes.set_ylim(max(len(chart.y.names), FEW_BARS) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.16)


TICKS = {0.0: ("top", -4), 1.0: ("bottom", 4)}  # at the ends of a scale: side, points away


def _coordinates(axes: "Axes", mark: Coordinates, chart: Chart) -> None:
    places = range(len(mark.scales))
    last = {path.legend: path for path in mark.paths}
    for path in mark.paths:
        pairs = zip(mark.scales, path.values, strict=True)
        axes.plot(
            places,
            [scale.place(value) for scale, value in pairs],
            color=path.colour,
            linestyle=DASHES[path.dash],
            linewidth=1.2,
            marker="o",
            markersize=2.5,
            alpha=0.85,
            label=KEY + path.legend if path is last[path.legend] else "_",
        )
    for i, scale in enumerate(mark.scales):
        axes.axvline(i, color=GREY, linewidth=0.8, zorder=1)
        for value, y in scale.ticks:
            side, shift = TICKS.get(y, ("center", 0))
            text = plain(scale.say(value))
            axes.annotate(
                text,
                (i, y),
                xytext=(0, shift),
                textcoords="offset points",
                ha="center",
                va=side,
                fontsize=SMALL,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
                zorder=4,
            )
    heads = [f"{plain(scale.label)}\n{plain(scale.unit)}" for scale in mark.scales]
    axes.set_xticks(places, heads, fontsize=SMALL)
    axes.tick_params(axis="x", length=0, pad=8)
    axes.set_yticks([])
    axes.set_ylim(-0.09, 1.09)
    axes.grid(False)
    bare(axes, keep=())


DRAW: dict[type, Callable[["Axes", Any, Chart], None]] = {
    Points: _points,
    Line: _line,
    Band: _band,
    Bars: _bars,
    Coordinates: _coordinates,
}
