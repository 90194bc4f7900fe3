"""What became of a search's trials."""

from collections import Counter

from nasattn.report.canvas import BLUE, GREY, RED
from nasattn.report.charts.chart import Axis, Bars, Chart
from nasattn.report.charts.search_record import SearchRecord
from nasattn.search.outcomes import Outcome

WORDS: dict[Outcome, str] = {
    "complete": "trained to the end",
    "stopped": "stopped early",
    "failed": "failed",
    "infeasible": "not trained",
    "repeated": "proposed again",
}
COLOURS: dict[Outcome, str] = {"complete": BLUE, "stopped": BLUE, "failed": RED}
MOST = 6  # reasons of one outcome
LETTERS = 46  # of a reason


def outcome_charts(record: SearchRecord) -> dict[str, Chart]:
    """How many trials ended how, and why."""
    total = sum(record.endings.values())
    rows: list[tuple[str, int, str, bool]] = []
    for outcome, words in WORDS.items():
        for reason, n in _reasons(record, outcome).items():
            name = f"{words}: {reason}" if reason else words
            rows.append((name, n, COLOURS.get(outcome, GREY), outcome != "complete"))
    if record.n_open:
        rows.append(("running or waiting", record.n_open, GREY, False))
    if not rows:
        return {}
    every = total + record.n_open
    bars = tuple(
        Bars(
            name,
            (i,),
            (float(n),),
            colour,
            texts=(f"{n:,} ({_percent(n / every)} %)",),
            hatched=hatched,
        )
        for i, (name, n, colour, hatched) in enumerate(rows)
    )
    caption = f"n = {total:,} finished trials" + (
        f", {record.n_open} open" if record.n_open else ""
    )
    if record.endings.keys() & {("repeated", "")}:
        caption += "; proposed again: a network that was tried before, which costs nothing"
    title = f"{record.study}: what became of the trials"
    y = Axis("", names=tuple(name for name, *_ in rows))
    return {"outcomes": Chart(title, caption, Axis("trials", "count", whole=True), y, bars)}


def _reasons(record: SearchRecord, outcome: Outcome) -> dict[str, int]:
    """Trials by reason, the most frequent first, the rare ones together."""
    found: Counter[str] = Counter()
    for (ended, reason), n in record.endings.items():
        if ended == outcome:
            found[_brief(reason)] += n
    most = dict(found.most_common(MOST))
    rest = sum(found.values()) - sum(most.values())
    return most | ({f"{len(found) - MOST} other reasons": rest} if rest else {})


def _brief(reason: str) -> str:
    """A reason without its particulars, so that equal ones are counted together."""
    line = " ".join(reason.split())
    kind = line.partition(": ")[0]
    return kind if len(kind) <= LETTERS else f"{kind[: LETTERS - 1]}…"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}" if share >= 0.01 else f"{100 * share:.1g}"
