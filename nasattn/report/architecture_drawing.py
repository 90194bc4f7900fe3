"""draw_architecture: a network from the picture to the classes, its stages to scale.

A slice is a block: as high as the root of its map's side, as thick as that of its channels.
Attention is a coloured stripe where it stands: in the middle of a slice (after the spatial
convolution), at its end (before the add), or by itself behind the stage.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from nasattn.arch import Architecture
from nasattn.parts import BareAttention
from nasattn.report.attention_styles import paler, style_of
from nasattn.report.drawing import (
    INK,
    PAPER,
    Drawing,
    Line,
    Rectangle,
    Text,
    fitting,
    text_width,
)
from nasattn.report.network_grid import (
    BAR,
    BAR_GAP,
    BETWEEN,
    MARGIN,
    NODE,
    PAD,
    SMALL,
    STEP,
    TALLEST,
    VECTOR,
    Band,
    Grid,
    Network,
    drawn,
    fit_grid,
    stage_width,
)
from nasattn.report.network_words import ACTS, square

BLOCK, EDGE, PART, CELL = "#dde5ee", "#66788a", "#f4f6f8", "#f1f3f6"
GREY, CHANGED = "#55616d", "#ffe08a"
LEADING, ROW = 13.0, 18.0  # from line to line in a cell; a cell of one line
CHIP = 9.0
SCALE_NOTE = "a slice is a block: height by √map, thickness by √channels"
PLACES = {
    "after_spatial": "inside the block",
    "before_add": "before the add",
    "after_stage": "after the stage",
}


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


def draw_architecture(
    arch: Architecture,
    *,
    title: str = "",
    subtitle: str | None = None,
    resolution: int = 224,
    num_classes: int | None = None,
) -> Drawing:
    """A network as it is built for pictures of `resolution` pixels, 900 wide where that will do.

    Without a `subtitle` it says pictures, classes, activation and arch_id. Raises
    ArchitectureError for a resolution of which no map is left.
    """
    net = drawn(arch, resolution, num_classes)
    band = Band(net, tuple(range(len(net.arch.stages))))
    grid, sheet = fit_grid([band]), Sheet()
    y = draw_header(sheet, grid, title, about(net) if subtitle is None else subtitle)
    y = draw_band(sheet, grid, band, y)
    legend, y = draw_legend(sheet, grid, [net], y)
    return Drawing(
        grid.width,
        y,
        title or "network",
        describe(net),
        tuple(sheet.rectangles),
        tuple(sheet.lines),
        tuple(sheet.texts),
        legend,
    )


def about(net: Network) -> str:
    """What holds for the whole network, in a line."""
    classes = "" if net.num_classes is None else f", {net.num_classes} classes"
    grows = ", attention grows with depth" if net.arch.progressive else ""
    pictures = f"{square(net.resolution)} pixels{classes}"
    return f"{pictures}, {ACTS[net.arch.act]}{grows}  ·  {net.arch.arch_id}"


def describe(net: Network) -> str:
    """The network in words, for those who do not see it."""
    stages = ((f"stage {i}", words) for i, words in enumerate(net.words.stages))
    parts = [
        f"{name}: {', '.join(f'{row} {text}' for row, text in words.items())}"
        for name, words in (("stem", net.words.stem), *stages)
    ]
    return "; ".join((about(net), *parts, f"head: {', '.join(net.words.head)}"))


def draw_header(sheet: Sheet, grid: Grid, title: str, subtitle: str) -> float:
    """Title and subtitle, cut to the width; returns where they end."""
    y, room = MARGIN, grid.width - 2 * MARGIN
    for text, size, bold, fill in ((title, 15.0, True, INK), (subtitle, SMALL, False, GREY)):
        if text:
            y += size
            shown = fitting(text, room, size, bold=bold)
            sheet.text(MARGIN, y, shown, size, bold=bold, fill=fill)
            y += 6
    return y


# ---- A network ----


def draw_band(sheet: Sheet, grid: Grid, band: Band, top: float) -> float:
    """A network's picture with its words below; returns where it ends."""
    draw_picture(sheet, grid, band, top + 4 + TALLEST / 2)
    return draw_words(sheet, grid, band, top + TALLEST + 12)


