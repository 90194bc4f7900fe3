"""Options of the commands about attention modules from outside."""

from typing import Annotated

import typer

from nasattn.cli.options import Plugins, help_where_bare

app = typer.Typer(help="Attention modules of your own: list them, test one.")
app.callback(invoke_without_command=True)(help_where_bare)


@app.command("list")
def plugin_list(
    plugin: Plugins = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """List the kinds of attention and their options."""
    from nasattn.cli.plugin import list_command

    list_command(as_json=json)


@app.command("test")
def plugin_test(
    target: Annotated[
        str, typer.Argument(help="FILE.py:CLASS, PACKAGE.MODULE:CLASS, or a kind by its name.")
    ],
) -> None:
    """Check that a module fits into any network; exit 1 if not."""
    from nasattn.cli.plugin import test_command

    raise typer.Exit(test_command(target))
