"""table: the one look of tables on a terminal of 80 columns."""

from collections.abc import Iterable

from rich import box
from rich.table import Column, Table
from rich.text import Text

from nasattn.words import printable


def table(*columns: Column | str, title: str | None = None, tight: bool = False) -> Table:
    """A table with a rule below its head; `tight` where many columns want their place.

    A column that is a plain string holds words: they are folded, never cut.
    """
    made = Table(
        *(Column(c, overflow="fold") if isinstance(c, str) else c for c in columns),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=None if title is None else Text(title),
    )
    if tight:
        made.show_edge = False
        made.padding = 0
    return made


def number_column(header: str) -> Column:
    """A column of numbers: one below the other, never folded."""
    return Column(header, justify="right", no_wrap=True)


def name_column(header: str) -> Column:
    """A column of names that are to be seen whole, in one line."""
    return Column(header, no_wrap=True)


def add_row(made: Table, cells: Iterable[str], *, style: str | None = None) -> None:
    """Add a row of plain text: nothing in it is markup, nor steers the terminal."""
    made.add_row(*(Text(printable(cell)) for cell in cells), style=style)
