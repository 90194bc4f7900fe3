"""`nasattn latency --self-check`: the same networks in two processes, quiet and busy."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from nasattn.cli.folders import check_target, write_result
from nasattn.cli.latency import Wanted, set_scene
from nasattn.cli.machine import check_here, machine_turns
from nasattn.cli.tables import add_row, name_column, number_column, table
from nasattn.cost.self_check import CLOSE, SHARE, TAU, Twice, busy_core, measure_twice
from nasattn.runtimes.protocol import Effort
from nasattn.runtimes.spec import HERE, RuntimeSpec
from nasattn.words import plural

N_NETWORKS, SPACE, RESOLUTION, CLASSES = 20, "mobile", 32, 10
PLACES: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "as it is": nullcontext,
    "one core kept busy": busy_core,
}


def self_check_command(
    wanted: Wanted,
    runtimes: Sequence[RuntimeSpec],
    effort: Effort,
    json_file: Path | None,
    cache_dir: Path,
) -> int:
    """Measure twice, and twice more beside a busy core; 1 where the figures do not repeat."""
    console = Console(highlight=False)
    if json_file:
        check_target(json_file)
    for spec in runtimes:
        check_here(spec)
    if not wanted.networks and wanted.space is None:
        wanted = replace(wanted, space=SPACE, samples=N_NETWORKS)
        wanted = replace(
            wanted,
            resolution=wanted.resolution or RESOLUTION,
            classes=wanted.classes or CLASSES,
        )
    scene = set_scene(console, wanted, cache_dir)
    models, reference = scene.models(), scene.build(scene.reference)
    turns = machine_turns(console, cache_dir)
    report = []
    for spec in runtimes:
        for what, place in PLACES.items():
            if spec.target != HERE and place is not nullcontext:
                continue  # a core of another machine is not ours to take
            with place():
                twice = measure_twice(models, reference, scene.pictures, spec, effort, turns)
            show(console, spec, what, twice)
            report.append({"runtime": str(spec), "what": what} | plain(twice))
    if json_file:
        write_result(json_file, json.dumps(report, indent=1) + "\n")
    return int(not all(one["holds"] for one in report))


def show(console: Console, spec: RuntimeSpec, what: str, twice: Twice) -> None:
    """A row a network, and whether the figures can be trusted."""
    heads = ("ratio", "again", "difference %", "median ms", "again", "n")
    made = table(
        name_column("network"),
        *map(number_column, heads),
        title=f"{spec.row.title}, {what}",
    )
    for name, first in sorted(twice.first.items(), key=lambda pair: pair[1].relative):
        second = twice.second[name]
        ratios = (f"{latency.relative:.3f}" for latency in (first, second))
        medians = (f"{latency.median_ms:.3g}" for latency in (first, second))
        difference = f"{100 * twice.difference(name):+.1f}"
        add_row(made, (name, *ratios, difference, *medians, f"{first.n}, {second.n}"))
    console.print(made)
    verdict = "figures repeat" if twice.holds else "figures do NOT repeat on this machine now"
    console.print(
        f"{verdict}: {twice.n_close} of {plural(len(twice.first), 'ratio')} within "
        f"{100 * CLOSE:.0f} % (at least {100 * SHARE:.0f} % must be), Kendall's tau "
        f"{twice.tau:.3f} (at least {TAU});\n{twice.seconds:.1f} s a network and process\n"
    )


def plain(twice: Twice) -> dict[str, Any]:
    """All figures as plain data."""
    return {
        "holds": twice.holds,
        "n_close": twice.n_close,
        "tau": twice.tau,
        "seconds": twice.seconds,
        "networks": {
            name: {
                "ratios": [twice.first[name].relative, twice.second[name].relative],
                "medians_ms": [twice.first[name].median_ms, twice.second[name].median_ms],
                "n": [twice.first[name].n, twice.second[name].n],
            }
            for name in twice.first
        },
    }
