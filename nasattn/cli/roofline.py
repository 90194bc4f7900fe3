"""`nasattn roofline`: networks beside what this machine reaches at its best."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from nasattn.baselines.baseline import Pictures
from nasattn.cli.machine import check_params, check_threads, plain_memory_errors
from nasattn.cli.show import check_pictures, count
from nasattn.cli.tables import add_row, number_column, table
from nasattn.cost import StaticCost
from nasattn.cost.layer_times import LayerTimes
from nasattn.cost.peak import Peak, measure_peak
from nasattn.cost.roofline import RoofedLayer, Roofline, Total, measure_roofline, sum_up
from nasattn.evaluate import check_device
from nasattn.words import plural
from nasattn.zoo import NamedNetwork, read_network

LESS = "choose a lower --resolution or a smaller network"
REST = "rest: sums, pooling, what attention does itself, and Python between the layers"


def roofline_command(
    names: Sequence[str],
    resolution: int | None,
    num_classes: int | None,
    *,
    threads: int,
    device: str,
    as_json: bool,
) -> None:
    """The machine's peak, a row for each network, and for a single one a row for each sort."""
    check_device(device)
    check_threads(threads)
    networks = [read_network(name) for name in names]
    sizes = [check_pictures(network, resolution, num_classes) for network in networks]
    costs = [
        count(network, pictures.num_classes, pictures.resolution, layers=False)[0]
        for network, pictures in zip(networks, sizes, strict=True)
    ]
    console = Console(highlight=False, markup=False)
    peak = measure_peak(threads=threads, device=device)
    if not as_json:
        print_peak(console, peak)
    found = [measure(n, pictures, peak) for n, pictures in zip(networks, sizes, strict=True)]
    rows = list(zip(networks, sizes, found, strict=True))
    if as_json:
        facts = {"machine": peak_facts(peak), "networks": [network_facts(*row) for row in rows]}
        console.print(json.dumps(facts), soft_wrap=True)
        return
    console.print(network_table(rows))
    print_reading(console, found)
    for network, cost in zip(networks, costs, strict=True):
        print_doubts(console, network, cost)
    where = option_words(resolution, num_classes, threads)
    if len(found) > 1:
        where += "" if device == "cpu" else f" --device {device}"
        console.print(f"next: nasattn roofline {shlex.quote(names[0])}{where}", style="dim")
        return
    console.print()
    console.print(sort_table(found[0]))
    console.print(REST)
    console.print(overhead_words(found[0].times))
    next_command = f"nasattn show {shlex.quote(names[0])} --layers --latency{where}"
    console.print(f"next: {next_command}", style="dim")


@plain_memory_errors(LESS)
def measure(network: NamedNetwork, pictures: Pictures, peak: Peak) -> Roofline:
    """A network with random weights under a machine's roof."""
    resolution, num_classes = pictures.resolution, pictures.num_classes
    check_params(network.name, lambda: network.build(num_classes, resolution))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network.build(num_classes, resolution)
    return measure_roofline(model, resolution, peak)


def print_peak(console: Console, peak: Peak) -> None:
    """The machine's peak, by kind of work, and the balance that follows."""
    works = (
        ("3x3 convolution", "GMAC/s", peak.convolution),
        ("matrix product", "GMAC/s", peak.product),
        ("copy in main memory", "GB/s", peak.copy),
    )
    made = table("this machine", *map(number_column, ("", "best", "median", "n")), tight=True)
    for name, unit, speed in works:
        best, middle = (f"{x / 1e9:,.1f}" for x in (speed.best, speed.median))
        add_row(made, (name, unit, best, middle, str(speed.n)))
    console.print(made)
    console.print(f"memory-bound: {balance_words(peak)}")
    console.print(setting_words(peak))
    console.print()


def balance_words(peak: Peak) -> str:
    """What the peak makes memory-bound."""
    return f"fewer than {peak.balance:.2f} multiply-adds a byte"


def setting_words(peak: Peak) -> str:
    """What networks are timed with."""
    return f"{peak.runtime}, {peak.device}, {plural(peak.threads, 'thread')}, float32, batch 1"


def print_reading(console: Console, found: Sequence[Roofline]) -> None:
    """How the columns of times are to be read."""
    n = found[0].times.n
    console.print(f"ms: 10th percentile of {n} rounds; roof ms: every layer at the machine's best")
    totals = [roofline.total for roofline in found]
    if len(found) == 1:
        totals += found[0].by_sort().values()
    if any(total.roof_share > 1 for total in totals):
        console.print("above 100 % of the roof: data from the caches, not from main memory")


