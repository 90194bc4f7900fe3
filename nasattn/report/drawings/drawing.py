"""Drawing: rectangles, lines and texts as frozen values, written as SVG or PNG.

Lengths are in pixels at scale 1, y grows downwards. Nothing here is random or dated: equal
drawings give equal bytes. matplotlib only lends its font; SVG asks for the reader's own
sans-serif ones, which are no wider.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from xml.sax.saxutils import escape, quoteattr

from nasattn.report.cells import one_line

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]

INK, PAPER, NONE = "#1f2933", "#ffffff", "none"
SIZE, SMALL = 11.0, 10.0  # of type, in pixels
ASCENT, DESCENT = 0.93, 0.24  # of DejaVu Sans, in sizes
FONTS = "Helvetica, Arial, 'DejaVu Sans', sans-serif"
DASH = (3.0, 2.0)  # on, off
HEAD = (5.0, 2.5)  # an arrow's head: its length, half its width


@dataclass(frozen=True)
class Rectangle:
    """A filled, outlined rectangle; `role` says what it stands for (SVG: data-role)."""

    x: float
    y: float
    width: float
    height: float
    fill: str = NONE
    stroke: str = NONE
    radius: float = 0
    dashed: bool = False
    role: str = ""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        return self.x, self.y, self.x + self.width, self.y + self.height


@dataclass(frozen=True)
class Line:
    """Straight pieces from point to point, each of them level or upright."""

    points: tuple[Point, ...]
    stroke: str = INK
    width: float = 1
    dashed: bool = False
    arrow: bool = False
    role: str = ""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        xs, ys = zip(*self.points, strict=True)
        edge = max(self.width / 2, HEAD[1] if self.arrow else 0)
        return min(xs) - edge, min(ys) - edge, max(xs) + edge, max(ys) + edge

    @property
    def head(self) -> tuple[Point, Point, Point]:
        """The triangle at the end of an arrow."""
        (x0, y0), (x1, y1) = self.points[-2:]
        length, half = HEAD
        dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
        x, y = x1 - length * dx, y1 - length * dy
        return (x1, y1), (x - half * dy, y - half * dx), (x + half * dy, y + half * dx)

    @property
    def pieces(self) -> Iterator[tuple[Point, Point]]:
        """Each straight piece, or each dash of it."""
        for (x0, y0), (x1, y1) in zip(self.points, self.points[1:], strict=False):
            if not self.dashed:
                yield (x0, y0), (x1, y1)
                continue
            length, (on, off) = abs(x1 - x0) + abs(y1 - y0), DASH
            dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
            for i in range(ceil(length / (on + off))):
                a, b = i * (on + off), min(length, i * (on + off) + on)
                yield (x0 + a * dx, y0 + a * dy), (x0 + b * dx, y0 + b * dy)


@dataclass(frozen=True)
class Text:
    """One line of text; y is its baseline."""

    x: float
    y: float
    text: str
    size: float = SIZE
    anchor: Anchor = "start"
    bold: bool = False
    fill: str = INK
    role: str = ""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom, as wide as in the PNG."""
        width = text_width(self.text, self.size, bold=self.bold)
        left = self.x - width * {"start": 0, "middle": 0.5, "end": 1}[self.anchor]
        return left, self.y - ASCENT * self.size, left + width, self.y + DESCENT * self.size


@dataclass(frozen=True)
class Drawing:
    """A picture: rectangles below lines below texts. `legend` holds the names it explains."""

    width: float
    height: float
    title: str
    description: str
    rectangles: tuple[Rectangle, ...]
    lines: tuple[Line, ...]
    texts: tuple[Text, ...]
    legend: tuple[str, ...] = ()

    def svg(self) -> str:
        """The picture as SVG, which loads nothing from elsewhere."""
        size = f"{_n(self.width)} {_n(self.height)}"
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}"'
            f' width="{_n(self.width)}" height="{_n(self.height)}" role="img"'
            f' font-family="{FONTS}" font-size="{_n(SIZE)}" fill="{INK}">'
        )
        return "\n".join(
            [
                head,
                f"<title>{_escaped(self.title)}</title>",
                f"<desc>{_escaped(self.description)}</desc>",
                f'<rect width="100%" height="100%" fill="{PAPER}"/>',
                *map(_svg_rectangle, self.rectangles),
                *(part for line in self.lines for part in _svg_line(line)),
                *map(_svg_text, self.texts),
                "</svg>",
                "",
            ]
        )

    def png(self, scale: float = 2) -> bytes:
        """The picture as PNG, `scale` pixels for each of the drawing's."""
        from PIL import Image, ImageDraw

        size = round(self.width * scale), round(self.height * scale)
        image = Image.new("RGB", size, PAPER)
        draw = ImageDraw.Draw(image)
        for rectangle in self.rectangles:
            _paint_rectangle(draw, rectangle, scale)
        for line in self.lines:
            _paint_line(draw, line, scale)
        for text in self.texts:
            font = _font(text.size * scale, bold=text.bold)
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[text.anchor]
            place = text.x * scale, text.y * scale
            draw.text(place, one_line(text.text), text.fill, font, anchor)
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=1)
        return file.getvalue()


