"""`nasattn bench training`: how fast networks train here, beside the loop that everybody writes."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nasattn.cli.data import load_with_progress
from nasattn.cli.machine import plain_memory_errors
from nasattn.cli.tables import add_row, number_column, table
from nasattn.cli.train import TrainOptions, build
from nasattn.data import ImageData
from nasattn.errors import StudyError
from nasattn.runtimes.facts import load
from nasattn.search.environment import environment
from nasattn.spec import parse
from nasattn.train.bench import Row, SpeedSpec, bench_training, share_of
from nasattn.words import plural, printable
from nasattn.zoo import read_network

LESS = "choose a lower --resolution or smaller networks"


@plain_memory_errors(LESS)
def bench_training_command(changes: Mapping[str, Any], *, as_json: bool, cache_dir: Path) -> None:
    """Train by both loops in turns; a table, or JSON."""
    console = Console(highlight=False, stderr=as_json)
    spec = parse(SpeedSpec, dict(changes), "options", StudyError)
    data = load_with_progress(console, spec.data, spec.resolution, cache_dir)
    check_networks(spec, data)
    machine = environment() | {"load": load()}
    with console.status("") as status:

        def show(network: str, number: int) -> None:
            where = f"round {number} of {spec.rounds}" if number else "warm-up"
            status.update(escape(printable(f"{network}: {where}")))

        with closing(bench_training(spec, data, show)) as found:
            rows = list(found)
    if as_json:
        facts = {"rows": [asdict(row) for row in rows], "machine": machine}
        print(json.dumps(facts | {"settings": settings(spec, data)}, indent=1))  # noqa: T201
        return
    console.print(rate_table(rows))
    console.print(words(spec, data, machine), style="dim", markup=False)


def check_networks(spec: SpeedSpec, data: ImageData) -> None:
    """Refuse a network that cannot be run on the pictures, and too few of them."""
    recipe = spec.recipe.model_copy(update={"train_size": spec.train_size})
    for name in spec.networks:
        build(read_network(name), TrainOptions(recipe=recipe), data)


def settings(spec: SpeedSpec, data: ImageData) -> dict[str, Any]:
    """What was compared, as plain data."""
    part = share_of(data, spec.train_size)
    sizes = {"train": len(part.train), "val_search": len(part.val_search)}
    return spec.model_dump(mode="json", exclude={"networks", "train_size"}) | sizes


def rate_table(rows: Sequence[Row]) -> Table:
    """A row a network."""
    heads = ("plain /s", "ours /s", "ours : plain", "kernels")
    made = table("network", *map(number_column, heads), tight=True)
    made.padding = (0, 1, 0, 0)
    for row in rows:
        cells = (rate(row.plain, row.plain_range), rate(row.ours, row.ours_range), ratio(row))
        add_row(made, (row.network, *cells, "own" if row.own_kernels else "torch"))
    return made


def rate(middle: float, ends: tuple[float, float]) -> str:
    """`312 (298-320)`: the median, the lowest and the highest."""
    digits = 0 if ends[0] >= 100 else 1
    low, high = (f"{end:.{digits}f}" for end in ends)
    return f"{middle:.{digits}f} ({low}-{high})"


def ratio(row: Row) -> str:
    """`2.31 [2.24, 2.38]`."""
    if row.low is None or row.high is None:
        return f"{row.ratio:.2f}"
    return f"{row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}]"


def words(spec: SpeedSpec, data: ImageData, machine: Mapping[str, str]) -> str:
    """What was compared and where, in lines of at most 80 columns for usual names."""
    part = share_of(data, spec.train_size)
    return (
        f"pictures trained on, a second of processor time on one thread, validation\n"
        f"included: median (lowest-highest) of {plural(spec.rounds, 'round')} after a warm-up; "
        f"ratio: the\n"
        f"geometric mean of the rounds' ratios [95 % interval]\n"
        f"a round: an epoch by each loop, in turns, from equal weights; {len(part.train):,} "
        f"pictures,\n"
        f"{len(part.val_search):,} for validation\n"
        f"plain: torchvision's transforms, DataLoader, eager torch; ours: nasattn train\n"
        f"data {printable(data.name)}, {data.resolution}x{data.resolution}; recipe "
        f"{spec.recipe.name}, batches of {spec.recipe.batch_size}\n"
        f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, "
        f"load {machine['load'] or 'unknown'}"
    )
