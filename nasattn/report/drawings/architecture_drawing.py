"""draw_architecture: a network from the picture to the classes, its words below, a legend."""

from collections.abc import Iterator, Sequence

from nasattn.arch import Architecture
from nasattn.parts import BareAttention
from nasattn.report.drawings.drawing import INK, SMALL, Drawing, fitting, text_width
from nasattn.report.drawings.network_grid import (
    MARGIN,
    TALLEST,
    Band,
    Grid,
    Network,
    drawn,
    fit_grid,
)
from nasattn.report.drawings.network_picture import draw_picture
from nasattn.report.drawings.network_table import ROW, draw_words
from nasattn.report.drawings.network_words import ACTS, place_words, square
from nasattn.report.drawings.sheet import BLOCK, EDGE, GREY, Sheet, draw_attention

SCALE_NOTE = "a slice is a block: height by √map, thickness by √channels"


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
    return sheet.drawing(grid.width, y, title or "network", describe(net), legend)


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


def draw_header(sheet: Sheet, grid: Grid, title: str, subtitle: str, y: float = MARGIN) -> float:
    """Title and subtitle, cut to the width; returns where they end."""
    room = grid.width - 2 * MARGIN
    for text, size, bold, fill in ((title, 15.0, True, INK), (subtitle, SMALL, False, GREY)):
        if text:
            y += size
            shown = fitting(text, room, size, bold=bold)
            sheet.text(MARGIN, y, shown, size, bold=bold, fill=fill)
            y += 6
    return y


def draw_band(sheet: Sheet, grid: Grid, band: Band, top: float) -> float:
    """A network's picture with its words below; returns where it ends."""
    draw_picture(sheet, grid, band, top + 4 + TALLEST / 2)
    return draw_words(sheet, grid, band, top + TALLEST + 12)


# ---- Legend ----


def draw_legend(
    sheet: Sheet, grid: Grid, nets: Sequence[Network], y: float
) -> tuple[tuple[str, ...], float]:
    """What colours and outlines mean, exactly those that are there; returns them and the end."""
    y += 8
    x, names = MARGIN, []
    for name, kind, placement in legend_entries(nets):
        sample = 18 + 8 * (placement == "after_stage")
        width = sample + text_width(name, SMALL) + 16
        if x + width > grid.width - MARGIN and x > MARGIN:
            x, y = MARGIN, y + ROW
        draw_sample(sheet, kind, placement, x, y)
        sheet.text(x + sample, y + 11, name, role="legend")
        names.append(name)
        x += width
    note = text_width(SCALE_NOTE, SMALL)
    y += ROW if x + note > grid.width - MARGIN and x > MARGIN else 0
    sheet.text(grid.width - MARGIN, y + 11, SCALE_NOTE, anchor="end", fill=GREY)
    return tuple(names), y + ROW + MARGIN - 6


def legend_entries(nets: Sequence[Network]) -> Iterator[tuple[str, str, str]]:
    """(words, kind of attention, place) of each entry; no kind: an outline."""
    found: dict[tuple[str, str, str], None] = {}
    for net in nets:
        arch = net.arch
        for s in arch.stages:
            found[s.attention.kind, place_words(s), s.attention.placement] = None
        found[arch.stem.attention.kind, "in the stem", "before_add"] = None
        found[arch.fusion.attention.kind, "in the fusion", "fusion"] = None
    for kind, words, place in found:
        if kind != "none":
            yield f"{kind}, {words}", kind, place
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
