"""`nasattn zoo`: every named network, what was printed about it, and what counting says."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from textwrap import TextWrapper
from typing import Any

from rich.console import Console
from rich.text import Text

from nasattn.baselines.baseline import COUNTED, PICTURES, UNITS, Pictures, Published
from nasattn.cli.tables import add_row, name_column, number_column, table
from nasattn.cost import StaticCost
from nasattn.objectives import OBJECTIVES
from nasattn.zoo import Check, NamedNetwork, check_published, select_networks

Row = dict[str, Any]

VERDICTS = {"match": "match", "fit": "fit", "no": "not reproduced"}


def zoo_command(family: str | None, paper: str | None, *, verify: bool, form: str) -> int:
    """A table of the zoo, or its verification; 1 where a verified figure is off."""
    networks = select_networks(family, paper)
    console = Console(highlight=False, markup=False)
    if verify:
        return verify_zoo(console, networks, paper)
    if form == "table":
        print_table(console, networks, paper)
        return 0
    rows = list(full_rows(networks, paper))
    if form == "csv":
        writer = csv.DictWriter(sys.stdout, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    elif form == "json":
        console.print(json.dumps(rows, indent=2), soft_wrap=True)
    else:
        console.print("\n".join(markdown(rows)), soft_wrap=True)
    return 0


def checks_of(network: NamedNetwork, paper: str | None) -> list[Check]:
    """The published figures of a network, of one paper or of all."""
    checks = check_published(network)
    return [check for check in checks if paper is None or check.figure.paper == paper]


def verify_zoo(console: Console, networks: Iterable[NamedNetwork], paper: str | None) -> int:
    """How many figures hold, which are off, and which cannot be reproduced and why."""
    checks = [check for network in networks for check in checks_of(network, paper)]
    counted = [check for check in checks if check.cost]
    off = [check for check in counted if not check.holds]
    right = {
        word: [c for c in counted if c.holds and c.figure.verdict == word] for word in VERDICTS
    }
    exact = sum(check.exact for check in right["match"])
    near = [abs(check.difference or 0) for check in right["match"] if not check.exact]
    words = f"{exact} to the printed digits"
    words += f", the others within {max(near):.1%}" if near else ""
    console.print(
        f"{len(counted)} published counts: {len(right['match'])} match ({words}), "
        f"{len(right['fit'])} fit (by a reading chosen for it), "
        f"{len(right['no'])} cannot be reproduced, {len(off)} off"
    )
    for check in off:
        print_item(console, f"{check.network.name} {check_words(check)}")
    print_reasons(console, counted)
    return 1 if off else 0


def print_reasons(console: Console, checks: Iterable[Check]) -> None:
    """The figures that no reading reproduces, with what is counted in their place."""
    lost = [check for check in checks if check.figure.verdict == "no" and check.holds]
    if lost:
        console.print("cannot be reproduced:")
    for check in lost:
        claim, count = claim_words(check.figure), count_words(check)
        print_item(console, f"{check.network.name} {claim}: {count}")


def print_item(console: Console, words: str) -> None:
    """A line of a list; what does not fit stands below it, indented."""
    wrap = TextWrapper(console.width, subsequent_indent="  ", break_on_hyphens=False)
    console.print(wrap.fill(f"- {words}"))


def check_words(check: Check) -> str:
    """A published figure as printed; where counting can tell, its verdict, our count and why."""
    words = claim_words(check.figure)
    if check.counted is None:
        return f"{words}; {check.figure.why}" if check.figure.why else words
    verdict = VERDICTS.get(check.verdict, check.verdict)
    return f"{words}: {verdict}, {count_words(check)}"


def claim_words(figure: Published) -> str:
    """A published figure as printed: top1 93.5 % (CIFAR-10; 000, Table 2)."""
    return f"{figure.metric} {figure.printed} ({figure.where}; {figure.source})"


def count_words(check: Check) -> str:
    """Our count in a published figure's unit, and the reason for what is between them."""
    assert check.counted is not None
    unit = check.figure.printed.partition(" ")[2]
    words = f"{check.counted / UNITS[unit]:.2f} {unit} counted"
    return f"{words}; {check.figure.why}" if check.figure.why else words


