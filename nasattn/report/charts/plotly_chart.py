"""A Chart as a Plotly figure, for a browser: Optuna Dashboard, and the HTML report.

Plotly reads a subset of HTML in every text, so all of ours is escaped. Numbers are written with
as many digits as a screen can show, which keeps a figure of thousands of points small.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from nasattn.report.canvas import GREY
from nasattn.report.charts.chart import (
    Axis,
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
    from plotly.graph_objects import Figure

DIGITS = 5  # significant ones of a number
GL_FROM = 2000  # points, above which WebGL draws them
WRAP = 130  # letters of a line of the caption
LINE = 15  # pixels of such a line
CAPTION = 66  # pixels that it stands below the axis
ROW = 34  # pixels of a bar
TOP, MAP = 86, 340  # pixels above the axes, and of their height
INK, GRID, FOG = "#222222", "#E6E6E6", "rgba(255,255,255,0.75)"
SMALL_POINT = 6.0  # pixels
NAMES = 7  # in the legend, above which it stands at the right
FONT = "Open Sans, Helvetica, Arial, sans-serif"
FEW_BARS = 4  # places for so many are there at least
FEW_TICKS = 12  # whole numbers, each of which has a tick
LOG_TICKS = [float(f"{m}e{k}") for k in range(-4, 8) for m in (1, 2, 5)]
SYMBOLS: dict[Symbol, str] = {
    "circle": "circle",
    "square": "square",
    "diamond": "diamond",
    "triangle": "triangle-up",
    "cross": "x-thin",
    "star": "star",
}
DASHES: dict[Dash, str] = {"solid": "solid", "dash": "dash", "dot": "dot", "dashdot": "dashdot"}


def plotly_figure(chart: Chart, *, wrap: int = WRAP, height: int | None = None) -> "Figure":
    """A figure that fills the width that it is given; it needs no network.

    `wrap` is how many letters of the caption a line has; without a `height` in pixels it has what
    its marks need.
    """
    from plotly.graph_objects import Figure

    bars = any(isinstance(mark, Bars) for mark in chart.marks)
    caption = textwrap.wrap(chart.caption, wrap)
    bottom = CAPTION + 8 + LINE * len(caption)
    rows = len(chart.y.names) if bars else 0
    layout: dict[str, Any] = {
        "template": "none",
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "font": {"family": FONT, "size": 13, "color": INK},
        "title": {"text": f"<b>{safe(chart.title)}</b>", "font": {"size": 16}, "x": 0.01}
        | {"xanchor": "left", "y": 0.98, "yanchor": "top", "yref": "container"},
        "xaxis": _axis(chart.x, _largest(chart)) | ({"range": _bar_range(chart)} if bars else {}),
        "yaxis": _axis(chart.y) | ({"range": [max(rows, FEW_BARS) - 0.4, -0.6]} if bars else {}),
        "legend": _legend(len(chart.marks)) | {"font": {"size": 12}, "itemsizing": "trace"},
        "hoverlabel": {"align": "left", "font": {"size": 12}},
        "hovermode": "closest",
        "margin": {"l": 70, "r": 30, "t": TOP, "b": bottom},
        "height": height or TOP + bottom + (ROW * max(rows, FEW_BARS) if rows else MAP),
        "annotations": [_caption(caption)],
        "barmode": "overlay",
    }
    figure = Figure(layout=layout)
    for mark in chart.marks:
        DRAW[type(mark)](mark, figure, chart)
    if not chart.marks:
        _say(figure, chart.words)
    return figure


def plotly_javascript() -> str:
    """The library that draws the figures in a browser."""
    from plotly.offline import get_plotlyjs

    text: str = get_plotlyjs()
    return text


def safe(text: str) -> str:
    """Text that Plotly shows as it is: it knows no &quot;, and $ may begin a formula."""
    return escape(text, quote=False).replace("$", "&#36;").replace("\n", "<br>")


def short(values: Sequence[float]) -> list[float]:
    """Numbers with few digits, for they are sent as text."""
    return [float(f"{value:.{DIGITS}g}") for value in values]


def _bar_range(chart: Chart) -> list[float]:
    """From the lowest end of a bar to the highest, with room for the texts behind it."""
    bars = [mark for mark in chart.marks if isinstance(mark, Bars)]
    low = min(0.0, *(x for mark in bars for x in mark.starts))
    high = max(0.0, *(x for mark in bars for x in mark.ends))
    return [low - 0.05 * (high - low) * (low < 0), high + 0.3 * (high - low)]


def _largest(chart: Chart) -> float:
    """The largest x of the lines."""
    return max((x for mark in chart.marks if isinstance(mark, Line) for x in mark.x), default=0)


def _axis(axis: Axis, largest: float = 0) -> dict[str, Any]:
    found: dict[str, Any] = {
        "title": {"text": safe(axis.title), "font": {"size": 14}, "standoff": 12},
        "automargin": True,
        "showline": True,
        "linecolor": GREY,
        "ticks": "outside",
        "tickcolor": GREY,
        "gridcolor": GRID,
        "zeroline": False,
    }
    if axis.log:
        found |= {"type": "log", "tickvals": LOG_TICKS, "ticktext": [f"{x:g}" for x in LOG_TICKS]}
    if axis.whole:
        found |= {"tickformat": ",d"} | ({"dtick": 1} if 0 < largest <= FEW_TICKS else {})
    if axis.names:
        found |= {"tickvals": list(range(len(axis.names))), "ticktext": list(map(safe, axis.names))}
        found["showgrid"] = False
    if axis.low is not None or axis.high is not None:
        found["range"] = [axis.low, axis.high]
    return found


def _legend(n: int) -> dict[str, Any]:
    if n > NAMES:
        return {"x": 1.01, "y": 1, "yanchor": "top", "xanchor": "left"}
    return {"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"}


def _caption(lines: Sequence[str]) -> dict[str, Any]:
    return {
        "text": "<br>".join(map(safe, lines)),
        "showarrow": False,
        "xref": "paper",
        "yref": "paper",
        "x": 0,
        "y": 0,
        "yshift": -CAPTION,
        "yanchor": "top",
        "xanchor": "left",
        "align": "left",
        "font": {"size": 11, "color": "#555555"},
    }


def _say(figure: "Figure", words: str) -> None:
    """Words where the marks would be."""
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(
        text="<br>".join(map(safe, textwrap.wrap(words, 70))),
        showarrow=False,
        xref="paper",
        yref="paper",
        x=0.5,
        y=0.5,
        font={"size": 15, "color": "#555555"},
    )


def _points(mark: Points, figure: "Figure", chart: Chart) -> None:
    from plotly.graph_objects import Scatter, Scattergl

    cls = Scattergl if _is_crowded(chart) else Scatter
    symbol = SYMBOLS[mark.symbol]
    hollow = mark.symbol == "cross" or not mark.filled
    trace: dict[str, Any] = {
        "name": safe(mark.name),
        "x": short(mark.x),
        "y": short(mark.y),
        "mode": "markers",
        "marker": {
            "symbol": f"{symbol}-open" if hollow else symbol,
            "color": mark.colour,
            "size": mark.size,
            "opacity": mark.opacity,
            "line": {"width": 1.5, "color": mark.colour} if hollow else _edge(mark.size),
        },
        "hovertemplate": f"{_where(chart.x, 'x')}<br>{_where(chart.y, 'y')}<extra></extra>",
    }
    if mark.hover:
        trace["hovertext"] = [safe(text) for text in mark.hover]
        trace["hovertemplate"] = "%{hovertext}<br>" + trace["hovertemplate"]
    if mark.keys:
        trace["customdata"] = list(mark.keys)
    for name, ends, values in (("error_x", mark.x_bars, mark.x), ("error_y", mark.y_bars, mark.y)):
        if any(ends):
            trace[name] = _error_bars(ends, values, mark.colour)
    figure.add_trace(cls(trace))
    sides = label_sides(mark, chart)
    for x, y, label, (left, above) in zip(mark.x, mark.y, mark.labels, sides, strict=False):
        figure.add_annotation(
            x=math.log10(x) if chart.x.log else x,
            y=math.log10(y) if chart.y.log else y,
            text=safe(label),
            showarrow=False,
            xanchor="right" if left else "left",
            xshift=-9 if left else 9,
            yshift=9 if above else -9,
            font={"size": 12, "color": mark.colour},
            bgcolor=FOG,
            borderpad=0,
        )


def _is_crowded(chart: Chart) -> bool:
    """Whether WebGL draws the points: all of them, for it paints over what it does not draw."""
    return sum(len(mark.x) for mark in chart.marks if isinstance(mark, Points)) > GL_FROM


def _edge(size: float) -> dict[str, Any]:
    """A white edge that keeps points apart; small ones have none."""
    return {"width": 1 if size > SMALL_POINT else 0, "color": "white"}


def _error_bars(
    ends: Sequence[Interval | None], values: Sequence[float], colour: str
) -> dict[str, Any]:
    pairs = [end or (value, value) for end, value in zip(ends, values, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": short([high - v for (_, high), v in zip(pairs, values, strict=True)]),
        "arrayminus": short([v - low for (low, _), v in zip(pairs, values, strict=True)]),
        "color": colour,
        "thickness": 1,
        "width": 3,
    }


def _where(axis: Axis, letter: str) -> str:
    """A line of a template: `top-1: 93.5 %`."""
    return f"{_plain(axis.label)}: %{{{letter}:.4~g}} {_plain(axis.unit)}".rstrip()


def _plain(text: str) -> str:
    """Text for a template, in which %{ would begin a value."""
    return safe(text).replace("%{", "% {")


def _line(mark: Line, figure: "Figure", chart: Chart) -> None:
    from plotly.graph_objects import Scatter, Scattergl

    cls = Scattergl if _is_crowded(chart) else Scatter
    where = f"{_where(chart.x, 'x')}<br>{_where(chart.y, 'y')}<extra></extra>"
    figure.add_trace(
        cls(
            name=safe(mark.name),
            x=short(mark.x),
            y=short(mark.y),
            mode="lines",
            line={
                "color": mark.colour,
                "dash": DASHES[mark.dash],
                "width": mark.width,
                "shape": "hv" if mark.steps else "linear",
            },
            text=safe(mark.hover or mark.name),
            hovertemplate="%{text}<br>" + where,
            showlegend=mark.in_legend,
        )
    )


def _band(mark: Band, figure: "Figure", chart: Chart) -> None:
    from plotly.graph_objects import Scatter

    shape = "hv" if mark.steps else "linear"
    edge = {"width": 0, "color": mark.colour, "shape": shape}
    common: dict[str, Any] = {"x": short(mark.x), "mode": "lines", "line": edge}
    common |= {"hoverinfo": "skip", "legendgroup": safe(mark.name)}
    figure.add_trace(Scatter(common, y=short(mark.low), showlegend=False))
    figure.add_trace(
        Scatter(
            common,
            y=short(mark.high),
            name=safe(mark.name),
            fill="tonexty",
            fillcolor=_faint(mark.colour),
        )
    )


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def _bars(mark: Bars, figure: "Figure", chart: Chart) -> None:
    from plotly.graph_objects import Bar

    trace: dict[str, Any] = {
        "name": safe(mark.name),
        "orientation": "h",
        "width": 0.7,
        "showlegend": False,
        "x": short(mark.values),
        "y": list(mark.places),
        "marker": {
            "color": "white" if mark.hatched else mark.colour,
            "line": {"color": mark.colour, "width": 1},
            "pattern": {"shape": "/" if mark.hatched else "", "fgcolor": mark.colour, "size": 6},
        },
        "hovertext": [safe(chart.y.names[i]) for i in mark.places],
        "hovertemplate": f"%{{hovertext}}<br>{_where(chart.x, 'x')}<extra></extra>",
    }
    if any(mark.intervals):
        trace["error_x"] = _error_bars(mark.intervals, mark.values, INK)
    figure.add_trace(Bar(trace))
    for place, end, text in zip(mark.places, mark.ends, mark.texts, strict=False):
        figure.add_annotation(
            x=max(end, 0),
            y=place,
            text=safe(text),
            showarrow=False,
            xanchor="left",
            xshift=4,
            font={"size": 12},
        )


def _coordinates(mark: Coordinates, figure: "Figure", chart: Chart) -> None:
    from plotly.graph_objects import Scatter

    scales = mark.scales
    places = list(range(len(scales)))
    last = {path.legend: path for path in mark.paths}
    for path in mark.paths:
        said = [
            f"{safe(scale.label)} {safe(scale.say(value))} {safe(scale.unit)}".rstrip()
            for scale, value in zip(scales, path.values, strict=True)
        ]
        pairs = zip(scales, path.values, strict=True)
        figure.add_trace(
            Scatter(
                name=safe(path.legend),
                x=places,
                y=short([scale.place(value) for scale, value in pairs]),
                mode="lines+markers",
                line={"color": path.colour, "dash": DASHES[path.dash], "width": 1.8},
                marker={"size": 5},
                opacity=0.8,
                text=["<br>".join([safe(path.name), *said])] * len(scales),
                hovertemplate="%{text}<extra></extra>",
                customdata=[path.key] * len(scales),
                legendgroup=safe(path.legend),
                showlegend=path is last[path.legend],
            )
        )
    for i, scale in enumerate(scales):
        figure.add_shape(type="line", x0=i, x1=i, y0=0, y1=1, line={"color": GREY, "width": 1})
        for value, y in scale.ticks:
            figure.add_annotation(
                x=i,
                y=y,
                text=safe(scale.say(value)),
                showarrow=False,
                yanchor={0.0: "top", 1.0: "bottom"}.get(y, "middle"),
                bgcolor=FOG,
            )
    heads = ["<br>".join([*safe(s.label).split(), safe(s.unit)]) for s in scales]
    figure.update_xaxes(
        tickvals=places, ticktext=heads, showgrid=False, showline=False, ticks="", title=None
    )
    figure.update_xaxes(tickangle=0, tickfont={"size": 10})  # turned ones would reach the caption
    figure.update_yaxes(visible=False, range=[-0.08, 1.08])


DRAW: dict[type, Callable[[Any, "Figure", Chart], None]] = {
    Points: _points,
    Line: _line,
    Band: _band,
    Bars: _bars,
    Coordinates: _coordinates,
}
