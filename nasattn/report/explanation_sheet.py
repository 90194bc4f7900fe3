"""A sheet of pictures as networks see them: a row a picture, a block of columns a network."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from nasattn.data import ImageData
from nasattn.data.augment import Normalise
from nasattn.errors import EvaluationError
from nasattn.explain import AttentionMap, Explained, explain
from nasattn.report.canvas import BLUE, GREY, RED
from nasattn.report.cells import one_line

CELL = 160  # pixels of a picture's place
GAP = 8
TYPE, LINE = 12, 16  # pixels of type, of a line
HEAD = 2 * LINE + GAP
MOST_ATTENTION = 4  # modules of a network that are drawn
FLAT = 1e-3  # a map that varies by less of its mean says something of channels alone
FEW = 4  # pictures of a small sheet
# Sizes of a cell, colours of a palette (None: all): what a small sheet tries, one after the other.
ATTEMPTS = ((128, None), (96, None), (96, 128), (80, 128), (64, 128), (48, 32))

Pixels = NDArray[np.uint8]  # (H, W, 3)
Values = NDArray[np.float64]  # (h, w)


@dataclass(frozen=True)
class Row:
    """What is known of a picture beside its pixels."""

    name: str
    truth: str | None = None  # its class


@dataclass(frozen=True, eq=False)
class Block:
    """A network's columns: `explained` has a picture a row, `classes` the names of its classes."""

    name: str
    classes: Sequence[str]
    explained: Explained


def explain_pictures(
    model: nn.Module,
    pictures: Tensor,
    normalise: Normalise,
    classes: Sequence[str],
    *,
    truths: Sequence[int] | None = None,
    name: str = "",
    limit: int = 40_000,
) -> bytes:
    """A small sheet of at most FEW pictures (N, 3, H, W) uint8 as a PNG of at most `limit` bytes.

    It gives up size and colours, in this order of ATTEMPTS, until it fits; the last one is
    returned whatever its size. `truths` are the pictures' classes. The model is left as it was.
    """
    pictures = pictures[:FEW]
    block = Block(name, classes, explain(model, pictures, normalise))
    known = [None] * len(pictures) if truths is None else [classes[t] for t in truths[:FEW]]
    rows = [Row("", truth) for truth in known]
    for cell, colours in ATTEMPTS:
        data = to_png(draw_sheet(rows, [block], cell=cell), colours)
        if len(data) <= limit:
            break
    return data


def illustrate(model: nn.Module, data: ImageData) -> dict[str, bytes]:
    """Where a trained network looks, on the first picture of each of FEW classes of val-search.

    Nothing for a network that has no map to look at.
    """
    labels = data.val_search.labels
    _, firsts = np.unique(labels, return_index=True)
    chosen = sorted(firsts[:FEW])
    pictures = torch.from_numpy(data.val_search.images[chosen])
    normalise = Normalise.of(torch.from_numpy(data.train.images))
    truths = [int(labels[i]) for i in chosen]
    try:
        sheet = explain_pictures(model, pictures, normalise, data.classes, truths=truths)
    except EvaluationError:
        return {}
    return {"grad_cam.png": sheet}


