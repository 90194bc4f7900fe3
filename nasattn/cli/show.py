"""`nasattn show`: one network."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict

import torch
from rich.console import Console
from rich.table import Column, Table

from nasattn.arch import Architecture
from nasattn.attention.plugins import PLUGINS
from nasattn.baselines.baseline import Pictures
from nasattn.cli.machine import OFF_META, check_params
from nasattn.cli.tables import add_row, number_column, table
from nasattn.cli.zoo import check_words
from nasattn.cost import StaticCost, count_cost
from nasattn.cost.layers import Layer, count_layers
from nasattn.errors import ArchitectureError
from nasattn.evaluate import one_line
from nasattn.objectives import OBJECTIVES
from nasattn.report.drawings.stages import StageRow, stage_rows
from nasattn.spec import MAX_RESOLUTION, MIN_RESOLUTION
from nasattn.zoo import NamedNetwork, check_published, read_network

MAX_CLASSES = 100_000


def show_command(
    name: str, resolution: int | None, num_classes: int | None, *, layers: bool, as_json: bool
) -> None:
    """Stages or layers, costs, published figures and JSON of a network at a resolution."""
    network = read_network(name)
    pictures = check_pictures(network, resolution, num_classes)
    resolution, num_classes = pictures.resolution, pictures.num_classes
    arch = network.architecture and network.architecture.at_resolution(resolution)
    console = Console(highlight=False, markup=False)
    if as_json and not layers:
        console.print(json_of(network, arch), soft_wrap=True)
        return
    cost, rows = count(network, num_classes, resolution, layers=layers)
    if as_json:
        console.print(json.dumps([asdict(row) for row in rows]), soft_wrap=True)
        return
    if layers:
        console.print(layer_table(rows))
    elif arch:
        console.print(stage_table(arch, resolution))
    print_cost(console, network, pictures, cost)
    print_source(console, network)
    if arch and not layers:
        console.print(arch.to_json(), soft_wrap=True, style="dim")


def check_pictures(
    network: NamedNetwork, resolution: int | None, num_classes: int | None
) -> Pictures:
    """The pictures that a network is to be shown for: its own, but for what is given."""
    resolution = network.pictures.resolution if resolution is None else resolution
    num_classes = network.pictures.num_classes if num_classes is None else num_classes
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ArchitectureError(f"--classes: must be 1 to {MAX_CLASSES}, is {num_classes}")
    if not MIN_RESOLUTION <= resolution <= MAX_RESOLUTION:
        allowed = f"{MIN_RESOLUTION} to {MAX_RESOLUTION}"
        raise ArchitectureError(f"--resolution: must be {allowed}, is {resolution}")
    return Pictures(resolution, num_classes)


def count(
    network: NamedNetwork, num_classes: int, resolution: int, *, layers: bool
) -> tuple[StaticCost, list[Layer]]:
    """What a network costs, and with `layers` where; raises ArchitectureError.

    Only shapes are computed, but where a plug-in's module does not know the meta device.
    """

    def on(device: str) -> tuple[StaticCost, list[Layer]]:
        with torch.device(device):
            model = network.build(num_classes, resolution)
        cost = count_cost(model, resolution)
        return cost, count_layers(model, resolution) if layers else []

    try:
        if not has_plugin(network):
            return on("meta")
        with suppress(*OFF_META):
            return on("meta")
        check_params(network.name, lambda: network.build(num_classes, resolution))
        return on("cpu")
    except (RuntimeError, MemoryError) as e:
        raise ArchitectureError(f"{network.name}: cannot be built here ({one_line(e)})") from e


def has_plugin(network: NamedNetwork) -> bool:
    """Whether a kind of its attention is not our own."""
    arch = network.architecture
    if arch is None:
        return False
    attentions = (arch.stem.attention, arch.fusion.attention, *(s.attention for s in arch.stages))
    return any(attention.kind in PLUGINS for attention in attentions)


def json_of(network: NamedNetwork, arch: Architecture | None) -> str:
    """The canonical JSON of a network; a reference has none."""
    if arch is None:
        raise ArchitectureError(f"--json: {network.name} is a reference, no architecture of ours")
    return arch.to_json()


def print_cost(
    console: Console, network: NamedNetwork, pictures: Pictures, cost: StaticCost
) -> None:
    """What a network is, and its parameters and multiply-adds."""
    counted = [f"{OBJECTIVES[n].show(getattr(cost, n))} M {n}" for n in ("params", "macs")]
    if cost.max_macs != cost.macs:
        counted[-1] += f" ({OBJECTIVES['macs'].show(cost.max_macs)} M when all parts run)"
    side, arch = pictures.resolution, network.architecture
    ident = f" ({arch.at_resolution(side).arch_id})" if arch else ""
    place = f"at {side}x{side}, {pictures.num_classes} classes"
    console.print(f"{network.name}{ident} {place}: {', '.join(counted)}")
    if cost.uncounted:
        console.print(f"not in macs, as no rule counts them: {', '.join(cost.uncounted)}")


def print_source(console: Console, network: NamedNetwork) -> None:
    """Where a network comes from, and what was printed about it, each figure with its verdict."""
    if network.source:
        console.print(f"source: {network.source}")
    for check in check_published(network):
        console.print(f"published: {check_words(check)}")
    if network.note:
        console.print(f"our reading: {network.note}")


def layer_table(layers: Sequence[Layer]) -> Table:
    """A row for each layer with parameters or multiply-adds, and their sum."""
    kind = Column("kind", overflow="fold", max_width=16)
    made = table(
        "layer", kind, *map(number_column, ("output", "params", "macs M", "%")), tight=True
    )
    params, macs = sum(row.params for row in layers), sum(row.macs for row in layers)
    for layer in layers:
        shape = "x".join(map(str, layer.shape))
        add_row(made, (layer.name, layer.kind, shape, *figures(layer, macs)))
    made.add_section()
    add_row(made, ("total", "", "", *figures(Layer("", "", (), params, macs), macs)))
    return made


def figures(layer: Layer, macs: int) -> tuple[str, str, str]:
    """Parameters, multiply-adds in millions, and their share of all."""
    share = 100 * layer.macs / max(macs, 1)
    return f"{layer.params:,}", f"{layer.macs / 1e6:.3f}", f"{share:.1f}"


def stage_table(arch: Architecture, resolution: int) -> Table:
    """A row for the stem, each stage, the head, and what holds for the whole network."""
    part, *numbers, attention, other = StageRow._fields
    made = table(part, *map(number_column, numbers), attention, other, tight=True)
    for row in stage_rows(arch, resolution):
        add_row(made, row)
    return made
