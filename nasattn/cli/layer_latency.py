"""`nasattn show NETWORK --layers --latency`: where a network's time goes, layer by layer."""

import json
import shlex

from rich.console import Console
from rich.table import Column, Table

from nasattn.cli.machine import check_threads
from nasattn.cli.roofline import (
    balance_words,
    measure,
    network_facts,
    option_words,
    overhead_words,
    peak_facts,
    setting_words,
)
from nasattn.cli.show import check_pictures, count, print_cost, print_source
from nasattn.cli.tables import add_row, number_column, table
from nasattn.cost.layers import Layer
from nasattn.cost.peak import measure_peak
from nasattn.cost.roofline import Roofline
from nasattn.zoo import read_network


def layer_latency_command(
    name: str, resolution: int | None, num_classes: int | None, *, threads: int, as_json: bool
) -> None:
    """The layers with their times, measured here, and which of them are memory-bound."""
    check_threads(threads)
    network = read_network(name)
    pictures = check_pictures(network, resolution, num_classes)
    cost, _ = count(network, pictures.num_classes, pictures.resolution, layers=False)
    peak = measure_peak(threads=threads)
    roofline = measure(network, pictures, peak)
    console = Console(highlight=False, markup=False)
    if as_json:
        facts = {"machine": peak_facts(peak)} | network_facts(network, pictures, roofline)
        console.print(json.dumps(facts), soft_wrap=True)
        return
    console.print(time_table(roofline))
    print_cost(console, network, pictures, cost)
    times, share = roofline.times, memory_bound_share(roofline)
    console.print(
        f"{times.whole_ms:.2f} ms (10th percentile of {times.n} rounds; {setting_words(peak)})"
    )
    console.print(overhead_words(times))
    console.print(
        f"memory-bound (mem): {100 * share:.0f} % of the time; {balance_words(peak)} here"
    )
    print_source(console, network)
    options = option_words(resolution, num_classes, threads)
    console.print(f"next: nasattn roofline {shlex.quote(name)}{options}", style="dim")


def memory_bound_share(roofline: Roofline) -> float:
    """Of the layers' time, that in memory-bound ones."""
    in_memory = sum(layer.ms for layer in roofline.layers if layer.memory_bound)
    return in_memory / roofline.times.sum_ms


def time_table(roofline: Roofline) -> Table:
    """A row for each layer that holds, computes or moves something, one for all others, the sum."""
    kind = Column("kind", overflow="fold", max_width=16)
    numbers = map(number_column, ("output", "macs M", "ms", "% ms"))
    made = table("layer", kind, *numbers, "", tight=True)
    all_ms = roofline.times.sum_ms

    def add(name: str, kind: str, shape: Layer | None, macs: int, ms: float, bound: str) -> None:
        output = "x".join(map(str, shape.shape)) if shape else ""
        share = f"{100 * ms / all_ms:.1f}"
        add_row(made, (name, kind, output, f"{macs / 1e6:.3f}", f"{ms:.3f}", share, bound))

    rest = []
    for layer in roofline.layers:
        work = layer.work
        if work.params or work.macs or work.bytes:
            bound = "mem" if layer.memory_bound else ""
            add(work.name, work.kind, work, work.macs, layer.ms, bound)
        else:
            rest.append(layer.ms)
    if rest:
        add(f"{len(rest)} other parts", "Python", None, 0, sum(rest), "")
    made.add_section()
    macs = sum(layer.work.macs for layer in roofline.layers)
    add("total", "", None, macs, all_ms, "")
    return made
