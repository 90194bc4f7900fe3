"""A chart as a value: what is drawn, in words and numbers, whatever draws it.

`plotly_chart.plotly_figure` and `static_chart.static_figure` draw it. All text is plain: those who
draw escape it. A series is told from the others by symbol or dash, never by colour alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nasattn.report.canvas import BLUE, COLOURS, RED

BLACK, ORANGE, SKY, GREEN, _, PURPLE, _ = COLOURS
LIGHT_GREY = "#A6A6A6"

Symbol = Literal["circle", "square", "diamond", "triangle", "cross", "star"]
Dash = Literal["solid", "dash", "dot", "dashdot"]
Interval = tuple[float, float]  # lower and upper end
Floats = tuple[float, ...]

DASHES: tuple[Dash, ...] = ("solid", "dash", "dot", "dashdot")
SYMBOLS: tuple[Symbol, ...] = ("circle", "square", "diamond", "triangle")
LINE_COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)


@dataclass(frozen=True)
class Axis:
    """What is along one side. With `names`, those stand at 0, 1, 2, ..."""

    label: str
    unit: str = ""  # "%": values are percentages, not fractions
    log: bool = False
    whole: bool = False  # ticks at whole numbers only
    low: float | None = None
    high: float | None = None
    names: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Label and unit: `top-1 (%)`."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True)
class Points:
    """Points of one kind; tuples that are not empty have a place for each."""

    name: str  # in the legend
    x: Floats
    y: Floats
    colour: str = BLUE
    symbol: Symbol = "circle"
    filled: bool = True
    size: float = 8.0  # pixels across
    opacity: float = 1.0
    x_bars: tuple[Interval | None, ...] = ()
    y_bars: tuple[Interval | None, ...] = ()
    hover: tuple[str, ...] = ()  # lines above x and y
    labels: tuple[str, ...] = ()  # beside the points
    keys: tuple[str | int, ...] = ()  # what a point stands for: a trial's number


@dataclass(frozen=True)
class Line:
    """One line; as steps, y keeps its value until the next x."""

    name: str
    x: Floats
    y: Floats
    colour: str = BLUE
    dash: Dash = "solid"
    steps: bool = False
    width: float = 2.0  # pixels
    hover: str = ""
    in_legend: bool = True


@dataclass(frozen=True)
class Band:
    """What lies between two lines."""

    name: str
    x: Floats
    low: Floats
    high: Floats
    colour: str = BLUE
    steps: bool = False


@dataclass(frozen=True)
class Bars:
    """Horizontal bars from 0, one for each name of the y axis that `places` tells by index."""

    name: str
    places: tuple[int, ...]
    values: Floats
    colour: str = BLUE
    intervals: tuple[Interval | None, ...] = ()
    texts: tuple[str, ...] = ()  # at the ends
    hatched: bool = False

    @property
    def starts(self) -> Floats:
        """The lowest that is drawn of each."""
        return tuple(min(v, *(i or (v,))) for v, i in zip(self.values, self._drawn, strict=True))

    @property
    def ends(self) -> Floats:
        """The highest that is drawn of each."""
        return tuple(max(v, *(i or (v,))) for v, i in zip(self.values, self._drawn, strict=True))

    @property
    def _drawn(self) -> tuple[Interval | None, ...]:
        return self.intervals or (None,) * len(self.values)


@dataclass(frozen=True)
class Scale:
    """One of the upright axes of parallel coordinates, from its lowest to its highest value."""

    label: str
    unit: str
    low: float
    high: float
    flipped: bool = False  # lowest on top
    names: tuple[str, ...] = ()  # of the values 0, 1, 2, ...

    def place(self, value: float) -> float:
        """Where a value stands, from 0 at the bottom to 1 at the top."""
        unit = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return 1 - unit if self.flipped else unit

    @property
    def ticks(self) -> tuple[tuple[float, float], ...]:
        """Values to name, each with its place: the ends, or all of its words."""
        values = tuple(map(float, range(len(self.names)))) or (self.low, self.high)
        return tuple((value, self.place(value)) for value in dict.fromkeys(values))

    def say(self, value: float) -> str:
        """A value in letters, without its unit."""
        return self.names[round(value)] if self.names else f"{value:.4g}"


@dataclass(frozen=True)
class Path:
    """One thing across all scales of parallel coordinates."""

    name: str
    values: Floats
    colour: str
    dash: Dash = "solid"
    key: str | int = ""
    legend: str = ""  # its kind's name there


@dataclass(frozen=True)
class Coordinates:
    """Parallel coordinates: an upright axis for each scale, a path for each thing."""

    scales: tuple[Scale, ...]
    paths: tuple[Path, ...]


Mark = Points | Line | Band | Bars | Coordinates


@dataclass(frozen=True)
class Chart:
    """A chart: its marks from the back to the front, or words where there is too little to draw."""

    title: str
    caption: str  # n, and what bars and bands mean
    x: Axis
    y: Axis
    marks: tuple[Mark, ...] = ()
    words: str = ""  # in place of marks


def present(*marks: Mark | None) -> tuple[Mark, ...]:
    """The marks that there are."""
    return tuple(mark for mark in marks if mark is not None)


NEAR_X, NEAR_Y = 0.16, 0.06  # of the axes: labels closer than this may touch
SIDES = ((False, False), (False, True), (True, False), (True, True))  # (left, above)


def label_sides(mark: Points, chart: Chart) -> tuple[tuple[bool, bool], ...]:
    """For each labelled point, whether its label stands left and above: no two on one another.

    One whose four sides are all taken stands right and below all the same.
    """
    every = [m for m in chart.marks if isinstance(m, Points | Line)]
    x = _places([v for m in every for v in m.x], mark.x, chart.x)
    y = _places([v for m in every for v in m.y], mark.y, chart.y)
    sides: list[tuple[bool, bool]] = []
    for i in range(len(mark.labels)):
        near = [
            sides[k] for k in range(i) if abs(x[k] - x[i]) < NEAR_X and abs(y[k] - y[i]) < NEAR_Y
        ]
        first = SIDES if x[i] < 1 - NEAR_X else (*SIDES[2:], *SIDES[:2])
        sides.append(next((side for side in first if side not in near), first[0]))
    return tuple(sides)


def _places(every: Sequence[float], own: Sequence[float], axis: Axis) -> list[float]:
    """Where values stand on an axis, from 0 to 1."""

    def scaled(value: float) -> float:
        return math.log(value) if axis.log and value > 0 else value

    low, high = scaled(min(every)), scaled(max(every))
    return [(scaled(value) - low) / ((high - low) or 1.0) for value in own]