def text_width(text: str, size: float = SIZE, *, bold: bool = False) -> float:
    """How wide a text is, in pixels at scale 1."""
    return _font(100, bold=bold).getlength(one_line(text)) * size / 100


def fitting(text: str, width: float, size: float = SIZE, *, bold: bool = False) -> str:
    """A text in one line, cut short where it is wider than `width`."""
    text = one_line(text)
    if text_width(text, size, bold=bold) <= width:
        return text
    low, high = 0, min(len(text), 10_000)
    while low < high:
        middle = (low + high + 1) // 2
        fits = text_width(f"{text[:middle].rstrip()}…", size, bold=bold) <= width
        low, high = (middle, high) if fits else (low, middle - 1)
    return f"{text[:low].rstrip()}…"


@cache
def _font(size: float, *, bold: bool) -> "FreeTypeFont":
    import matplotlib as mpl
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(mpl.get_data_path(), "fonts", "ttf", name)
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


# ---- SVG ----


def _n(value: float) -> str:
    """A length with one decimal at most, never -0."""
    return f"{round(value, 1) + 0.0:.1f}".removesuffix(".0")


def _escaped(text: str) -> str:
    return escape(one_line(text))


def _attributes(**values: str | float | None) -> str:
    """` name="value"` for each that is neither None nor empty."""
    shown = {
        name.replace("_", "-"): _n(v) if isinstance(v, int | float) else v
        for name, v in values.items()
        if v is not None and v != ""
    }
    return "".join(f" {name}={quoteattr(one_line(v))}" for name, v in shown.items())


def _svg_rectangle(r: Rectangle) -> str:
    attributes = _attributes(
        data_role=r.role,
        x=r.x,
        y=r.y,
        width=r.width,
        height=r.height,
        rx=r.radius or None,
        fill=r.fill,
        stroke=None if r.stroke == NONE else r.stroke,
        stroke_dasharray=_dash(r.dashed),
    )
    return f"<rect{attributes}/>"


def _svg_line(line: Line) -> Iterator[str]:
    points = list(line.points)
    if line.arrow:
        tip, *corners = line.head
        (x0, y0), (x1, y1) = corners
        points[-1] = ((x0 + x1) / 2, (y0 + y1) / 2)
        yield f'<path d="M{_points((tip, *corners))}Z"{_attributes(fill=line.stroke)}/>'
    attributes = _attributes(
        data_role=line.role,
        points=_points(points),
        fill=NONE,
        stroke=line.stroke,
        stroke_width=None if line.width == 1 else line.width,
        stroke_dasharray=_dash(line.dashed),
    )
    yield f"<polyline{attributes}/>"


def _points(points: Iterable[Point]) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in points)


def _dash(dashed: bool) -> str | None:
    return " ".join(map(_n, DASH)) if dashed else None


def _svg_text(text: Text) -> str:
    attributes = _attributes(
        data_role=text.role,
        x=text.x,
        y=text.y,
        font_size=None if text.size == SIZE else text.size,
        text_anchor=None if text.anchor == "start" else text.anchor,
        font_weight="bold" if text.bold else None,
        fill=None if text.fill == INK else text.fill,
    )
    return f"<text{attributes}>{_escaped(text.text)}</text>"


# ---- PNG ----


def _paint_rectangle(draw: "ImageDraw", r: Rectangle, scale: float) -> None:
    left, top, right, bottom = (round(v * scale) for v in r.box)
    box = (left, top, max(left, right - 1), max(top, bottom - 1))
    fill = None if r.fill == NONE else r.fill
    stroke = None if r.stroke == NONE or r.dashed else r.stroke
    width = max(1, round(scale))
    if r.radius:
        draw.rounded_rectangle(box, r.radius * scale, fill, stroke, width if stroke else 0)
    else:
        draw.rectangle(box, fill, stroke, width if stroke else 0)
    if r.dashed and r.stroke != NONE:
        x0, y0, x1, y1 = r.box
        corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0))
        _paint_line(draw, Line(corners, r.stroke, dashed=True), scale)


def _paint_line(draw: "ImageDraw", line: Line, scale: float) -> None:
    width = max(1, round(line.width * scale))
    for start, end in line.pieces:
        (x0, y0), (x1, y1) = sorted((start, end))
        left, top = round(x0 * scale), round(min(y0, y1) * scale)
        right, bottom = round(x1 * scale), round(max(y0, y1) * scale)
        half = width // 2
        if top == bottom:
            box = (left, top - half, max(left, right - 1), top - half + width - 1)
        else:
            box = (left - half, top, left - half + width - 1, max(top, bottom - 1))
        draw.rectangle(box, line.stroke)
    if line.arrow:
        draw.polygon([(x * scale, y * scale) for x, y in line.head], line.stroke)
