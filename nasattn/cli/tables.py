"""Tables for a terminal of 80 columns."""

from rich import box
from rich.table import Table
from rich.text import Text

from nasattn.cli.progress import BASELINE
from nasattn.objectives import OBJECTIVES
from nasattn.report import Front, FrontRow
from nasattn.report.front import describe


def front_table(front: Front) -> Table:
    """The front, its baselines starred; below a rule the baselines that did not reach it."""
    names = list(dict.fromkeys([*front.objectives, "params"]))
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title=Text(f"{front.study}: the Pareto front"),
    )
    table.add_column("network", no_wrap=True)
    for name in names:
        table.add_column(OBJECTIVES[name].heading, justify="right", no_wrap=True)
    table.add_column("attention", overflow="fold", min_width=10)
    table.add_column("trial", justify="right", min_width=5)
    behind = [row for row in front.rows if not row.on_front]
    for found in (row for row in front.rows if row.on_front):
        table.add_row(*_cells(found, names))
    table.add_section()
    for found in behind:
        table.add_row(*_cells(found, names), style="dim")
    return table


def plural(n: int, noun: str) -> str:
    """`1 epoch`, `3 epochs`."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def _cells(row: FrontRow, names: list[str]) -> list[Text]:
    values = [OBJECTIVES[n].show(row.values[n]) if n in row.values else "-" for n in names]
    mark = BASELINE if row.is_baseline else " "
    words = describe(row.architecture) if row.state == "complete" else f"{row.state}: {row.reason}"
    return [Text(cell) for cell in (f"{mark} {row.network}", *values, words, str(row.trial))]


def front_words(front: Front) -> str:
    """What the marks mean, and how far the figures can be trusted."""
    words = []
    if any(row.is_baseline for row in front.rows):
        behind = any(not row.on_front for row in front.rows)
        rule = " (below the rule: not on the front)" if behind else ""
        words.append(f"{BASELINE} a paper's network{rule}")
    if "top1" in front.objectives and front.n_val:
        margin = 100 * front.accuracy_margin()
        words.append(
            f"top1: one seed on {front.n_val:,} val-search pictures, good to ±{margin:.1f} points "
            "(95 %) before\nany spread of seeds: nearer ranks are ties"
        )
    if "latency_ms" in front.objectives:
        words.append(
            "latency_ms: eager torch, batch 1, one thread, by its ratio to mobilenet_v2 in\n"
            "the same rounds; the spread is in front.json"
        )
    for network, operators in front.uncounted.items():
        words.append(f"macs of {network}: without {', '.join(operators)}, which have no rule")
    return "\n".join(words)
