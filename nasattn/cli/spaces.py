"""`nasattn spaces`: the search spaces that ship."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nasattn.library import shipped
from nasattn.space import load_space


def spaces_command() -> None:
    """A table of the shipped spaces."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("space", "parameters", "baselines", "description"):
        table.add_column(column, justify="right" if column == "parameters" else "left")
    for name in shipped("search_spaces"):
        space = load_space(name)
        cells = (name, str(len(space.free)), " ".join(space.baselines), space.description)
        table.add_row(*map(Text, cells))
    console = Console(highlight=False)
    console.print(table)
    console.print("next: nasattn search --space mobile", style="dim")
