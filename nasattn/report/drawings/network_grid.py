"""Where the parts of a drawn network stand: columns as wide as their words and slices need."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

from nasattn.arch import Architecture
from nasattn.parts import StageSpec
from nasattn.report.drawings.drawing import SMALL, text_width
from nasattn.report.drawings.network_words import ROWS, NetworkWords, Words, network_words

WIDTH = 900.0  # of a drawing, where the network allows
MARGIN = 16.0
TALLEST = 118.0  # the picture's height
THICKEST, THINNEST = 26.0, 2.5  # slices
BETWEEN = 1.5  # slices
GAP = 30.0  # between the slices of two stages, at least: an arrow, its stride, a fusion's tap
BAR, BAR_GAP = 5.0, 3.0  # attention behind a stage
VECTOR, STEP = 8.0, 15.0  # a vector in the head, the way from part to part
NODE = 7.0  # radius of a fusion
PAD = 5.0  # in a cell, on each side
ALONE = ("map", "channels", "blocks")  # rows of numbers, one of each stage's own


NAME = "name"  # of a column, among its rows
HEAD = -1  # the column of the head, whose rows are its lines


@dataclass(frozen=True)
class Network:
    """What is drawn of a network."""

    arch: Architecture  # as it is built for the resolution
    resolution: int
    num_classes: int | None
    words: NetworkWords

    @property
    def sizes(self) -> list[int]:
        """Sides of the maps after the stem and after each stage."""
        return self.arch.map_sizes(self.resolution)


def drawn(arch: Architecture, resolution: int, num_classes: int | None) -> Network:
    """A network as it is built for pictures of that side."""
    arch = arch.at_resolution(resolution)
    return Network(arch, resolution, num_classes, network_words(arch, resolution, num_classes))


@dataclass(frozen=True)
class Band:
    """A network with the stage that stands in each slot, and what differs from another one."""

    net: Network
    slots: tuple[int | None, ...]
    changed: frozenset[tuple[int, str]] = frozenset()  # (column, row of words or NAME)

    @property
    def names(self) -> list[str]:
        """Of the columns input, stem and slots; an empty slot has none."""
        return ["input", "stem", *("" if i is None else f"stage {i}" for i in self.slots)]

    @property
    def words(self) -> list[Words]:
        """Of the columns."""
        net = self.net.words
        return [net.input, net.stem, *({} if i is None else net.stages[i] for i in self.slots)]

    def cells(self, row: str) -> Iterator[tuple[int, int, str]]:
        """(first column, last, words): slots that say the same share a cell, but for ALONE."""
        said = [
            (words.get(row, ""), (i, row) in self.changed) for i, words in enumerate(self.words)
        ]
        start = 0
        for i, here in enumerate(said):
            if i < 2 or row in ALONE or i + 1 == len(said) or said[i + 1] != here:
                if any(here):
                    yield start, i, here[0] or "none"
                start = i + 1


@dataclass(frozen=True)
class Grid:
    """Columns of input, stem, slots and head; a slice is `scale` roots of its channels thick."""

    headings: float  # where the names of the rows begin
    lefts: tuple[float, ...]
    widths: tuple[float, ...]
    scale: float
    width: float  # of the whole drawing
    rows: tuple[str, ...]  # of words

    def middle(self, column: int) -> float:
        return self.lefts[column] + self.widths[column] / 2

    def thickness(self, channels: int) -> float:
        """Of a slice."""
        return thickness(channels, self.scale)


def thickness(channels: int, scale: float) -> float:
    """Of a slice of so many channels."""
    return max(THINNEST, scale * sqrt(channels))


def fit_grid(bands: Sequence[Band]) -> Grid:
    """The columns of bands one above the other, within WIDTH if slices can be thin enough."""
    said = {name for band in bands for name in band.net.words.rows}
    rows = tuple(name for name in ROWS if name in said)
    headings = max(text_width(name, SMALL) for name in rows) + 8
    room = WIDTH - 2 * MARGIN - headings
    words, lines = (word_widths(bands, rows, whole=whole) for whole in (False, True))
    heads = [line for band in bands for line in band.net.words.head]
    head = max(text_width(line, SMALL) for line in heads) + 2 * PAD
    stages = [stage for band in bands for stage in band.net.arch.stages]
    most, least = (t / sqrt(max(s.width for s in stages)) for t in (THICKEST, THINNEST))

    def widths(scale: float, words: Sequence[float]) -> list[float]:
        slices = [
            max(slices_width(band, column, scale) for band in bands)
            for column in range(1, len(words))
        ]
        glyphs = max(head_width(band.net, scale) for band in bands)
        between = [max(pair) for pair in zip(words[1:], slices, strict=True)]
        return [words[0], *between, max(head, glyphs)]

    room = max(room, sum(widths(least, words)))
    for needs, floor in ((lines, 0.4 * most), (words, least)):
        scale = most
        while scale > floor and sum(widths(scale, needs)) > room:
            scale *= 0.96
        made = widths(scale, needs)
        if sum(made) <= room:
            break
    spare = max(0.0, room - sum(made)) / (len(made) - 1)
    made = [made[0], *(width + spare for width in made[1:])]
    lefts = [MARGIN + headings]
    for width in made:
        lefts.append(lefts[-1] + width)
    return Grid(MARGIN, tuple(lefts[:-1]), tuple(made), scale, round(lefts[-1] + MARGIN, 1), rows)


def word_widths(bands: Sequence[Band], rows: Sequence[str], *, whole: bool) -> list[float]:
    """How wide each column must be for its longest word, or for whole cells in one line.

    What a shared cell needs is split evenly.
    """
    needs = [0.0] * len(bands[0].names)
    for band in bands:
        for i, name in enumerate(band.names):
            needs[i] = max(needs[i], text_width(name, SMALL, bold=True) + 2)
        for row in rows:
            for first, last, words in band.cells(row):
                chip = 14 if row == "attention" else 0
                pieces = [words] if whole else words.split()
                word = max(text_width(piece, SMALL) for piece in pieces) + chip
                n = last - first + 1
                for i in range(first, last + 1):
                    needs[i] = max(needs[i], word / n + 2 * PAD + 2)
    return needs


def slices_width(band: Band, column: int, scale: float) -> float:
    """What the stem (column 1) or the stage in a slot takes, with the gap behind it."""
    arch = band.net.arch
    if column == 1:
        return GAP + arch.stem.convs * (thickness(arch.stem.width, scale) + BETWEEN)
    i = band.slots[column - 2]
    return GAP if i is None else GAP + stage_width(arch.stages[i], scale)


def stage_width(stage: StageSpec, scale: float) -> float:
    """Of a stage's slices, with the attention behind them."""
    after = stage.attention.kind != "none" and stage.attention.placement == "after_stage"
    slices = stage.depth * (thickness(stage.width, scale) + BETWEEN) - BETWEEN
    return slices + (BAR + BAR_GAP if after else 0)


def head_width(net: Network, scale: float) -> float:
    """Of the parts of the head, in a row."""
    arch, head = net.arch, net.arch.head
    vectors = 1 + head.n_hidden
    parts = [VECTOR] * vectors
    parts.append(thickness(arch.out_chs, scale) if head.pooling == "grid" else VECTOR)
    if head.conv_width:
        parts.append(thickness(head.conv_width, scale))
    if arch.fusion.kind != "none":
        parts.append(2 * NODE)
    if arch.fusion.attention.kind != "none":
        parts.append(BAR)
    return sum(parts) + STEP * (len(parts) - 1) + 8