def to_png(sheet: Image.Image, colours: int | None = None) -> bytes:
    """A sheet as a PNG file; with a palette of so many colours it is smaller."""
    if colours is not None:
        sheet = sheet.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def draw_sheet(rows: Sequence[Row], blocks: Sequence[Block], *, cell: int = CELL) -> Image.Image:
    """The pictures, and for each network heat map, overlay, answer, and attention if it has any."""
    chosen = [chosen_attention(block.explained.attention) for block in blocks]
    starts = [cell + 3 * GAP]
    for modules in chosen:
        starts.append(starts[-1] + (2 + len(modules)) * (cell + GAP) + 2 * GAP)
    height = cell + 2 * LINE + GAP + 4
    size = (max(starts[-1], 2 * GAP + cell), HEAD + len(rows) * height + LINE + 2 * GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for block, modules, left in zip(blocks, chosen, starts, strict=False):
        width = (2 + len(modules)) * (cell + GAP) - GAP
        write(draw, (left, GAP), block.name, width, bold=True)
        write(draw, (left, GAP + LINE), layer_words(block.explained), width, colour=GREY)
    for i, row in enumerate(rows):
        top = HEAD + i * height
        largest = max((b.explained.pictures[i] for b in blocks), key=lambda x: x.shape[-1])
        paste(sheet, to_pixels(largest), (GAP, top), cell)
        below = top + cell + 2
        if row.name:
            write(draw, (GAP, below), row.name, cell, end=True)
            below += LINE
        if row.truth is not None:
            write(draw, (GAP, below), f"true: {row.truth}", cell)
        for block, modules, left in zip(blocks, chosen, starts, strict=False):
            draw_answer(sheet, draw, block, row, i, (left, top), cell)
            for j, module in enumerate(modules):
                at = (left + (2 + j) * (cell + GAP), top)
                draw_attention(sheet, draw, module, i, at, cell)
    draw_key(sheet, draw, (GAP, size[1] - LINE - GAP), attention=any(chosen))
    return sheet


def chosen_attention(modules: Sequence[AttentionMap]) -> list[AttentionMap]:
    """At most MOST_ATTENTION of them, the first and the last among them."""
    n = min(len(modules), MOST_ATTENTION)
    return [modules[round(i)] for i in np.linspace(0, len(modules) - 1, n)]


def layer_words(explained: Explained) -> str:
    """Which map is shown, and how coarse it is."""
    h, w = explained.heat.maps.shape[1:]
    return f"Grad-CAM, {explained.heat.layer} ({h}x{w})"


def draw_answer(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    block: Block,
    row: Row,
    i: int,
    at: tuple[int, int],
    cell: int,
) -> None:
    """Heat map, overlay, and the predicted class with its score; in red where it is wrong."""
    left, top = at
    heat = block.explained.heat
    pixels = to_pixels(block.explained.pictures[i])
    values = heat.maps[i].double().numpy()
    highest = values.max()
    colours = heat_pixels(values / highest if highest > 0 else values, pixels.shape[:2])
    paste(sheet, colours, at, cell)
    paste(sheet, overlay(pixels, colours), (left + cell + GAP, top), cell)
    predicted, target = int(heat.predicted[i]), int(heat.targets[i])
    answer = block.classes[predicted]
    wrong = row.truth in block.classes and answer != row.truth
    score = 100 * float(heat.probabilities[i, predicted])
    below, width = top + cell + 2, 2 * cell + GAP
    colour = RED if wrong else "black"
    write(draw, (left, below), f"{score:.1f} % {answer}", width, colour=colour, bold=True)
    notes = []
    if target != predicted:
        notes.append(f"map of {100 * float(heat.scores[i]):.1f} % {block.classes[target]}")
    if highest <= 0:
        notes.append("nothing in the map speaks for it")
    write(draw, (left, below + LINE), "; ".join(notes), width, colour=GREY)


def draw_attention(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    module: AttentionMap,
    i: int,
    at: tuple[int, int],
    cell: int,
) -> None:
    """A module's map from its lowest to its highest value; bars of channels where it is flat."""
    left, top = at
    values = module.spatial[i].double().numpy()
    mean = max(abs(float(values.mean())), 1e-12)
    if not module.adds and float(np.ptp(values)) < FLAT * mean:
        values = module.channels[i].double().numpy()
        draw_bars(draw, values, at, cell)
        what = "channels"
    else:
        spread = float(np.ptp(values))
        side = cell // 2 + cell % 2
        scaled = (values - values.min()) / (spread if spread > 0 else 1)
        paste(sheet, heat_pixels(scaled, (side, side)), at, cell)
        what = "adds" if module.adds else "factor"
    write(draw, (left, top + cell + 2), module.name, cell, end=True)
    words = f"{module.kind}: {what} {values.min():.3g}\N{EN DASH}{values.max():.3g}"
    write(draw, (left, top + cell + 2 + LINE), words, cell, colour=GREY)


def draw_bars(draw: ImageDraw.ImageDraw, values: Values, at: tuple[int, int], cell: int) -> None:
    """A bar a channel, from 0 to the highest; many channels fall to one pixel's mean."""
    left, top = at
    draw.rectangle((left, top, left + cell - 1, top + cell - 1), outline=GREY)
    edges = np.linspace(0, len(values), min(len(values), cell - 2) + 1).astype(int)
    highest = max(float(values.max()), 1e-12)
    lefts = np.linspace(1, cell - 1, len(edges)).astype(int)
    for j in range(len(edges) - 1):
        share = max(float(values[edges[j] : edges[j + 1]].mean()) / highest, 0.0)
        bar_top = top + cell - 2 - round(share * (cell - 12))
        right = max(left + int(lefts[j + 1]) - 1, left + int(lefts[j]))
        draw.rectangle((left + int(lefts[j]), bar_top, right, top + cell - 2), fill=BLUE)


def draw_key(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, at: tuple[int, int], *, attention: bool
) -> None:
    """What the colours mean."""
    left, top = at
    bar = np.repeat(colour_table()[None], LINE - 4, 0)[:, ::3]  # (h, 86, 3)
    write(draw, at, "0", 20)
    sheet.paste(Image.fromarray(bar), (left + 12, top + 2))
    words = "highest of each map" + "; attention: its lowest to its highest" * attention
    write(draw, (left + 18 + bar.shape[1], top), words, sheet.width - left - 18 - bar.shape[1])


def to_pixels(picture: Tensor) -> Pixels:
    """(3, H, W) uint8 -> (H, W, 3)."""
    return np.ascontiguousarray(picture.permute(1, 2, 0).numpy())


def heat_pixels(values: Values, size: Sequence[int]) -> Pixels:
    """Values 0 .. 1 of any size as colours, enlarged smoothly to (height, width)."""
    tensor = torch.from_numpy(values)[None, None]
    large = torch.nn.functional.interpolate(tensor, tuple(size), mode="bilinear")[0, 0]
    colours: Pixels = colour_table()[(large.clamp(0, 1) * 255).round().long().numpy()]
    return colours


def overlay(pixels: Pixels, colours: Pixels) -> Pixels:
    """The picture in grey, half covered by the colours."""
    grey = pixels.mean(2, keepdims=True)
    mixed: Pixels = np.rint(0.5 * grey + 0.5 * colours).astype(np.uint8)
    return mixed


@cache
def colour_table() -> Pixels:
    """Viridis, which rises evenly to the eye, also in grey and for the colour-blind: (256, 3)."""
    from matplotlib import colormaps

    colours = np.asarray(colormaps["viridis"](np.arange(256)))[:, :3]
    table: Pixels = np.rint(colours * 255).astype(np.uint8)
    return table


def paste(sheet: Image.Image, pixels: Pixels, at: tuple[int, int], cell: int) -> None:
    """A picture in the middle of its place: pixels stay sharp squares where there are few."""
    image = Image.fromarray(pixels)
    side = max(image.size)
    if 2 * side <= cell:
        factor = cell // side
        size = (image.width * factor, image.height * factor)
        image = image.resize(size, Image.Resampling.NEAREST)
    else:
        size = (round(image.width * cell / side), round(image.height * cell / side))
        image = image.resize(size, Image.Resampling.LANCZOS)
    sheet.paste(image, (at[0] + (cell - image.width) // 2, at[1] + (cell - image.height) // 2))


def write(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    width: int,
    *,
    colour: str = "black",
    bold: bool = False,
    end: bool = False,
) -> None:
    """One line of any text, cut short where it is too wide; with `end` at its front."""
    letters = font(bold)
    text = one_line(text.encode("utf-8", "replace").decode("utf-8"))
    shown = text
    while shown and letters.getlength(shown) > width:
        text = text[1:] if end else text[:-1]
        shown = "\N{HORIZONTAL ELLIPSIS}" + text if end else text + "\N{HORIZONTAL ELLIPSIS}"
        if not text:
            break
    draw.text(at, shown, fill=colour, font=letters)


@cache
def font(bold: bool) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib."""
    from matplotlib import get_data_path

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / name), TYPE)