def print_doubts(console: Console, network: NamedNetwork, cost: StaticCost) -> None:
    """What the counts of a network leave out, or take in that need not run."""
    if cost.uncounted:
        names = ", ".join(cost.uncounted)
        console.print(f"{network.name}: not in macs, as no rule counts them: {names}")
    if cost.macs != cost.max_macs:
        console.print(f"{network.name}: counted and timed as for a picture that runs all parts")


def option_words(resolution: int | None, num_classes: int | None, threads: int) -> str:
    """The options of a next command that are not at their defaults."""
    words = "" if resolution is None else f" --resolution {resolution}"
    words += "" if num_classes is None else f" --classes {num_classes}"
    return words + ("" if threads == 1 else f" --threads {threads}")


def overhead_words(times: LayerTimes) -> str:
    """What the layers add up to beside the network's time without them."""
    why = "the machine is busy" if times.device == "cpu" else "the device waits for Python"
    why = f": {why}" if times.overhead < -0.02 else ""
    return (
        f"the layers take {times.sum_ms:.2f} ms, the network {times.whole_ms:.2f} ms "
        f"when they are not timed ({100 * times.overhead:+.0f} %{why})"
    )


def network_table(rows: Sequence[tuple[NamedNetwork, Pictures, Roofline]]) -> Table:
    """A row for each network."""
    numbers = ("px", "macs M", "MB", "macs/B", "bound by", "roof ms", "ms", "roof %")
    made = table("network", *map(number_column, numbers), tight=True)
    for network, pictures, roofline in rows:
        total = roofline.total
        share = total.memory_share if total.bound == "memory" else 1 - total.memory_share
        figures = work_figures(total, f"{total.bound} {100 * share:.0f} %")
        add_row(made, (network.name, str(pictures.resolution), *figures, *time_figures(total)))
    return made


def sort_table(roofline: Roofline) -> Table:
    """A row for each sort of layer of a network, and all of them."""
    numbers = ("n", "macs M", "MB", "macs/B", "bound by", "roof ms", "ms", "% ms", "roof %")
    made = table("layers", *map(number_column, numbers), tight=True)
    all_ms = roofline.times.sum_ms

    def add(name: str, total: Total) -> None:
        *times, roof = time_figures(total)
        share = f"{100 * total.ms / all_ms:.1f}"
        figures = work_figures(total, total.bound)
        add_row(made, (name, str(total.n), *figures, *times, share, roof))

    for sort, total in roofline.by_sort().items():
        add(sort, total)
    made.add_section()
    add("total", sum_up(roofline.layers, all_ms))
    return made


def work_figures(total: Total, bound: str) -> tuple[str, ...]:
    """Multiply-adds, megabytes, the one by the other, and what binds them."""
    macs, moved = total.macs / 1e6, total.bytes / 1e6
    return digits(macs, 1), digits(moved, 1), f"{total.intensity:.2f}", bound


def time_figures(total: Total) -> tuple[str, str, str]:
    """Milliseconds at the roof and measured, and the one as a share of the other."""
    return digits(total.roof_ms, 2), digits(total.ms, 2), f"{100 * total.roof_share:.0f}"


def digits(value: float, most: int) -> str:
    """A number with so many decimals, one less from 100 on."""
    return f"{value:,.{most - (value >= 100)}f}"


def peak_facts(peak: Peak) -> dict[str, Any]:
    """A peak for JSON."""
    best = {"macs_per_s": peak.macs_per_s, "bytes_per_s": peak.bytes_per_s}
    return asdict(peak) | best | {"balance": peak.balance}


def network_facts(network: NamedNetwork, pictures: Pictures, roofline: Roofline) -> dict[str, Any]:
    """A network under the roof for JSON: all of it, by sort, and layer by layer."""
    times = asdict(roofline.times)
    del times["own_ms"]  # they stand with the layers
    return {
        "network": network.name,
        **asdict(pictures),
        "total": total_facts(roofline.total),
        "times": times | {"sum_ms": roofline.times.sum_ms, "overhead": roofline.times.overhead},
        "sorts": {sort: total_facts(total) for sort, total in roofline.by_sort().items()},
        "layers": [layer_facts(layer) for layer in roofline.layers],
    }


def total_facts(total: Total) -> dict[str, Any]:
    """A sum for JSON."""
    ratios = {"intensity": total.intensity, "roof_share": total.roof_share}
    return asdict(total) | ratios | {"bound": total.bound}


def layer_facts(layer: RoofedLayer) -> dict[str, Any]:
    """A layer for JSON."""
    facts = asdict(layer)
    work: dict[str, Any] = facts.pop("work")
    return work | facts
