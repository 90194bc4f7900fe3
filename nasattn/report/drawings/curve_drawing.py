"""A learning curve as a small drawing: a column for the top-1 after each epoch."""

from collections.abc import Sequence

from nasattn.report.canvas import BLUE, GREY
from nasattn.report.drawings.drawing import SMALL, Drawing, Line, Rectangle, Text

WIDTH, HEIGHT = 440.0, 170.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, 12.0, 34.0, 44.0
MOST_NAMED = 10  # epochs; of more, the first and the last are written out


def draw_curve(curve: Sequence[tuple[float, float]], n_pictures: int = 0) -> Drawing:
    """(training loss, top1 as a fraction) of each epoch, one at least."""
    n, bottom = len(curve), HEIGHT - BOTTOM
    step = (WIDTH - LEFT - RIGHT) / n
    named = range(n) if n <= MOST_NAMED else (0, n - 1)
    on = f" on {n_pictures:,} pictures" if n_pictures else ""
    columns, texts = [], [Text(LEFT, 14, f"top-1 (%) after each epoch{on}", SMALL)]
    for i, (loss, top1) in enumerate(curve):
        height, x = (bottom - TOP) * top1, LEFT + (i + 0.5) * step
        columns.append(Rectangle(x - 0.4 * step, bottom - height, 0.8 * step, height, BLUE))
        if i in named:
            y = bottom - height - 4
            texts.append(Text(x, y, f"{100 * top1:.1f}", SMALL, anchor="middle"))
            texts.append(Text(x, bottom + 14, str(i + 1), SMALL, anchor="middle", fill=GREY))
            texts.append(Text(x, bottom + 30, f"{loss:.3g}", SMALL, anchor="middle", fill=GREY))
    texts += [
        Text(LEFT - 6, TOP + 4, "100", SMALL, anchor="end", fill=GREY),
        Text(LEFT - 6, bottom, "0", SMALL, anchor="end", fill=GREY),
        Text(LEFT - 6, bottom + 14, "epoch", SMALL, anchor="end", fill=GREY),
        Text(LEFT - 6, bottom + 30, "loss", SMALL, anchor="end", fill=GREY),
    ]
    floor = Line(((LEFT, bottom), (WIDTH - RIGHT, bottom)), stroke=GREY)
    words = "; ".join(f"epoch {i + 1}: {100 * top1:.1f} %" for i, (_, top1) in enumerate(curve))
    return Drawing(WIDTH, HEIGHT, "learning curve", words, tuple(columns), (floor,), tuple(texts))
