"""The words of an ablation's tables: one wording for the terminal, Markdown and LaTeX."""

from dataclasses import dataclass, replace

from nasattn.ablation.statistics import Comparison, CostPerPoint
from nasattn.report.ablation import AblationResult, ArmResult, Row

HEADER = (
    "arm",
    "vs",
    "top-1 %",
    "effect (points)",
    "n",
    "p adj.",
    "params M",
    "macs M",
    "ms",
    "published",
)
VERDICT = "verdict"
NOTHING = "-"

# What each design asks of an arm.
DESIGNS = {
    "leave one out": "leave one out: the base without a part",
    "leave all out": "leave all out: the base without any part",
    "add one in": "add one in: a part and what it needs, against the same without it",
    "ladder": "ladder: each rung against the one below",
    "factorial": "factorial: the combinations of the parts, judged by the effects below",
    "swap": "swap: another value in the base",
    "sweep": "sweep: other values in the base",
    "networks": "networks: each against the one that it is built on",
    "capacity": "capacity: the base's size without its parts",
    "arms": "every arm",
}
LADDER_WARNING = (
    "ladder: what a part seems to give hangs on the rungs below it; the same parts in another"
    " order would show other effects"
)
PRICES: dict[str, tuple[str, float]] = {  # cost -> heading, divisor
    "params": ("params M", 1e6),
    "macs": ("macs M", 1e6),
    "latency_ms": ("ms", 1.0),
}


@dataclass(frozen=True)
class Line:
    """A row of a table, and what it says in words."""

    cells: tuple[str, ...]
    verdict: str = ""


@dataclass(frozen=True)
class Group:
    """Lines under a heading of their own; an empty heading is none."""

    heading: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    """A table as text. The first one or two columns are names, the others numbers."""

    title: str
    header: tuple[str, ...]
    groups: tuple[Group, ...]
    names: int = 1

    @property
    def lines(self) -> list[Line]:
        return [line for group in self.groups for line in group.lines]

    def without_empty(self) -> "Table":
        """The same without the columns that hold nothing."""
        lines = self.lines
        kept = [
            i
            for i in range(len(self.header))
            if i == 0 or any(x.cells[i] != NOTHING for x in lines)
        ]
        groups = tuple(
            Group(
                group.heading,
                tuple(replace(x, cells=tuple(x.cells[i] for i in kept)) for x in group.lines),
            )
            for group in self.groups
        )
        names = sum(i < self.names for i in kept)
        return Table(self.title, tuple(self.header[i] for i in kept), groups, names)


def table_cells(result: AblationResult) -> list[list[str]]:
    """The header, the arms that are only compared with, then a row for each contrast."""
    rows = [[*line.cells, line.verdict or NOTHING] for line in main_table(result).lines]
    return [[*HEADER, VERDICT], *rows]


def tables(result: AblationResult) -> list[Table]:
    """The contrasts, a factorial's effects and shares, the price of a point: what there is."""
    made = (main_table(result), factorial_table(result), share_table(result), price_table(result))
    return [table.without_empty() for table in made if table.lines]


def main_table(result: AblationResult) -> Table:
    """Every contrast with its arm's own figures, by design; first the arms that have none."""
    compared = {row.contrast.arm for row in result.rows}
    alone = tuple(_alone(result, a) for name, a in result.arms.items() if name not in compared)
    groups = [Group("", alone)] if alone else []
    for design in dict.fromkeys(row.contrast.design for row in result.rows):
        lines = [_contrast(result, row) for row in result.rows if row.contrast.design == design]
        groups.append(Group(DESIGNS.get(design, one_line(design)), tuple(lines)))
    base = f" of {one_line(result.network)}" if result.network else ""
    return Table(f"{one_line(result.study)}: ablation{base}", HEADER, tuple(groups), names=2)


def factorial_table(result: AblationResult) -> Table:
    """Main effects and interactions; what a fraction cannot tell apart stands in one line."""
    lines = tuple(
        Line(
            (
                one_line(" = ".join((e.term, *e.aliases))),
                effect_words(e.effect, e.low, e.high),
                str(e.n),
                p_words(e.p_adjusted),
            ),
            e.verdict,
        )
        for e in (result.factorial.effects if result.factorial else ())
    )
    title = "Factorial: what changing a part does, on average over the others"
    return Table(title, ("part", "effect (points)", "n", "p adj."), (Group("", lines),))


def share_table(result: AblationResult) -> Table:
    """Each part's Shapley value."""
    lines = tuple(
        Line((one_line(share.factor), effect_words(share.effect, share.low, share.high)))
        for share in (result.factorial.shapley if result.factorial else ())
    )
    title = "Shapley: each part's share of what changing all of them does"
    return Table(title, ("part", "share (points)"), (Group("", lines),))


