"""What `nasattn explain` says of pictures and maps: tables, verdicts, plain data."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column
from torch import Tensor

from nasattn.cli.tables import add_row, number_column, table
from nasattn.explain import Faithfulness
from nasattn.explain.faithfulness import NEEDED, REFERENCES, Difference
from nasattn.report.explanation_sheet import Block, Row
from nasattn.words import plural

MOST_LINES = 24  # of the table on the screen
MOST_NAME = 18  # letters of a network's name that are never folded
FAIR = "shuffled"  # the reference that a map must beat to matter


def known_truth(row: Row, block: Block) -> str | None:
    """A picture's class, where the network knows such a one."""
    return row.truth if row.truth in block.classes else None


def show(console: Console, rows: Sequence[Row], blocks: Sequence[Block]) -> None:
    """A row a picture and network, then what each network's maps are worth."""
    numbers = map(number_column, ("score", "deletion", "insertion"))
    whole = min(max(len(block.name) for block in blocks), MOST_NAME)
    network = Column("network", overflow="fold", min_width=whole)
    made = table("picture", network, "predicted", *numbers)
    lines = [line for i, row in enumerate(rows) for line in picture_lines(i, row, blocks)]
    for line in lines[:MOST_LINES]:
        add_row(made, line)
    console.print(made, soft_wrap=False)
    more = f"; the first {MOST_LINES} of {len(lines)} rows" if len(lines) > MOST_LINES else ""
    console.print(f"in %; low deletion and high insertion are good{more}", style="dim")
    for block in blocks:
        show_worth(console, block)
        if block.explained.attention:
            show_attention(console, block)


def picture_lines(i: int, row: Row, blocks: Sequence[Block]) -> Iterable[tuple[str, ...]]:
    for number, block in enumerate(blocks):
        heat, found = block.explained.heat, worth(block)
        predicted, target = int(heat.predicted[i]), int(heat.targets[i])
        answer, truth = block.classes[predicted], known_truth(row, block)
        if truth is not None and truth != answer:
            answer += f" (is {truth})"
        if target != predicted:
            answer += f"; map of {block.classes[target]}"
        figures = (heat.probabilities[i, predicted], found.map.deletion[i], found.map.insertion[i])
        name = "" if number else row.name
        yield (name, block.name, answer, *(f"{100 * float(x):.1f}" for x in figures))


def worth(block: Block) -> Faithfulness:
    found = block.explained.faithfulness
    assert found is not None  # the command always measures it
    return found


def show_worth(console: Console, block: Block) -> None:
    """The map beside each reference, and in words what follows from it."""
    found = worth(block)
    n = len(found.whole)
    made = table(
        "order",
        *map(number_column, ("deletion", "the map's less by", "insertion", "the map's more by")),
        title=f"{block.name}: mean % of {plural(n, 'picture')}, differences with 95 % intervals",
    )
    add_row(made, ("the map", percent(found.map.deletion), "", percent(found.map.insertion), ""))
    for name, areas in found.references.items():
        less = reversed_words(found.deletion(name))
        more = difference_words(found.insertion(name))
        add_row(made, (name, percent(areas.deletion), less, percent(areas.insertion), more))
    console.print()
    console.print(made, soft_wrap=False)
    console.print(verdict(block.name, found), soft_wrap=False)


def percent(values: Tensor) -> str:
    return f"{100 * float(values.mean()):.1f}"


def difference_words(d: Difference) -> str:
    """28.5 (25.5 to 31.6), in points."""
    if d.low is None or d.high is None:
        return f"{100 * d.mean:.1f}"
    return f"{100 * d.mean:.1f} ({100 * d.low:.1f} to {100 * d.high:.1f})"


def reversed_words(d: Difference) -> str:
    """The same of what is better where it is lower."""
    low, high = (None if x is None else -x for x in (d.high, d.low))
    return difference_words(Difference(d.n, -d.mean, low, high))


def verdict(name: str, found: Faithfulness) -> str:
    """In one line whether the map matters."""
    n, fair = plural(len(found.whole), "picture"), found.better(FAIR)
    if fair is None:
        return f"{name}: {n} cannot tell whether the map matters; give {NEEDED} or more"
    if not fair:
        return (
            f"{name}: {n} do not show that the map matters: on one score at least, its own cells"
            " in random places may do as well"
        )
    words = f"{name}: the map matters: on both scores it beats its own cells in random places"
    others = [row for row in REFERENCES if row != FAIR and not found.better(row)]
    if not others:
        return f"{words}, and every other order"
    return f"{words}; on one at least it is not shown to beat: {', '.join(others)}"


def show_attention(console: Console, block: Block) -> None:
    """What each attention module does to channels and pixels, over all pictures."""
    made = table("attention", "kind", *map(number_column, ("channels", "pixels", "fit %")))
    for row in block.explained.attention:
        fitted = "adds" if row.adds else f"{100 * float(row.fitted.mean()):.1f}"
        cells = (bounds(row.channels), bounds(row.spatial), fitted)
        add_row(made, (row.name, row.kind, *cells))
    console.print(made, soft_wrap=False)
    words = "factors, lowest to highest, and how much of the output they account for"
    if any(row.adds for row in block.explained.attention):
        words += "; of what adds to its input, the size of that beside the input's"
    console.print(words, style="dim", soft_wrap=False)


def bounds(values: Tensor) -> str:
    return f"{float(values.min()):.3g} to {float(values.max()):.3g}"


def plain(rows: Sequence[Row], blocks: Sequence[Block]) -> dict[str, Any]:
    """All that was found but for the maps themselves, as plain data; scores are fractions."""
    return {
        "pictures": [{"name": row.name, "class": row.truth} for row in rows],
        "networks": [plain_block(block) for block in blocks],
    }


def plain_block(block: Block) -> dict[str, Any]:
    heat, found = block.explained.heat, worth(block)
    rows = {
        "predicted": [block.classes[i] for i in heat.predicted.tolist()],
        "score": heat.probabilities.amax(1).tolist(),
        "target": [block.classes[i] for i in heat.targets.tolist()],
        "target_score": found.whole.tolist(),
        "blurred_score": found.blurred.tolist(),
        "deletion": found.map.deletion.tolist(),
        "insertion": found.map.insertion.tolist(),
    }
    references = {
        name: {
            "deletion": float(areas.deletion.mean()),
            "insertion": float(areas.insertion.mean()),
            "map_minus_deletion": plain_difference(found.deletion(name)),
            "map_minus_insertion": plain_difference(found.insertion(name)),
            "map_better": found.better(name),
        }
        for name, areas in found.references.items()
    }
    attention = [
        {
            "name": row.name,
            "kind": row.kind,
            "adds": row.adds,
            "channels": row.channels.tolist(),
            "spatial": row.spatial.tolist(),
            "fitted": row.fitted.tolist(),
        }
        for row in block.explained.attention
    ]
    return {
        "name": block.name,
        "layer": heat.layer,
        "map_size": list(heat.maps.shape[1:]),
        "classes": list(block.classes),
        "pictures": rows,
        "references": references,
        "attention": attention,
    }


def plain_difference(d: Difference) -> dict[str, Any]:
    return {"n": d.n, "mean": d.mean, "low": d.low, "high": d.high}
