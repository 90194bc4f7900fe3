"""`nasattn plugin`: the kinds of attention that there are, and a plug-in's test."""

import json
from math import lcm

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
from nasattn.cli.tables import add_row, name_column, table
from nasattn.errors import PluginError

WIDTHS = (16, 24, 96)
STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


def list_command(*, as_json: bool) -> None:
    """A table of the built-in kinds and, below a rule, the plug-ins; then those that are broken."""
    broken = []
    for kind in entry_point_kinds():
        try:
            load_entry_point(kind)
        except PluginError as e:
            broken.append(f"plug-in {kind} cannot be loaded: {e}")
    console = Console(highlight=False, emoji=False)  # 'a.py:A: ...' is not one
    if as_json:
        kinds = [
            {"kind": kind, "options": dict(found.defaults), "source": found.source}
            | {"plugin": PLUGINS.get(kind)}
            for kind, found in ATTENTIONS.items()
        ]
        facts = {"kinds": kinds, "broken": broken}
        console.print(json.dumps(facts, indent=2, default=str), markup=False, soft_wrap=True)
        return
    console.print(kinds_table())
    for line in broken:
        console.print(line, markup=False, soft_wrap=True)


def kinds_table() -> Table:
    """Every kind with its options at their defaults and its source."""
    made = table(name_column("kind"), "options", "source")
    for kind, found in ATTENTIONS.items():
        if kind not in PLUGINS:
            add_row(made, (kind, options_words(found), found.source))
    made.add_section()
    for kind, target in PLUGINS.items():
        found = ATTENTIONS[kind]
        add_row(made, (kind, options_words(found), f"{found.source} ({target})"))
    return made


def options_words(kind: AttentionKind) -> str:
    """'rd_ratio=16 bias=True'."""
    return " ".join(f"{option}={value}" for option, value in kind.defaults.items())


def test_command(target: str) -> int:
    """Run the contract on a kind or a plug-in, a line a check; 1 where one fails, else 0."""
    from nasattn.testing import check_attention

    kind = load_plugin(target) if ":" in target else target
    found = get_kind(kind)
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    # Groups divide the channels wherever a network is built, so here as well.
    widths = [lcm(width, found.defaults.get("groups", 1)) for width in WIDTHS]
    console.print(f"{kind}: {found.source}")
    console.print(f"options: {options_words(found) or 'none'}")
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