def height_of(size: float, resolution: int) -> float:
    """Of a map of that side."""
    return TALLEST * sqrt(size / resolution)


def draw_picture(sheet: Sheet, grid: Grid, band: Band, y: float) -> None:
    """The slices from input to classes on the level `y`, with arrows between them."""
    net = band.net
    width, height = 5.0, TALLEST
    x = grid.middle(0) - 1.5 * width
    for i in range(3):
        look = {"fill": PART, "stroke": EDGE, "role": "input"}
        sheet.box(x + i * width, y - height / 2, width, height, **look)
    right, size = x + 3 * width, net.resolution
    heights = [height_of(side, net.resolution) for side in net.sizes]
    ends = []  # where each stage ends
    places = [(1, -1), *((j + 2, i) for j, i in enumerate(band.slots) if i is not None)]
    for column, i in places:
        side = net.sizes[i + 1]
        left = grid.middle(column) - part_width(net, grid, i) / 2
        arrow(sheet, right, left, y, stride=round(size / side))
        right = draw_slices(sheet, grid, net, i, left, y, heights[i + 1])
        size = side
        ends += [right] if i >= 0 else []
    draw_head(sheet, grid, net, right, y, ends, heights)


def part_width(net: Network, grid: Grid, i: int) -> float:
    """Of the slices of a stage, or of the stem (-1)."""
    if i >= 0:
        return stage_width(net.arch.stages[i], grid.scale)
    stem = net.arch.stem
    return stem.convs * (grid.thickness(stem.width) + BETWEEN) - BETWEEN


def arrow(sheet: Sheet, left: float, right: float, y: float, stride: int = 1) -> None:
    sheet.line((left + 3, y), (right - 3, y), stroke=GREY, arrow=True, role="flow")
    if stride > 1:
        sheet.text((left + right) / 2, y - 5, f"↓{stride}", 9, anchor="middle", fill=GREY)


def draw_slices(
    sheet: Sheet, grid: Grid, net: Network, i: int, x: float, y: float, height: float
) -> float:
    """A stage's blocks, or the stem's convolutions (-1), with attention; returns where it ends."""
    if i < 0:
        stem = net.arch.stem
        wide = grid.thickness(stem.width)
        for j in range(stem.convs):
            look = {"fill": PART, "stroke": EDGE, "role": "stem"}
            sheet.box(x + j * (wide + BETWEEN), y - height / 2, wide, height, **look)
        x += stem.convs * (wide + BETWEEN) - BETWEEN
        stripe = max(2.0, 0.4 * wide)
        draw_attention(sheet, stem.attention, x - stripe, y, stripe, height)
        return x
    arch, stage = net.arch, net.arch.stages[i]
    strength = (i + 1) / len(arch.stages) if arch.progressive else 1.0
    wide = grid.thickness(stage.width)
    stripe = max(1.5, (0.36 if wide > 6 else 0.5) * wide)
    in_chs = [chs for chs, _ in arch.with_in_chs()][i]
    for j in range(stage.depth):
        skipped = stage.run_share < 1 and (j > 0 or stage.keeps_shape(in_chs))
        look = {"fill": BLOCK, "stroke": EDGE, "role": "block"}
        sheet.box(x, y - height / 2, wide, height, dashed=skipped, **look)
        placement = stage.attention.placement
        if placement != "after_stage":
            share = 0.5 if placement == "after_spatial" else 1.0
            left = x + share * (wide - stripe)
            draw_attention(sheet, stage.attention, left, y, stripe, height, strength)
        x += wide + BETWEEN
    x -= BETWEEN
    if stage.attention.kind != "none" and stage.attention.placement == "after_stage":
        draw_attention(sheet, stage.attention, x + BAR_GAP, y, BAR, height, strength)
        x += BAR_GAP + BAR
    return x


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


# ---- The head ----


