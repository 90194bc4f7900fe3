"""The front of a search as a table of text, and what to make of it."""

from nasattn.objectives import OBJECTIVES, get_objective
from nasattn.report.cells import Group, Line, Table
from nasattn.report.front import Front, FrontRow, describe
from nasattn.search.control import Control
from nasattn.words import plural

LIKELY = 0.05  # chance of being on the front that makes a network worth a line below it
BASELINE = "★"


def front_table(front: Front, most: int | None = None) -> Table:
    """The front, its baselines starred, and in a group below it what did not reach it.

    Of a front of more than `most` networks so many are shown, evenly along it, and all baselines.
    """
    names = list(dict.fromkeys([*front.objectives, *([] if front.is_selected else ["params"])]))
    headings = [get_objective(name).heading for name in names]
    chances = ["P(front)"] if front.has_spread else []
    on = [row for row in front.rows if row.on_front]
    off = [row for row in front.rows if not row.on_front and is_shown(row, front)]
    shown = thinned(on, most)
    groups = [
        Group(heading, tuple(Line(tuple(_cells(row, names, front))) for row in rows))
        for heading, rows in (("", shown), ("not on the front", off))
        if rows
    ]
    part = "" if len(shown) == len(on) else f", {len(shown)} of its {len(on):,} networks"
    return Table(
        f"{front.study}: the Pareto front{part}",
        ("network", *headings, *chances, "attention", "trial"),
        tuple(groups),
    )


def thinned(rows: list[FrontRow], most: int | None) -> list[FrontRow]:
    """At most so many, evenly from the first to the last, and every baseline."""
    if most is None or len(rows) <= most:
        return rows
    kept = {round(i * (len(rows) - 1) / (most - 1)) for i in range(most)}
    return [row for i, row in enumerate(rows) if i in kept or row.is_baseline]


def is_shown(found: FrontRow, front: Front) -> bool:
    """Whether a network off the front is in the table: where it may well belong there."""
    if found.is_baseline or not front.is_selected:
        return True
    chance = found.selected.p_front if found.selected else 0.0
    return chance is None or chance >= LIKELY


def starred(found: FrontRow) -> str:
    """A network's name, behind a star where it is a baseline."""
    return f"{BASELINE} {found.network}" if found.is_baseline else found.network


def _cells(found: FrontRow, names: list[str], front: Front) -> list[str]:
    values = [get_objective(n).show(found.values[n]) if n in found.values else "-" for n in names]
    again = found.selected
    if again and "top1" in names:
        top1 = OBJECTIVES["top1"]
        spread = "" if again.half is None else f" ±{top1.show(again.half)}"
        values[names.index("top1")] = top1.show(again.top1) + spread
    if front.has_spread:
        chance = again.p_front if again else None
        values.append("-" if chance is None else f"{100 * chance:.0f} %")
    trained = found.state == "complete"
    words = describe(found.architecture) if trained else f"{found.state}: {found.reason}"
    return [starred(found), *values, words, str(found.trial)]


def front_words(front: Front) -> list[str]:
    """What the marks mean, and how far the figures can be trusted, a sentence each."""
    words = []
    if any(row.is_baseline for row in front.rows):
        behind = any(not row.on_front for row in front.rows)
        rule = " (below the rule: not on the front)" if behind else ""
        words.append(f"{BASELINE} a paper's network{rule}")
    if front.is_selected:
        words += selected_words(front)
    elif "top1" in front.objectives and front.n_val:
        margin = 100 * front.accuracy_margin()
        words.append(
            f"top1: one seed on {front.n_val:,} val-search pictures, good to ±{margin:.1f} points "
            "(95 %) before any spread of seeds: nearer ranks are ties"
        )
    if front.is_unfinished:
        words.append("the best are not all trained again yet: the same command goes on")
    if "latency_ms" in front.objectives:
        words.append(
            "latency_ms: eager torch, batch 1, one thread, by its ratio to mobilenet_v2 in "
            "the same rounds; the spread is in front.json"
        )
    runtimes = [row.runtime for name in front.objectives if (row := get_objective(name)).runtime]
    for runtime in filter(None, runtimes):
        where = f" on {runtime.target}" if runtime.target else ""
        words.append(
            f"ms@{runtime}: {runtime.row.title}{where}, batch {runtime.batch}, "
            f"{plural(runtime.threads, 'thread')}, {runtime.device}, by its ratio to mobilenet_v2 "
            "in the same rounds, in a process of its own"
        )
    if front.size_ranks:
        taus = ", ".join(f"{name} {tau:.2f}" for name, tau in front.size_ranks.items())
        words.append(f"size alone ranks top1 by Kendall's tau: {taus}")
    if front.control:
        words.append(control_words(front.control))
    for network, operators in front.uncounted.items():
        words.append(f"macs of {network}: without {', '.join(operators)}, which have no rule")
    return words


def control_words(control: Control) -> str:
    """What random search reached; nothing of it before it has had the same budget."""
    if not control.is_fair:
        return (
            f"control: {control.n_random} of {control.n_search} trials; --control goes on with it"
        )
    return (
        f"hypervolume: {control.search / control.random:.2f} times that of random search, "
        f"{plural(control.n_search, 'trial')} each; "
        "one search each, so chance is part of it"
    )


def selected_words(front: Front) -> list[str]:
    """What was trained again says, and what was not."""
    n_runs = sorted({len(row.selected.runs) for row in front.rows if row.selected})
    most = plural(n_runs[-1], "fresh seed")
    runs = most if len(n_runs) == 1 else f"{n_runs[0]} to {most}"
    n_select = front.ground.get("n_select")
    where = f" on {n_select:,} val-select pictures" if n_select else ""
    words = [f"top1: mean over {runs}{where}"]
    if front.has_spread:
        words += [
            "±: 95 % by the spread of seeds, taken to be the same for all networks",
            "P(front): chance of being on the front by it, all else as measured",
        ]
    if front.n_failed_again:
        words.append(f"{plural(front.n_failed_again, 'run')} failed; the same command tries again")
    hidden = [row for row in front.rows if not row.on_front and not is_shown(row, front)]
    once = [row for row in front.rows if row.selected is None and row.state == "complete"]
    if front.has_spread and any(row not in hidden for row in once):
        words.append("without ±: one seed of the search, not trained again")
    if again := sum(row.selected is not None for row in hidden):
        words.append(f"front.csv has {again} more of P(front) below {100 * LIKELY:.0f} %")
    if n := sum(row in hidden for row in once):
        n_all = n + sum(row.selected is not None for row in front.rows)
        words.append(f"{n} more of the search's own front: --finalists {n_all} to judge them, too")
    return words
