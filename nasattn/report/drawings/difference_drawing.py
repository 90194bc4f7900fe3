"""draw_difference: two networks, one above the other, stage by stage; what differs is marked."""

from collections.abc import Iterator, Mapping, Sequence

from nasattn.arch import Architecture
from nasattn.report.drawings.architecture_drawing import (
    about,
    describe,
    draw_band,
    draw_header,
    draw_legend,
)
from nasattn.report.drawings.drawing import SMALL, Drawing, text_width
from nasattn.report.drawings.network_grid import (
    HEAD,
    MARGIN,
    NAME,
    Band,
    Grid,
    Network,
    drawn,
    fit_grid,
)
from nasattn.report.drawings.network_table import LEADING, ROW, wrapped
from nasattn.report.drawings.network_words import ACTS, ROWS, Words
from nasattn.report.drawings.sheet import CHANGED, GREY, Sheet

Pair = tuple[int | None, int | None]  # a stage of the first network, and its like in the second
LONE = 3.0  # what a stage without its like costs, in rows that differ
MAP = 2.0  # what another map costs beyond the other rows
MOST_SAID = 12  # differences
ARROW = "\N{RIGHTWARDS ARROW}"


def draw_difference(
    a: Architecture,
    b: Architecture,
    titles: tuple[str, str] = ("first", "second"),
    *,
    resolution: int = 224,
    num_classes: int | None = None,
) -> Drawing:
    """Two networks for pictures of `resolution` pixels, what differs marked and said in words.

    Stages stand below those that they are most like. Raises ArchitectureError for a resolution
    of which no map is left.
    """
    nets = drawn(a, resolution, num_classes), drawn(b, resolution, num_classes)
    pairs = align(nets[0].words.stages, nets[1].words.stages)
    bands = [band_beside(nets[i], nets[1 - i], pairs, i) for i in (0, 1)]
    grid, sheet, y = fit_grid(bands), Sheet(), MARGIN
    for title, band in zip(titles, bands, strict=True):
        y = draw_header(sheet, grid, title, about(band.net), y)
        y = draw_band(sheet, grid, band, y) + 14
    said = list(differences_in_words(nets[0], nets[1], pairs, titles))
    y = draw_list(sheet, grid, said, y)
    legend, y = draw_legend(sheet, grid, nets, y)
    title = f"{titles[0]} {ARROW} {titles[1]}"
    words = "; ".join(said)
    text = f"{titles[0]}: {describe(nets[0])}. {titles[1]}: {describe(nets[1])}. {words}"
    return sheet.drawing(grid.width, y, title, text, legend)


def align(a: Sequence[Words], b: Sequence[Words]) -> list[Pair]:
    """The stages of two networks in pairs of least total difference, in their order."""
    costs = {(i, 0): LONE * i for i in range(len(a) + 1)}
    costs |= {(0, j): LONE * j for j in range(len(b) + 1)}

    def steps(i: int, j: int) -> dict[tuple[int, int], float]:
        """What it costs to come to (i, j), by where from; a pair is the first choice."""
        found = {}
        if i and j:
            found[i - 1, j - 1] = costs[i - 1, j - 1] + unlikeness(a[i - 1], b[j - 1])
        if i:
            found[i - 1, j] = costs[i - 1, j] + LONE
        if j:
            found[i, j - 1] = costs[i, j - 1] + LONE
        return found

    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            costs[i, j] = min(steps(i, j).values())
    i, j, pairs = len(a), len(b), list[Pair]()
    while i or j:
        before = steps(i, j)
        k, m = min(before, key=before.__getitem__)
        pairs.append((k if k < i else None, m if m < j else None))
        i, j = k, m
    return pairs[::-1]


def unlikeness(a: Words, b: Words) -> float:
    """How many rows two stages differ in; at most what two lone stages cost, but for the map."""
    n = len(differing(a, b) - {"map", "strength"})
    return min(n, 2 * LONE - 1) + (MAP if a["map"] != b["map"] else 0)


