"""`nasattn spaces`: the search spaces that ship."""

from rich.console import Console

from nasattn.cli.tables import add_row, name_column, number_column, table
from nasattn.library import shipped
from nasattn.space import load_outline


def spaces_command() -> None:
    """A table of the shipped spaces."""
    made = table(name_column("space"), number_column("parameters"), "baselines", "description")
    for name in shipped("search_spaces"):
        space = load_outline(name)
        cells = (name, str(len(space.free)), " ".join(space.baselines), space.description)
        add_row(made, cells)
    console = Console(highlight=False)
    console.print(made)
    console.print("next: nasattn search --space mobile", style="dim")