def draw_head(
    sheet: Sheet,
    grid: Grid,
    net: Network,
    right: float,
    y: float,
    ends: Sequence[float],
    heights: Sequence[float],
) -> None:
    """Convolution, fusion, pooled vector, hidden vectors, classes, from left to right."""
    arch, head = net.arch, net.arch.head
    last, x = heights[-1], grid.lefts[-1] + PAD

    def step(width: float) -> float:
        nonlocal right, x
        arrow(sheet, right, x, y)
        left = x
        right, x = x + width, x + width + STEP
        return left

    def part(width: float, height: float, radius: float = 0) -> None:
        look = {"fill": PART, "stroke": EDGE, "radius": radius, "role": "head"}
        sheet.box(step(width), y - height / 2, width, height, **look)

    if head.conv_width:
        part(grid.thickness(head.conv_width), last)
    if arch.fusion.kind != "none":
        draw_fusion(sheet, net, step(2 * NODE) + NODE, y, ends, heights)
    if head.pooling == "grid":
        part(grid.thickness(arch.out_chs), height_of(6, net.resolution))
    else:
        part(VECTOR, vector(arch.out_chs), VECTOR / 2)
    for _ in range(head.hidden_layers if head.hidden else 0):
        part(VECTOR, vector(head.hidden), VECTOR / 2)
    part(VECTOR, vector(net.num_classes or 1000), VECTOR / 2)


def vector(units: int) -> float:
    """The length of a vector: the same in all drawings, up to 4096 units."""
    return max(VECTOR, 0.8 * TALLEST * sqrt(min(units, 4096) / 4096))


def draw_fusion(
    sheet: Sheet,
    net: Network,
    x: float,
    y: float,
    ends: Sequence[float],
    heights: Sequence[float],
) -> None:
    """The node that adds up maps, and the ways from the stages whose maps it takes."""
    fusion = net.arch.fusion
    look = {"fill": PAPER, "stroke": INK, "radius": NODE, "role": "fusion"}
    sheet.box(x - NODE, y - NODE, 2 * NODE, 2 * NODE, **look)
    sheet.line((x - 3.5, y), (x + 3.5, y), width=1.5)
    sheet.line((x, y - 3.5), (x, y + 3.5), width=1.5)
    levels = [y - heights[i + 1] / 2 - 9 for i in net.arch.fusion_stages]
    for i, level in zip(net.arch.fusion_stages, levels, strict=True):
        start = ends[i] + 5
        points = ((start, y), (start, level), (x, level), (x, y - NODE - 1))
        sheet.line(*points, stroke=INK, arrow=True, role="fused")
        draw_attention(sheet, fusion.attention, x - 14, level, BAR, 10)
    draw_attention(sheet, fusion.attention, x - NODE - 9, y, BAR, 10)
    if levels:
        name = "AFF" if fusion.kind == "aff" else "multi-scale"
        sheet.text(x + 4, min(levels) - 4, name, 9, anchor="end", fill=GREY)


# ---- Words ----


def draw_words(sheet: Sheet, grid: Grid, band: Band, y: float) -> float:
    """The columns' names, then a row for each thing to say; returns where they end."""
    y += SMALL
    for i, name in enumerate(band.names):
        sheet.text(grid.middle(i), y, name, anchor="middle", bold=True)
    sheet.text(grid.lefts[-1] + PAD, y, "head", bold=True)
    y += 5
    head, below = draw_head_words(sheet, grid, band, y), y
    for row in band.net.words.rows:
        below = draw_word_row(sheet, grid, band, row, below)
    return max(head, below)


def draw_head_words(sheet: Sheet, grid: Grid, band: Band, y: float) -> float:
    left, width = grid.lefts[-1], grid.widths[-1]
    for line in band.net.words.head:
        fill = CHANGED if (-1, line) in band.changed else CELL
        sheet.box(left + 1, y, width - 2, ROW - 2, fill=fill, radius=3, role="cell")
        sheet.text(left + PAD, y + 11.5, line)
        y += ROW
    return y


