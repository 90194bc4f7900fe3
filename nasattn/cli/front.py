"""The front of a search as a table, and what to make of it."""

from rich.table import Column, Table

from nasattn.cli.progress import BASELINE
from nasattn.cli.tables import add_row, name_column, number_column, table
from nasattn.objectives import OBJECTIVES
from nasattn.report import Front, FrontRow
from nasattn.report.front import describe


def front_table(front: Front) -> Table:
    """The front, its baselines starred; below a rule the baselines that did not reach it."""
    names = list(dict.fromkeys([*front.objectives, "params"]))
    made = table(
        name_column("network"),
        *(number_column(OBJECTIVES[objective].heading) for objective in names),
        Column("attention", overflow="fold", min_width=10),
        Column("trial", justify="right", min_width=5),
        title=f"{front.study}: the Pareto front",
    )
    made.collapse_padding = True
    for found in (found for found in front.rows if found.on_front):
        add_row(made, _cells(found, names))
    made.add_section()
    for found in (found for found in front.rows if not found.on_front):
        add_row(made, _cells(found, names), style="dim")
    return made


def _cells(found: FrontRow, names: list[str]) -> list[str]:
    values = [OBJECTIVES[n].show(found.values[n]) if n in found.values else "-" for n in names]
    mark = BASELINE if found.is_baseline else " "
    trained = found.state == "complete"
    words = describe(found.architecture) if trained else f"{found.state}: {found.reason}"
    return [f"{mark} {found.network}", *values, words, str(found.trial)]


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
