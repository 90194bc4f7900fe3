"""`nasattn plugin`: the kinds of attention that there are, and a plug-in's test."""

from math import lcm

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nasattn.attention.plugins import (
    PLUGINS,
    entry_point_kinds,
    load_entry_point,
    load_plugin,
)
from nasattn.attention.table import ATTENTIONS, AttentionKind, build_attention, get_kind
from nasattn.errors import PluginError

WIDTHS = (16, 24, 96)
STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


def list_command() -> None:
    """A table of the built-in kinds and, below a rule, the plug-ins; then those that are broken."""
    broken = []
    for kind in entry_point_kinds():
        try:
            load_entry_point(kind)
        except PluginError as e:
            broken.append(f"plug-in {kind} cannot be loaded: {e}")
    console = Console(highlight=False)
    console.print(kinds_table())
    for line in broken:
        console.print(line, markup=False, soft_wrap=True)


def kinds_table() -> Table:
    """Every kind with its options at their defaults and its source."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("kind", no_wrap=True)
    table.add_column("options")
    table.add_column("source")
    for kind, row in ATTENTIONS.items():
        if kind not in PLUGINS:
            table.add_row(*map(Text, (kind, options_words(row), row.source)))
    table.add_section()
    for kind, target in PLUGINS.items():
        row = ATTENTIONS[kind]
        table.add_row(*map(Text, (kind, options_words(row), f"{row.source} ({target})")))
    return table


def options_words(row: AttentionKind) -> str:
    """'rd_ratio=16 bias=True'."""
    return " ".join(f"{name}={value}" for name, value in row.defaults.items())


def test_command(target: str) -> int:
    """Run the contract on a kind or a plug-in, a line a check; 1 where one fails, else 0."""
    from nasattn.testing import check_attention

    kind = load_plugin(target) if ":" in target else target
    row = get_kind(kind)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    # Groups divide the channels wherever a network is built, so here as well.
    widths = [lcm(width, row.defaults.get("groups", 1)) for width in WIDTHS]
    console.print(f"{kind}: {row.source}")
    console.print(f"options: {options_words(row) or 'none'}")
    console.print(f"channels: {', '.join(map(str, widths))}\n")
    outcomes: list[str] = []
    said = ""
    for done in check_attention(lambda channels: build_attention(kind, channels), widths):
        outcomes.append(done.outcome)
        why = (": as above" if done.why == said else f": {done.why}") if done.why else ""
        said = done.why or said
        console.print(Text.assemble((f"{done.outcome:8}", STYLES[done.outcome]), done.name, why))
    words = ", ".join(f"{outcomes.count(o)} {o}" for o in STYLES if o in outcomes)
    verdict = "breaks" if "failed" in outcomes else "keeps"
    console.print(f"\n{kind} {verdict} the contract: {words}")
    return int("failed" in outcomes)
