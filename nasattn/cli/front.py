"""The front of a search on a terminal."""

import textwrap
from collections.abc import Iterable
from typing import Any

from rich.table import Column
from rich.table import Table as RichTable

from nasattn.cli.tables import add_row, name_column, number_column, table
from nasattn.report import Front
from nasattn.report.front_table import BASELINE, front_table

WIDTH = 80
MOST = 40  # networks of a front; front.csv has them all
COLUMNS: dict[str, dict[str, Any]] = {  # but those of names and of numbers
    "attention": {"overflow": "fold", "min_width": 10},
    "trial": {"justify": "right", "min_width": 5},
}


def terminal_table(front: Front) -> RichTable:
    """The front, its baselines starred; below a rule what did not reach it."""
    found = front_table(front, MOST)
    network, *others = found.header
    columns = (
        Column(name, **COLUMNS[name]) if name in COLUMNS else number_column(name) for name in others
    )
    made = table(name_column(network), *columns, title=found.title)
    made.collapse_padding = True
    for i, group in enumerate(found.groups):
        if group.heading and not i:  # nothing is on the front
            made.add_section()
        for line in group.lines:
            name, *cells = line.cells
            name = name if name.startswith(BASELINE) else f"  {name}"
            add_row(made, [name, *cells], style="dim" if group.heading else None)
        made.add_section()
    return made


def lines(sentences: Iterable[str]) -> str:
    """Each sentence from the beginning of a line, none wider than a terminal's usual 80 columns."""
    return "\n".join(textwrap.fill(sentence, WIDTH) for sentence in sentences)
