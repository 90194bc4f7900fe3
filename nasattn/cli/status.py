"""`nasattn status`: what runs where, what came of it, and how long the rest takes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from nasattn.cli.commands import storage_option
from nasattn.cli.tables import add_row, name_column, number_column, table
from nasattn.search.outcomes import BUDGET, Outcome
from nasattn.search.status import Reasons, Run, State, StudyStatus, read_all, read_status
from nasattn.search.storage import open_storage, without_password
from nasattn.words import duration, plural, printable

MOST = 8  # reasons that are shown
LONGEST = 160  # characters of a text that somebody else wrote
DAY = 86_400  # seconds
ENDINGS = {
    "budget": "all networks were tried",
    "exhausted": "no other network was found that keeps to the limits",
    "in vain": "nothing new was proposed that keeps to the limits",
    "interrupted": "interrupted",
    "error": "by an error",
}
# What is to be said of the networks that the storage has as being evaluated.
PENDING: dict[State, str] = {
    "running": "being evaluated",
    "unknown": "being evaluated, or left behind by a process that is gone",
}
LEFT_BEHIND = "left behind"
OUTCOMES: dict[Outcome, str] = {
    "complete": "complete",
    "stopped": "stopped early",
    "failed": "failed",
    "repeated": "known before",
    "infeasible": "beyond a limit",
}
SETTINGS = (
    *("space", "data", "table", "recipe", "base"),
    *("sampler", "early_stop", "estimator", "seed"),
)


def status_command(study: str | None, storage: str, *, as_json: bool) -> None:
    """Details of one study, or a line for each where there are several."""
    opened = open_storage(storage)
    now = datetime.now(UTC)
    found = [read_status(opened, study, now)] if study else read_all(opened, now)
    console = Console(highlight=False, markup=False, emoji=False)
    if as_json:
        console.print(json.dumps(as_data(found, storage), default=_plain), soft_wrap=True)
    elif not found:
        console.print(f"no study in {printable(without_password(storage))} yet", soft_wrap=True)
    elif len(found) == 1:
        print_status(console, found[0], now)
    else:
        console.print(overview(found, now))
        option = storage_option(storage)
        console.print(f"more of one: nasattn status STUDY{printable(option)}", soft_wrap=True)


def as_data(found: Sequence[StudyStatus], storage: str) -> dict[str, Any]:
    """All facts as plain data, in the same form for one study and for many."""
    studies = [
        asdict(one)
        | {"run": one.run.model_dump() if one.run else None}
        | {"counts": {outcome: one.counts.get(outcome, 0) for outcome in OUTCOMES}}
        | {"n_done": one.n_done, "n_left": one.n_left, "seconds_left": one.seconds_left}
        for one in found
    ]
    return {"storage": without_password(storage), "studies": studies}


def _plain(value: object) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def overview(found: Sequence[StudyStatus], now: datetime) -> Table:
    """A line for each study."""
    made = table(
        "study",
        name_column("state"),
        number_column("networks"),
        number_column("failed"),
        number_column("left"),
        number_column("last finished"),
    )
    for one in found:
        left = one.seconds_left if one.state == "running" else None
        failed = one.counts.get("failed")
        cells = (
            one.study,
            one.state,
            f"{one.n_done:,}" + ("" if one.n_wanted is None else f"/{one.n_wanted:,}"),
            f"{failed:,}" if failed else "",
            "" if left is None else span(left),
            "" if one.last_finished is None else ago(one.last_finished, now),
        )
        add_row(made, cells)
    return made


def print_status(console: Console, one: StudyStatus, now: datetime) -> None:
    """All that is known of one study."""
    console.print(f"study {printable(one.study)}: {state_words(one, now)}")
    if one.run:
        console.print(run_words(one.run))
        if one.state == "stopped":
            command = printable(one.run.command) or "the command that began it"
            console.print(f"to go on: {command}", soft_wrap=True)
    for line in (*setting_words(one), *count_words(one, now)):
        console.print(line)
    if one.pending:
        words = PENDING.get(one.state, LEFT_BEHIND)
        console.print(f"\n{plural(len(one.pending), 'network')} {words}:")
        console.print(pending_table(one, now))
    print_reasons(console, "failed because of:", one.failures)
    print_reasons(console, "begun again because of:", one.lost)


def state_words(one: StudyStatus, now: datetime) -> str:
    """Where a study stands, since when, and why."""
    run = one.run
    if run is None:
        return "nobody runs it" if one.state == "idle" else "it does not say who runs it"
    if one.state == "running":
        return f"running since {clock(run.started)} ({span(seconds(run.started, now))})"
    if run.ended:
        why = ENDINGS.get(run.ending, cut(run.ending))
        return f"{one.state} {ago(run.ended, now)}" + (f": {why}" if why else "")
    if one.state == "stopped":
        return "stopped: its process is gone"
    return f"unknown (on {cut(run.host)}): begun {ago(run.started, now)}"


def run_words(run: Run) -> str:
    """Which process runs it, or ran it, by which engine."""
    jobs = f"{plural(run.n_jobs, 'network')} at a time"
    return f"engine {cut(run.engine)}, {jobs}, process {run.pid} on {cut(run.host)}"


def setting_words(one: StudyStatus) -> Iterator[str]:
    """What it was told, in a few words."""
    found: list[str] = [] if one.kind == "search" else [one.kind]
    for name in SETTINGS:
        value = one.settings.get(name)
        value = value.get("name") if isinstance(value, Mapping) else value
        if value not in (None, "none"):
            found.append(f"{name.replace('_', ' ')} {cut(str(value))}")
    if found:
        yield ", ".join(found)
    if one.objectives:
        yield f"objectives {cut(', '.join(one.objectives))}"


def count_words(one: StudyStatus, now: datetime) -> Iterator[str]:
    """How many networks are done, how fast it goes, and what is left."""
    counts = {k: f"{one.counts[k]:,} {words}" for k, words in OUTCOMES.items() if one.counts.get(k)}
    done = ", ".join(words for outcome, words in counts.items() if outcome in BUDGET)
    wanted = "" if one.n_wanted is None else f" of {one.n_wanted:,}"
    yield f"networks: {one.n_done:,}{wanted} done" + (f" ({done})" if done else "")
    free = [words for outcome, words in counts.items() if outcome not in BUDGET]
    free += [f"{one.n_queued:,} in the queue"] if one.n_queued else []
    if free:
        yield f"beside them: {', '.join(free)}"
    if one.n_again:
        yield f"the best again: {plural(one.n_again, 'training')} with fresh seeds"
    if one.last_finished:
        yield f"last finished: {clock(one.last_finished)} ({ago(one.last_finished, now)})"
    if one.pace:
        pace = f"{rate(one.pace.last_hour)} networks an hour"
        if one.pace.hours > 1:
            whole = span(3600 * one.pace.hours)
            pace += f" in the last hour, {rate(one.pace.overall)} in all {whole}"
        yield f"pace: {pace}"
    if one.seconds_left is not None and one.n_left:
        yield f"left: {plural(one.n_left, 'network')}, about {span(one.seconds_left)}"


def pending_table(one: StudyStatus, now: datetime) -> Table:
    """The networks that are being evaluated: where, and for how long."""
    numbers = map(number_column, ("for", "epoch", "attempt"))
    made = table(number_column("trial"), "network", "where", *numbers)
    for own in one.pending:
        took = "" if own.since is None else span(seconds(own.since, now))
        cells = (
            str(own.trial),
            cut(own.network) or "is being proposed",
            cut(own.place),
            "waits to be told" if own.waits else took,
            "" if own.epoch is None else str(own.epoch),
            str(own.attempt),
        )
        add_row(made, cells)
    return made


def print_reasons(console: Console, words: str, reasons: Reasons) -> None:
    """The most frequent reasons with their counts."""
    if not reasons:
        return
    console.print(f"\n{words}")
    columns = number_column("n"), Column("why", overflow="fold")
    grid = Table(*columns, box=None, show_header=False, pad_edge=True)
    for reason, n in reasons[:MOST]:
        add_row(grid, (f"{n:,}", cut(reason) or "no reason given"))
    if len(reasons) > MOST:
        n = sum(n for _, n in reasons[MOST:])
        add_row(grid, (f"{n:,}", f"{plural(len(reasons) - MOST, 'other reason')}"))
    console.print(grid)


def cut(text: str) -> str:
    """A text that somebody else wrote: one line, not too long, that steers no terminal."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def seconds(since: datetime, now: datetime) -> float:
    """Between two times; 0 where the clocks of two machines disagree."""
    return max((now - since).total_seconds(), 0.0)


def span(length: float) -> str:
    """45 s, 12 min, 3.5 h, 4.0 days."""
    return duration(length) if length < 2 * DAY else f"{length / DAY:,.1f} days"


def ago(moment: datetime, now: datetime) -> str:
    """How long a time is past."""
    return f"{span(seconds(moment, now))} ago"


def clock(moment: datetime) -> str:
    """A time by the clock of this machine."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


def rate(per_hour: float) -> str:
    """4.2, 41, 1,200."""
    return f"{per_hour:,.0f}" if per_hour >= 20 else f"{per_hour:.1f}"