def price_table(result: AblationResult) -> Table:
    """What a point of top-1 costs, where an effect's interval leaves out 0."""
    lines: dict[str, list[Line]] = {}
    for row in result.rows:
        priced = {cost.cost: cost for cost in row.costs if cost.per_point is not None}
        if priced:
            cells = (price_words(priced.get(key), size) for key, (_, size) in PRICES.items())
            names = one_line(row.contrast.arm), one_line(row.contrast.reference)
            lines.setdefault(row.contrast.design, []).append(Line((*names, *cells)))
    title = "Price of a point of top-1 (below 0: the better one is also the cheaper)"
    header = ("arm", "vs", *(heading for heading, _ in PRICES.values()))
    groups = (Group(one_line(design), tuple(found)) for design, found in lines.items())
    return Table(title, header, tuple(groups), names=2)


def notes(result: AblationResult) -> list[str]:
    """How the figures are to be read, and the ablation's own notes."""
    pictures = f" on {result.n_val:,} validation pictures" if result.n_val else ""
    testable = sum(bool(row.comparison and row.comparison.p is not None) for row in result.rows)
    found = [
        f"top-1: mean over n seeds{pictures}; effect: the difference to the arm that it"
        f" stands against, paired by seed, with its {100 * (1 - result.alpha):g} % interval"
        " (Student's t, uncorrected)"
    ]
    if result.looks:
        seeds = ", ".join(map(str, result.looks.looks))
        limits = ", ".join(f"{t:.1f}" for t in result.looks.thresholds)
        found.append(
            f"sequential: looked at after {seeds} seeds; significant where |t| came to {limits}"
            f" (O'Brien and Fleming's spending, corrected for {len(result.looks.pairs)} contrasts)"
        )
    elif testable:
        found.append(
            f"p adj.: exact sign flips by seed, corrected for {testable} contrast"
            f"{'s' * (testable > 1)} (max-T); significant at {result.alpha:g} or less"
        )
    if result.factorial:
        n, more = len(result.factorial.effects), ", a family of its own" if testable else ""
        found.append(f"factorial: p adj. of an effect is corrected for {n} effects{more}")
    if any(result.published_top1(name) for name in result.arms):
        found.append(f"published: top-1 % on {result.place} as the paper prints it, not our result")
    if any(row.contrast.design == "ladder" for row in result.rows):
        found.append(LADDER_WARNING)
    if any(cost.per_point is None for row in result.rows for cost in row.costs):
        found.append("price of a point: none where the effect has no interval or it covers 0")
    if result.factorial and result.factorial.dropped:
        dropped = ", ".join(map(str, result.factorial.dropped))
        found.append(f"factorial: without the seeds that some arm lacks: {dropped}")
    return found + [one_line(note) for note in result.notes]


def _alone(result: AblationResult, arm: ArmResult) -> Line:
    """An arm that no contrast judges; the base is one."""
    return _line(result, arm, NOTHING, None, arm.failed or ("" if arm.values else "not run yet"))


def _contrast(result: AblationResult, row: Row) -> Line:
    arm = result.arms[row.contrast.arm]
    return _line(result, arm, one_line(row.contrast.reference), row.comparison, row.verdict)


def _line(
    result: AblationResult, arm: ArmResult, against: str, found: Comparison | None, verdict: str
) -> Line:
    mean = found.mean if found else arm.mean
    latency = arm.costs.get("latency_ms")
    cells = (
        one_line(arm.name),
        against,
        NOTHING if mean is None else f"{100 * mean:.2f}",
        effect_words(found.effect, found.low, found.high) if found else NOTHING,
        str(found.n if found else len(arm.values)),
        p_words(found.p_adjusted if found else None),
        millions(arm.costs.get("params")),
        millions(arm.costs.get("macs")),
        NOTHING if latency is None else f"{latency:.2f}",
        published_words(result, arm.name),
    )
    return Line(cells, one_line(verdict))


def effect_words(effect: float, low: float | None, high: float | None) -> str:
    """`-1.20 (-1.90 to -0.50)`, in points."""
    if low is None or high is None:
        return f"{100 * effect:+.2f}"
    return f"{100 * effect:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def p_words(p: float | None) -> str:
    """A p to three decimals; of a smaller one, only that it is."""
    if p is None:
        return NOTHING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def millions(count: float | None) -> str:
    """Two decimals from one million up, three digits below."""
    if count is None:
        return NOTHING
    return f"{count / 1e6:.2f}" if count >= 1e6 else f"{count / 1e6:.3g}"


def price_words(cost: CostPerPoint | None, size: float) -> str:
    """`0.083 (0.053 to 0.2)`, to two digits."""
    if cost is None or cost.per_point is None or cost.low is None or cost.high is None:
        return NOTHING
    shown = [f"{float(f'{x / size:.2g}'):g}" for x in (cost.per_point, cost.low, cost.high)]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def published_words(result: AblationResult, arm: str) -> str:
    """Published top-1 in %, with the digits as printed; several where papers differ."""
    shown = []
    for figure in result.published_top1(arm):
        number = figure.printed.split(" ")[0]
        if figure.metric == "top1_error":
            number = f"{100 - float(number):.{len(number.partition('.')[2])}f}"
        shown.append(number)
    return " / ".join(dict.fromkeys(shown)) or NOTHING


def one_line(text: str) -> str:
    """Text in one line, without characters that steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
