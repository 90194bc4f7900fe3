"""The words below the picture of a network: a cell for what neighbouring stages share."""

from nasattn.report.drawings.attention_styles import paler, style_of
from nasattn.report.drawings.drawing import SMALL, text_width
from nasattn.report.drawings.network_grid import HEAD, NAME, PAD, Band, Grid
from nasattn.report.drawings.sheet import CELL, CHANGED, CHIP, GREY, Sheet, draw_chip

LEADING, ROW = 13.0, 18.0  # from line to line in a cell; a cell of one line


def draw_words(sheet: Sheet, grid: Grid, band: Band, y: float) -> float:
    """The columns' names, then a row for each thing to say; returns where they end."""
    y += SMALL
    for i, name in enumerate(band.names):
        if (i, NAME) in band.changed:
            wide = text_width(name, SMALL, bold=True) + 8
            left = grid.middle(i) - wide / 2
            sheet.box(left, y - 10.5, wide, ROW - 4, fill=CHANGED, radius=3, role="changed")
        sheet.text(grid.middle(i), y, name, anchor="middle", bold=True)
    sheet.text(grid.lefts[-1] + PAD, y, "head", bold=True)
    y += 5
    head, below = draw_head_words(sheet, grid, band, y), y
    for row in grid.rows:
        below = draw_word_row(sheet, grid, band, row, below)
    return max(head, below)


def draw_head_words(sheet: Sheet, grid: Grid, band: Band, y: float) -> float:
    left, width = grid.lefts[-1], grid.widths[-1]
    for line in band.net.words.head:
        is_changed = (HEAD, line) in band.changed
        look = {
            "fill": CHANGED if is_changed else CELL,
            "role": "changed" if is_changed else "cell",
        }
        sheet.box(left + 1, y, width - 2, ROW - 2, radius=3, **look)
        sheet.text(left + PAD, y + 11.5, line)
        y += ROW
    return y


def draw_word_row(sheet: Sheet, grid: Grid, band: Band, row: str, y: float) -> float:
    """A row of cells, as high as its longest; returns where it ends."""
    made = []
    for first, last, words in band.cells(row):
        left = grid.lefts[first]
        width = grid.lefts[last] + grid.widths[last] - left
        chip = CHIP + 4 if row == "attention" and words != "none" else 0
        made.append((first, left, width, chip, wrapped(words, width - 2 * PAD - chip), words))
    if not made:
        return y
    n_lines = max(len(lines) for *_, lines, _ in made)
    height = ROW + (n_lines - 1) * LEADING
    sheet.text(grid.headings, y + height / 2 + 2.5, row, fill=GREY)
    for first, left, width, chip, lines, words in made:
        fill, role = cell_look(row, words), "cell"
        if (first, row) in band.changed:
            fill, role = CHANGED, "changed"
        sheet.box(left + 1, y, width - 2, height - 2, fill=fill, radius=3, role=role)
        middle, level = left + width / 2, y + (height - ROW - (len(lines) - 1) * LEADING) / 2
        for j, line in enumerate(lines):
            shift = chip / 2 if j == 0 else 0
            sheet.text(middle + shift, level + 11.5 + j * LEADING, line, anchor="middle")
        if chip:
            begin = middle - (text_width(lines[0], SMALL) + chip) / 2
            draw_chip(sheet, words.split()[0], begin, level + 3.5)
    return y + height


def cell_look(row: str, words: str) -> str:
    """The colour of a cell: attention has its kind's."""
    return paler(style_of(words.split()[0]).colour, 0.16) if row == "attention" else CELL


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
