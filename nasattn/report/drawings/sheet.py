"""Sheet: the shapes of a drawing in the making, and how attention looks on it."""

from dataclasses import dataclass, field
from typing import Any

from nasattn.parts import BareAttention
from nasattn.report.drawings.attention_styles import paler, style_of
from nasattn.report.drawings.drawing import SMALL, Drawing, Line, Rectangle, Text

CHIP = 9.0  # side of the small square of a kind's colour
BLOCK, EDGE, PART, CELL = "#dde5ee", "#66788a", "#f4f6f8", "#f1f3f6"
GREY, CHANGED = "#55616d", "#ffe08a"


@dataclass
class Sheet:
    """The shapes of a drawing in the making."""

    rectangles: list[Rectangle] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)

    def box(self, x: float, y: float, width: float, height: float, **look: Any) -> None:
        self.rectangles.append(Rectangle(x, y, width, height, **look))

    def line(self, *points: tuple[float, float], **look: Any) -> None:
        self.lines.append(Line(points, **look))

    def text(self, x: float, y: float, text: str, size: float = SMALL, **look: Any) -> None:
        self.texts.append(Text(x, y, text, size, **look))

    def drawing(
        self, width: float, height: float, title: str, description: str, legend: tuple[str, ...]
    ) -> Drawing:
        """What is on it, as a value."""
        shapes = tuple(self.rectangles), tuple(self.lines), tuple(self.texts)
        return Drawing(width, height, title, description, *shapes, legend)


def draw_attention(
    sheet: Sheet,
    spec: BareAttention,
    x: float,
    y: float,
    width: float,
    height: float,
    strength: float = 1.0,
) -> None:
    """An upright stripe in the colour of its kind, around the level `y`."""
    if spec.kind == "none":
        return
    style = style_of(spec.kind)
    colour = paler(style.colour, 0.25 + 0.75 * strength)
    look = {"fill": paler(colour, 0.3) if style.dashed else colour, "role": "attention"}
    sheet.box(x, y - height / 2, width, height, **look)
    if style.dashed:
        middle, half = x + width / 2, height / 2
        sheet.line((middle, y - half), (middle, y + half), stroke=colour, width=width, dashed=True)


def draw_chip(sheet: Sheet, kind: str, x: float, y: float) -> None:
    """A small square of a kind's colour."""
    style = style_of(kind)
    sheet.box(x, y, CHIP, CHIP, fill=paler(style.colour, 0.3 if style.dashed else 1))
    if style.dashed:
        middle = x + CHIP / 2
        sheet.line((middle, y), (middle, y + CHIP), stroke=style.colour, width=CHIP, dashed=True)
