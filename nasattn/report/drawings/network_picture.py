"""The picture of a network: slices from the input to the classes, and the ways between them.

A slice is a block: as high as the root of its map's side, as thick as that of its channels.
Attention is a coloured stripe where it stands: in the middle of a slice (after the spatial
convolution), at its end (before the add), or by itself behind the stage.
"""

from collections.abc import Sequence
from math import sqrt

from nasattn.report.drawings.drawing import INK, PAPER
from nasattn.report.drawings.network_grid import (
    BAR,
    BAR_GAP,
    BETWEEN,
    NODE,
    PAD,
    STEP,
    TALLEST,
    VECTOR,
    Band,
    Grid,
    Network,
    stage_width,
)
from nasattn.report.drawings.sheet import BLOCK, EDGE, GREY, PART, Sheet, draw_attention


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
    if arch.fusion.attention.kind != "none":
        draw_attention(sheet, arch.fusion.attention, step(BAR), y, BAR, 14)
    if arch.fusion.kind != "none":
        draw_fusion(sheet, net, step(2 * NODE) + NODE, y, ends, heights)
    if head.pooling == "grid":
        part(grid.thickness(arch.out_chs), height_of(6, net.resolution))
    else:
        part(VECTOR, vector(arch.out_chs), VECTOR / 2)
    for _ in range(head.n_hidden):
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
        draw_attention(sheet, fusion.attention, start + 10, level, BAR, 12)
    if levels:
        name = "AFF" if fusion.kind == "aff" else "multi-scale"
        sheet.text(x + 4, min(levels) - 4, name, 9, anchor="end", fill=GREY)
