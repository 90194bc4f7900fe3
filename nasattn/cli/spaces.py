"""`nasattn spaces`: the search spaces that ship."""

import json

from rich.console import Console

from nasattn.cli.tables import add_row, name_column, number_column, table
from nasattn.library import shipped
from nasattn.space import load_outline


def spaces_command(*, as_json: bool) -> None:
    """A table of the shipped spaces."""
    console = Console(highlight=False, markup=False)
    found = {name: load_outline(name) for name in shipped("search_spaces")}
    if as_json:
        rows = [
            {"space": name, "parameters": len(space.free), "baselines": space.baselines}
            | {"description": space.description}
            for name, space in found.items()
        ]
        console.print(json.dumps(rows, indent=2), soft_wrap=True)
        return
    made = table(name_column("space"), number_column("parameters"), "baselines", "description")
    for name, space in found.items():
        cells = (name, str(len(space.free)), " ".join(space.baselines), space.description)
        add_row(made, cells)
    console.print(made)
    console.print("next: nasattn search --space mobile", style="dim")