def draw_word_row(sheet: Sheet, grid: Grid, band: Band, row: str, y: float) -> float:
    """A row of cells, as high as its longest; returns where it ends."""
    made = []
    for first, last, words in band.cells(row):
        left = grid.lefts[first]
        width = grid.lefts[last] + grid.widths[last] - left
        chip = CHIP + 4 if row == "attention" else 0
        made.append((first, left, width, chip, wrapped(words, width - 2 * PAD - chip), words))
    n_lines = max(len(lines) for *_, lines, _ in made)
    height = ROW + (n_lines - 1) * LEADING
    sheet.text(grid.headings, y + 11.5, row, fill=GREY)
    for first, left, width, chip, lines, words in made:
        kind = words.split()[0]
        fill = CELL
        if (first, row) in band.changed:
            fill = CHANGED
        elif row == "attention":
            fill = paler(style_of(kind).colour, 0.16)
        sheet.box(left + 1, y, width - 2, height - 2, fill=fill, radius=3, role="cell")
        middle = left + width / 2
        inside = max(text_width(line, SMALL) for line in lines) + chip
        if chip:
            draw_chip(sheet, kind, middle - inside / 2, y + 3.5)
        for j, line in enumerate(lines):
            sheet.text(middle + chip / 2, y + 11.5 + j * LEADING, line, anchor="middle")
    return y + height


def draw_chip(sheet: Sheet, kind: str, x: float, y: float) -> None:
    """A small square of a kind's colour."""
    style = style_of(kind)
    sheet.box(x, y, CHIP, CHIP, fill=paler(style.colour, 0.3 if style.dashed else 1))
    if style.dashed:
        middle = x + CHIP / 2
        sheet.line((middle, y), (middle, y + CHIP), stroke=style.colour, width=CHIP, dashed=True)


def wrapped(words: str, width: float) -> list[str]:
    """Words in as few lines as fit a width; a word that is too long stands alone."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, SMALL) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


# ---- Legend ----


def draw_legend(
    sheet: Sheet, grid: Grid, nets: Sequence[Network], y: float
) -> tuple[tuple[str, ...], float]:
    """What colours and outlines mean, exactly those that are there; returns them and the end."""
    y += 8
    x, names = MARGIN, []
    for name, kind, placement in legend_entries(nets):
        width = 24 + text_width(name, SMALL) + 14
        if x + width > grid.width - MARGIN and x > MARGIN:
            x, y = MARGIN, y + ROW
        draw_sample(sheet, kind, placement, x, y)
        sheet.text(x + 24, y + 11, name, role="legend")
        names.append(name)
        x += width
    note = text_width(SCALE_NOTE, SMALL)
    y += ROW if x + note > grid.width - MARGIN and x > MARGIN else 0
    sheet.text(grid.width - MARGIN, y + 11, SCALE_NOTE, anchor="end", fill=GREY)
    return tuple(names), y + ROW + MARGIN - 6


def legend_entries(nets: Sequence[Network]) -> Iterator[tuple[str, str, str]]:
    """(words, kind of attention, place) of each entry; no kind: an outline."""
    found: dict[tuple[str, str], None] = {}
    for net in nets:
        arch = net.arch
        stages = ((s.attention.kind, s.attention.placement) for s in arch.stages)
        others = ((arch.stem.attention.kind, "stem"), (arch.fusion.attention.kind, "fusion"))
        found |= dict.fromkeys([*stages, *others])
    for kind, place in found:
        if kind != "none":
            yield f"{kind}, {PLACES.get(place, f'in the {place}')}", kind, place
    if any(stage.run_share < 1 for net in nets for stage in net.arch.stages):
        yield "runs for a share of the pictures", "", "skipped"


def draw_sample(sheet: Sheet, kind: str, place: str, x: float, y: float) -> None:
    """A small block with its stripe, as in the picture."""
    middle, spec = y + 7, BareAttention.model_construct(kind=kind or "none")
    if place != "fusion":
        dashed = place == "skipped"
        sheet.box(x, y, 12, 14, fill=BLOCK, stroke=EDGE, dashed=dashed, role="sample")
    stripe = {"after_spatial": x + 3.75, "after_stage": x + 15, "fusion": x + 4}.get(place, x + 7.5)
    draw_attention(sheet, spec, stripe, middle, 4.5, 14)
