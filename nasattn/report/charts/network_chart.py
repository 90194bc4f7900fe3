"""The networks of a front: side by side in parallel coordinates, and how they learned."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nasattn.arch import Architecture
from nasattn.errors import NasattnError
from nasattn.report.canvas import RED
from nasattn.report.charts.chart import (
    DASHES,
    LINE_COLOURS,
    Axis,
    Chart,
    Coordinates,
    Line,
    Path,
    Scale,
)
from nasattn.report.charts.front_chart import axis_of, sorted_by_first
from nasattn.report.charts.search_record import Network, SearchRecord
from nasattn.search.trials import network_of

MOST_PATHS = 40
MOST_CURVES = 10
LIGHT, DARK = (0x9E, 0xCF, 0xEE), (0x00, 0x3F, 0x6B)  # blues, from the worst to the best


@dataclass(frozen=True)
class Trait:
    """What a network is like, as a number or a word."""

    label: str
    unit: str
    of: Callable[[Architecture], float | str]


def _mean(field: str) -> Callable[[Architecture], float]:
    """The mean of a field over all blocks."""

    def mean(arch: Architecture) -> float:
        total = sum(stage.depth * float(getattr(stage, field)) for stage in arch.stages)
        return total / _blocks(arch)

    return mean


def _blocks(arch: Architecture) -> int:
    return sum(stage.depth for stage in arch.stages)


def _attended(arch: Architecture) -> float:
    with_any = sum(stage.depth for stage in arch.stages if stage.attention.kind != "none")
    return 100 * with_any / _blocks(arch)


def _main_kind(arch: Architecture) -> str:
    kinds = Counter[str]()
    for stage in arch.stages:
        kinds[stage.attention.kind] += stage.depth * (stage.attention.kind != "none")
    kind, n = kinds.most_common(1)[0]
    return kind if n else "none"


TRAITS = (
    Trait("depth", "blocks", _blocks),
    Trait("mean width", "channels", _mean("width")),
    Trait("expansion", "ratio", _mean("expansion")),
    Trait("kernel", "pixels", _mean("kernel")),
    Trait("attention in", "% of blocks", _attended),
    Trait("mostly", "kind", _main_kind),
    Trait("fusion", "kind", lambda arch: arch.fusion.kind),
    Trait("pooling", "kind", lambda arch: arch.head.pooling),
)


def coordinates_charts(record: SearchRecord) -> dict[str, Chart]:
    """The front and the baselines: objectives, better ones on top, then traits."""
    front = sorted_by_first(record, [n for n in record.front if not n.baseline])
    drawn = [front[i] for i in _spread(len(front), MOST_PATHS)]
    judged = [n for n in record.baselines if n.is_feasible]
    rows = [(n, arch) for n in (*drawn, *judged) if (arch := _network(n))]
    if len(rows) < 2 or not front:
        return {}
    scales, columns, same = _scales(record, rows)
    values = list(zip(*columns, strict=True))
    front_colours = dict(zip(drawn, _shades(len(drawn)), strict=True))
    paths = [
        Path(
            f"{n.name}, trial {n.number}",
            own,
            front_colours.get(n, RED),
            "solid" if n in front_colours else "dash",
            n.number,
            legend="front" if n in front_colours else "baseline",
        )
        for (n, _), own in zip(rows, values, strict=True)
    ]
    axis = axis_of(record.objectives[0])
    parts = [_count(len(drawn), len(front), len(rows) - len(drawn))]
    parts += [f"darker: better {axis.label}", "better objectives stand higher"]
    parts += [f"the same in all and left out: {', '.join(same)}"] if same else []
    coordinates = Coordinates(tuple(scales), tuple(reversed(paths)))
    title = f"{record.study}: what the front's networks are like"
    chart = Chart(title, "; ".join(parts), Axis(""), Axis(""), (coordinates,))
    return {"networks": chart}


def _count(drawn: int, front: int, baselines: int) -> str:
    of = f" of the front's {front}" if drawn < front else " of the front"
    return f"n = {drawn}{of}" + (f" and {baselines} baselines" if baselines else "")


def _network(network: Network) -> Architecture | None:
    try:
        return network_of(network.trial)
    except (KeyError, NasattnError, json.JSONDecodeError):  # foreign, or of another version
        return None


def _spread(n: int, most: int) -> list[int]:
    """Indices of at most so many of n, evenly apart, the first and the last among them."""
    places = np.linspace(0, n - 1, min(n, most)).round()
    return sorted({int(place) for place in places})


def _shades(n: int) -> list[str]:
    """From dark, the best, to light."""
    shares = np.linspace(0, 1, max(n, 1))
    mixed = [[round(d + s * (li - d)) for d, li in zip(DARK, LIGHT, strict=True)] for s in shares]
    return ["#" + "".join(f"{part:02X}" for part in colour) for colour in mixed[:n]]


def _scales(
    record: SearchRecord, rows: Sequence[tuple[Network, Architecture]]
) -> tuple[list[Scale], list[tuple[float, ...]], list[str]]:
    """The scales, their values a network, and the traits in which all are the same."""
    scales, columns, same = [], [], []
    for row in record.objectives:
        axis = axis_of(row)
        values = tuple(row.scale * (record.value(n, row.name) or 0.0) for n, _ in rows)
        scales.append(Scale(axis.label, axis.unit, min(values), max(values), row.sign > 0))
        columns.append(values)
    for trait in TRAITS:
        found = [trait.of(arch) for _, arch in rows]
        if len(set(found)) == 1:
            same.append(trait.label)
            continue
        words = sorted({value for value in found if isinstance(value, str)})
        column = tuple(float(words.index(v) if isinstance(v, str) else v) for v in found)
        scales.append(Scale(trait.label, trait.unit, min(column), max(column), names=tuple(words)))
        columns.append(column)
    return scales, columns, same


def curve_charts(record: SearchRecord) -> dict[str, Chart]:
    """Top-1 after each epoch of the front's networks and the baselines."""
    front = sorted_by_first(record, [n for n in record.front if len(n.curve) > 1])
    names = [n for n in record.baselines if len(n.curve) > 1 and n not in front]
    kept = [front[i] for i in _spread(len(front), MOST_CURVES)] if front else []
    lines = [
        Line(
            f"{n.name} (baseline)" if n.baseline else n.name,
            tuple(float(i + 1) for i in range(len(n.curve))),
            tuple(100 * top1 for top1 in n.curve),
            LINE_COLOURS[i % len(LINE_COLOURS)],
            DASHES[i % len(DASHES)],
            hover=f"{n.name}, trial {n.number}",
        )
        for i, n in enumerate([*kept, *names[:MOST_CURVES]])
    ]
    if not lines:
        return {}
    parts = [_count(len(kept), len(front), len(lines) - len(kept))]
    parts.append("one training each, the search's own")
    if record.n_val:
        parts.append(f"top-1 on {record.n_val:,} validation pictures")
    chart = Chart(
        f"{record.study}: how the front's networks learned",
        "; ".join(parts),
        Axis("epoch", "count", whole=True),
        Axis("top-1", "%"),
        tuple(lines),
    )
    return {"curves": chart}
