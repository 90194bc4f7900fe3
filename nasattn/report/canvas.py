"""What the plots share: colours, sizes, grids of small plots, and figures as bytes.

matplotlib is imported inside the functions, without pyplot: there is no global state, no window.
Colours are Okabe and Ito's, which the colour-blind can tell apart.
"""

import io
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from nasattn.report.cells import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")

BLUE, RED, GREY = "#0072B2", "#D55E00", "#767676"
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", RED, "#CC79A7", BLUE)
DPI = 150
WIDTH = 7.5  # inches
SMALL = 8  # points of type


def image(figure: "Figure", kind: str) -> bytes:
    """A figure as the bytes of an 'svg' or 'png' file: equal figures give equal bytes."""
    import matplotlib as mpl

    file = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "nasattn"}), warnings.catch_warnings():
        # A name in letters that the font does not have is drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(file, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else {})
    return file.getvalue()


def plain(text: str) -> str:
    """Text for matplotlib, in which `$` would begin a formula."""
    return one_line(text).replace("$", r"\$")


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of a size in inches, which finds its own margins."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def bare(axes: "Axes", keep: Iterable[str] = ("left", "bottom")) -> None:
    """Take away the lines of a frame that say nothing."""
    for name in {"left", "right", "top", "bottom"} - set(keep):
        axes.spines[name].set_visible(False)


def panels(
    names: Sequence[T],
    draw: "Callable[[Axes, T], None]",
    *,
    columns: int,
    share_x: bool,
    height: float = 2.0,
) -> "Figure":
    """A grid of small plots with one scale of top-1."""
    columns = min(columns, len(names))
    n_rows = math.ceil(len(names) / columns)
    figure = new_figure(WIDTH, 0.6 + height * n_rows)
    grid = figure.subplots(n_rows, columns, sharey=True, sharex=share_x, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        draw(axes, name)
        axes.tick_params(labelsize=SMALL)
        bare(axes)
    for axes, above in zip(
        grid.flat[len(names) :], grid.flat[len(names) - columns :], strict=False
    ):
        axes.set_visible(False)
        above.tick_params(labelbottom=True)
    return figure