def differing(a: Words, b: Words) -> set[str]:
    """The rows in which two parts differ; attention that only one has says all of itself."""
    found = {row for row in ROWS if a.get(row) != b.get(row)}
    both = "attention" in a and "attention" in b
    return found if both else found - {"place", "strength"}


def band_beside(net: Network, other: Network, pairs: Sequence[Pair], which: int) -> Band:
    """A network with marks where it differs from the other one."""
    changed = {(0, row) for row in differing(net.words.input, other.words.input)}
    changed |= {(1, row) for row in differing(net.words.stem, other.words.stem)}
    changed |= {(HEAD, line) for line in net.words.head if line not in other.words.head}
    for column, pair in enumerate(pairs, start=2):
        mine, theirs = pair[which], pair[1 - which]
        if mine is not None and theirs is not None:
            rows = differing(net.words.stages[mine], other.words.stages[theirs])
            changed |= {(column, row) for row in rows}
        elif mine is not None:
            changed.add((column, NAME))
    return Band(net, tuple(pair[which] for pair in pairs), frozenset(changed))


def differences_in_words(
    a: Network, b: Network, pairs: Sequence[Pair], titles: tuple[str, str]
) -> Iterator[str]:
    """A line for each part that differs."""
    if a.arch == b.arch:
        yield "the same network"
    if a.arch.act != b.arch.act:
        yield f"activation: {ACTS[a.arch.act]} {ARROW} {ACTS[b.arch.act]}"
    parts = {"stem": (a.words.stem, b.words.stem)}
    for i, j in pairs:
        if i is None or j is None:
            yield f"stage {j if i is None else i}: only in {titles[i is None]}"
        else:
            name = f"stage {i}" if i == j else f"stage {i}/{j}"
            parts[name] = a.words.stages[i], b.words.stages[j]
    for row in ROWS:
        if said := changes(row, parts):
            yield f"{row}: {said}"
    gone, new = lacking(a, b), lacking(b, a)
    if gone or new:
        yield f"head: {gone or 'nothing'} {ARROW} {new or 'nothing'}"


def changes(row: str, parts: Mapping[str, tuple[Words, Words]]) -> str:
    """`24 -> 32 (stage 1), 40 -> 64 (stages 2, 3)`; nothing where no part differs in the row."""
    found: dict[str, list[str]] = {}
    for name, (a, b) in parts.items():
        if row in differing(a, b):
            change = f"{a.get(row, 'none')} {ARROW} {b.get(row, 'none')}"
            found.setdefault(change, []).append(name)
    return "; ".join(f"{change} ({named(names)})" for change, names in found.items())


def named(parts: Sequence[str]) -> str:
    """`stem, stages 1, 2, 5/6`."""
    stages = [part.removeprefix("stage ") for part in parts if part != "stem"]
    some = [f"stage{'s' * (len(stages) > 1)} {', '.join(stages)}"] if stages else []
    return ", ".join((["stem"] if "stem" in parts else []) + some)


def lacking(net: Network, other: Network) -> str:
    """The lines of a head that the other has not."""
    return "; ".join(line for line in net.words.head if line not in other.words.head)


def draw_list(sheet: Sheet, grid: Grid, said: Sequence[str], y: float) -> float:
    """What differs, in words; returns where it ends."""
    y += SMALL
    sheet.text(MARGIN, y, "what differs", bold=True)
    wide = text_width("what differs", SMALL, bold=True)
    sheet.box(MARGIN + wide + 8, y - 8.5, 18, 10, fill=CHANGED, radius=3, role="sample")
    sheet.text(MARGIN + wide + 32, y, "marked so", fill=GREY)
    shown = list(said[:MOST_SAID])
    if len(said) > MOST_SAID:
        shown.append(f"and {len(said) - MOST_SAID} more")
    y += ROW - LEADING
    for line in shown:
        for k, piece in enumerate(wrapped(line, grid.width - 2 * MARGIN - 12)):
            y += LEADING
            sheet.text(MARGIN + (12 if k else 0), y, piece, role="difference")
        y += 2
    return y + 4
