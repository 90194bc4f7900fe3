"""The report of a search: its front, its networks, how far it came, what it cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from nasattn.data.openings import Opening
from nasattn.objectives import get_objective
from nasattn.report.charts.search_charts import CHARTS, charts_of
from nasattn.report.charts.search_record import SearchRecord, read_record
from nasattn.report.document import (
    Bullets,
    Document,
    Facts,
    Folded,
    Part,
    Picture,
    Plot,
    Words,
    plain_table,
    section,
)
from nasattn.report.drawings.architecture_drawing import draw_architecture
from nasattn.report.front import Front, FrontRow, describe, read_front
from nasattn.report.front_table import front_table, front_words, starred
from nasattn.report.ground import ground_sections
from nasattn.report.published import published_rows
from nasattn.search.outcomes import BUDGET
from nasattn.words import plural

MOST_ROWS = 30  # networks of a front that are not folded away
MOST_DRAWN = 24  # networks; the rest of a long front is in its table
MOST_OPEN = 3  # of these are not folded away
MOST_REASONS = 30
MOST_WORDS = 200  # characters of a reason


def search_report(
    study: optuna.Study, *, openings: Sequence[Opening] | None = (), commands: Sequence[str] = ()
) -> Document:
    """What `nasattn search` found in a study, also while it still runs.

    `openings` of the test split of its pictures; `commands` that look at the study again.
    """
    record, front = read_record(study), read_front(study)
    plots = {row: _plots(record, row) for row in CHARTS}
    return Document(
        title=f"Search {study.study_name}",
        summary=summary(record, front),
        sections=(
            *section("The front", *plots["front"], *front_parts(front)),
            *section("Its networks, drawn", *network_parts(study, front)),
            *section("How far the search came", *plots["progress"]),
            *section("What its networks are like", *plots["networks"], *plots["curves"]),
            *section("What the objectives hang on", *plots["importance"], *plots["latency"]),
            *section("What became of the trials", *plots["outcomes"], reasons(record)),
            *ground_sections(study, openings, commands),
        ),
    )


def _plots(record: SearchRecord, row: str) -> list[Part]:
    return [Plot(name, chart) for name, chart in charts_of(record, row).items()]


def summary(record: SearchRecord, front: Front) -> tuple[str, ...]:
    """The few sentences to read first."""
    n_tried = sum(one.outcome in BUDGET for one in record.networks)
    n_free = len(record.networks) - n_tried
    free = f", {n_free:,} more beyond a limit were not trained" if n_free else ""
    own = [row for row in front.rows if row.on_front]
    found = sum(not row.is_baseline for row in own)
    names = ", ".join(row.name for row in record.objectives)
    running = f"; {plural(record.n_open, 'trial')} not finished" if record.n_open else ""
    lines = [f"{plural(n_tried, 'network')} tried for {names}{free}{running}."]
    if own:
        papers = len(own) - found
        beside = f", {papers} of them from the papers" if papers else ""
        lines.append(f"{plural(len(own), 'network')} on the front{beside}.")
    best = [row for row in own if row.top1 is not None]
    if best:
        lines.append(" ".join(_best(max(best, key=lambda row: row.top1 or 0.0))))
    return tuple(lines)


def _best(row: FrontRow) -> list[str]:
    """The most accurate network of the front, with its figures."""
    top1 = get_objective("top1")
    half = row.selected.half if row.selected else None
    spread = "" if half is None else f" ±{top1.show(half)}"
    assert row.top1 is not None
    others = [get_objective(name).say(v) for name, v in row.values.items() if name != "top1"]
    n = len(row.selected.runs) if row.selected else 1
    return [
        f"{row.network} is the most accurate: {top1.show(row.top1)}{spread} % top-1",
        f"({plural(n, 'seed')}), {', '.join(others)}.",
    ]


def front_parts(front: Front) -> list[Part]:
    if not front.rows:
        return [Words("No network has been finished that keeps to the limits.")]
    shown, words = front_table(front, MOST_ROWS), Bullets(tuple(front_words(front)))
    every = front_table(front)
    if len(shown.lines) == len(every.lines):
        return [every, words]
    return [shown, words, Folded(f"the whole front: {len(every.lines):,} networks", (every,))]


def network_parts(study: optuna.Study, front: Front) -> list[Part]:
    """A drawing of each network in the table, the best first; unfolded those that lead."""
    rows = [row for row in front.rows if row.on_front or row.is_baseline or row.selected]
    rows.sort(key=lambda row: not row.on_front)
    resolution = study.user_attrs.get("settings", {}).get("resolution") or 224
    n_classes = study.user_attrs.get("n_classes")
    parts: list[Part] = [
        _network(row, resolution, n_classes, is_open=i < MOST_OPEN)
        for i, row in enumerate(rows[:MOST_DRAWN])
    ]
    if len(rows) > MOST_DRAWN:
        left = plural(len(rows) - MOST_DRAWN, "network")
        parts.append(Words(f"{left} more: nasattn draw {study.study_name}/TRIAL draws one."))
    return parts


def _network(row: FrontRow, resolution: int, n_classes: int | None, *, is_open: bool) -> Folded:
    drawing = draw_architecture(
        row.architecture, title=row.network, resolution=resolution, num_classes=n_classes
    )
    parts: list[Part] = [Picture(row.network, drawing.svg(), drawing.description)]
    parts.append(Facts(tuple(figure_rows(row))))
    table = plain_table(
        "as published (claims with a source, for other pictures and machines than these)",
        ("figure", "published", "for", "source"),
        published_rows(row.network if row.is_baseline else None, row.arch_id),
    )
    parts += [table] if table else []
    place = "on the front" if row.on_front else row.state if row.reason else "not on the front"
    heading = f"{starred(row)}: {describe(row.architecture)}, {place}"
    return Folded(heading, tuple(parts), f"trial-{row.trial}", is_open)


def figure_rows(row: FrontRow) -> list[tuple[str, str]]:
    """The figures of a network, with what is known of their spread."""
    rows = [("trial", str(row.trial)), ("arch_id", row.arch_id)]
    for name, value in row.values.items():
        objective = get_objective(name)
        rows.append((objective.heading, objective.show(value)))
    if row.selected:
        top1 = get_objective("top1")
        runs = ", ".join(f"seed {seed}: {top1.show(v)}" for seed, v in row.selected.runs.items())
        rows.append(("top1 % over fresh seeds", f"{top1.show(row.selected.top1)} ({runs})"))
    rows += latency_rows(row.facts.get("latency", {}))
    if row.reason:
        rows.append((row.state, row.reason))
    return rows


def latency_rows(latencies: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """How each latency was measured, and how far it spread."""
    rows = []
    for name, found in latencies.items():
        spread = (
            f"median {found['median_ms']:.3g} ms (10 to 90 %: {found['p10_ms']:.3g} to "
            f"{found['p90_ms']:.3g}), n = {found['n']}, {found['relative']:.3f} times MobileNetV2"
        )
        threads = plural(found["threads"], "thread") if "threads" in found else ""
        where = (found.get("runtime"), threads, found.get("device"))
        rows.append((f"{name} as measured", "; ".join(filter(None, (spread, *where)))))
    return rows


def reasons(record: SearchRecord) -> Part | None:
    """Why networks failed or were not trained, the most frequent first."""
    found = sorted(
        ((n, outcome, reason) for (outcome, reason), n in record.endings.items() if reason),
        reverse=True,
    )
    rows = [(outcome, reason[:MOST_WORDS], f"{n:,}") for n, outcome, reason in found[:MOST_REASONS]]
    left = len(found) - MOST_REASONS
    title = "why" + (f" (the {MOST_REASONS} most frequent; {left} more)" if left > 0 else "")
    return plain_table(title, ("outcome", "reason", "trials"), rows)