def print_table(console: Console, networks: Iterable[NamedNetwork], paper: str | None) -> None:
    """A row for each published count, and one for each network without."""
    numbers = map(number_column, ("params", "macs", "published", "off %"))
    ends = name_column("verdict"), name_column("paper")
    made = table("network", name_column("pictures"), *numbers, *ends, tight=True)
    found = []
    for family, members in groupby(networks, key=attrgetter("family")):
        made.add_row(Text(family, style="bold"))
        for network in members:
            checks = [check for check in checks_of(network, paper) if check.cost]
            for cells in network_rows(network, checks):
                add_row(made, cells)
            found += checks
        made.add_section()
    console.print(made)
    console.print(
        "\nparams, macs: our counts in millions, for the figure's pictures (side/classes)"
        "\nfit: by a reading chosen because it has the figure; no: no reading has it"
    )
    print_reasons(console, found)


def network_rows(network: NamedNetwork, checks: Sequence[Check]) -> Iterator[tuple[str, ...]]:
    """The table's rows of one network: our counts stand once for all figures of equal pictures."""
    if not checks:
        cost = network.count(network.pictures)
        yield (network.name, picture_words(network.pictures), *cost_words(cost), "", "", "", "")
    name, last = network.name, None
    for check in checks:
        assert check.cost is not None
        assert check.difference is not None
        pictures = PICTURES[check.figure.where]
        repeated = pictures == last
        ours = ("", "", "") if repeated else (picture_words(pictures), *cost_words(check.cost))
        figure = check.figure
        words = f"{figure.metric} {figure.printed}"
        ratio = 1 + check.difference
        difference = f"{100 * check.difference:+z.1f}" if ratio < 2 else f"x{ratio:.0f}"
        yield (name, *ours, words, difference, check.verdict, figure.paper)
        name, last = "", pictures


def picture_words(pictures: Pictures) -> str:
    """Side and classes: 224/1000."""
    return f"{pictures.resolution}/{pictures.num_classes}"


def cost_words(cost: StaticCost) -> tuple[str, ...]:
    """Parameters and multiply-adds in millions."""
    return tuple(OBJECTIVES[name].show(getattr(cost, name)) for name in COUNTED)


def full_rows(networks: Iterable[NamedNetwork], paper: str | None) -> Iterator[Row]:
    """All that is known, a row for each published figure and one for each network without."""
    for network in networks:
        checks = checks_of(network, paper)
        facts = {"network": network.name, "family": network.family}
        ends = {"network_source": network.source, "note": network.note}
        if not checks:
            cost = network.count(network.pictures)
            yield facts | figure_cells(None, network.pictures, cost) | ends
        for check in checks:
            pictures = PICTURES.get(check.figure.where)  # none for a device
            yield facts | figure_cells(check, pictures, check.cost) | ends


def figure_cells(check: Check | None, pictures: Pictures | None, cost: StaticCost | None) -> Row:
    """The cells of a published figure, empty where there is nothing to say."""
    figure = check and check.figure
    cells = {
        "where": figure and figure.where,
        "resolution": pictures and pictures.resolution,
        "num_classes": pictures and pictures.num_classes,
        "params": cost and cost.params,
        "macs": cost and cost.macs,
        "metric": figure and figure.metric,
        "printed": figure and figure.printed,
        "value": figure and plain(figure.value),
        "counted": check and check.counted,
        "difference": check and check.difference and plain(check.difference),
        "verdict": figure and cost and figure.verdict,
        "holds": check and check.holds,
        "tolerance": figure and figure.tolerance,
        "source": figure and figure.source,
        "why": figure and figure.why,
    }
    return {name: "" if value is None else value for name, value in cells.items()}


def plain(value: float) -> float:
    """A number to four digits after the point, whole where it is."""
    return int(value) if value == int(value) else round(value, 4)


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """The rows as a Markdown table."""
    yield f"| {' | '.join(rows[0])} |"
    yield "|" + " --- |" * len(rows[0])
    for row in rows:
        cells = (str(cell).replace("|", "\\|") for cell in row.values())
        yield f"| {' | '.join(cells)} |"
