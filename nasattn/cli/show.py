"""`nasattn show`: one network."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from nasattn.arch import Architecture
from nasattn.cli.zoo import check_words
from nasattn.cost import count_cost
from nasattn.cost.layers import Layer, count_layers
from nasattn.data.load import MAX_RESOLUTION, MIN_RESOLUTION
from nasattn.errors import ArchitectureError
from nasattn.objectives import OBJECTIVES
from nasattn.parts import HeadSpec, Part
from nasattn.zoo import ZOO, NamedNetwork, check_published, read_network

MAX_CLASSES = 100_000


def show_command(
    name: str, resolution: int | None, num_classes: int | None, *, layers: bool, as_json: bool
) -> None:
    """Stages or layers, costs, published figures and JSON of a network at a resolution."""
    network = read_network(name)
    resolution = network.pictures.resolution if resolution is None else resolution
    num_classes = network.pictures.num_classes if num_classes is None else num_classes
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ArchitectureError(f"--classes: must be 1 to {MAX_CLASSES}, is {num_classes}")
    if not MIN_RESOLUTION <= resolution <= MAX_RESOLUTION:
        allowed = f"{MIN_RESOLUTION} to {MAX_RESOLUTION}"
        raise ArchitectureError(f"--resolution: must be {allowed}, is {resolution}")
    arch = network.architecture and network.architecture.at_resolution(resolution)
    console = Console(highlight=False, markup=False)
    if as_json and not layers:
        console.print(json_of(network, arch), soft_wrap=True)
        return
    # A plug-in's module, which a file may name, need not know the meta device.
    device = "meta" if network.name in ZOO else "cpu"
    try:
        with torch.device(device):
            model = network.build(num_classes, resolution)
        cost = count_cost(model, resolution)
        rows = count_layers(model, resolution) if layers else []
    except (RuntimeError, MemoryError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise ArchitectureError(f"{name}: cannot be built here ({reason})") from e
    if as_json:
        console.print(json.dumps([asdict(row) for row in rows]), soft_wrap=True)
        return
    counted = [f"{OBJECTIVES[n].show(getattr(cost, n))} M {n}" for n in ("params", "macs")]
    if cost.max_macs != cost.macs:
        counted[-1] += f" ({OBJECTIVES['macs'].show(cost.max_macs)} M when all parts run)"
    if layers:
        console.print(layer_table(rows))
    elif arch:
        console.print(stage_table(arch, resolution))
    ident = f" ({arch.arch_id})" if arch else ""
    pictures = f"at {resolution}x{resolution}, {num_classes} classes"
    console.print(f"{network.name}{ident} {pictures}: {', '.join(counted)}")
    if cost.uncounted:
        console.print(f"not in macs, as no rule counts them: {', '.join(cost.uncounted)}")
    print_source(console, network)
    if arch and not layers:
        console.print(arch.to_json(), soft_wrap=True, style="dim")


def json_of(network: NamedNetwork, arch: Architecture | None) -> str:
    """The canonical JSON of a network; a reference has none."""
    if arch is None:
        raise ArchitectureError(f"--json: {network.name} is a reference, no architecture of ours")
    return arch.to_json()


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
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("layer", overflow="fold")
    table.add_column("kind", overflow="fold", max_width=16)
    for column in ("output", "params", "macs M", "%"):
        table.add_column(column, justify="right", no_wrap=True)
    params, macs = sum(row.params for row in layers), sum(row.macs for row in layers)
    for row in layers:
        table.add_row(row.name, row.kind, "x".join(map(str, row.shape)), *figures(row, macs))
    table.add_section()
    table.add_row("total", "", "", *figures(Layer("", "", (), params, macs), macs))
    return table


def figures(row: Layer, macs: int) -> tuple[str, str, str]:
    """Parameters, multiply-adds in millions, and their share of all."""
    return f"{row.params:,}", f"{row.macs / 1e6:.3f}", f"{100 * row.macs / max(macs, 1):.1f}"


def stage_table(arch: Architecture, resolution: int) -> Table:
    """A row for the stem, each stage, the head, and what holds for the whole network."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("part", "map", "width", "depth", "expansion", "kernel", "attention", "other"):
        left = column in ("part", "attention", "other")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    sizes = arch.map_sizes(resolution)
    stem = arch.stem
    words = other_fields(stem, shown=("width", "stride", "kernel"))
    table.add_row("stem", str(sizes[0]), str(stem.width), "1", "", str(stem.kernel), "", words)
    for i, (size, stage) in enumerate(zip(sizes[1:], arch.stages, strict=True)):
        spec = stage.attention
        options = " ".join(f"{k}={v}" for k, v in (spec.model_extra or {}).items())
        words = "" if spec.kind == "none" else f"{spec.kind} {spec.placement} {options}"
        cells = (f"stage {i}", size, stage.width, stage.depth, f"{stage.expansion:g}", stage.kernel)
        shown = ("width", "depth", "stride", "expansion", "kernel", "attention")
        table.add_row(*map(str, cells), words, other_fields(stage, shown))
    if arch.fusion.kind != "none":
        table.add_row("fusion", *[""] * 6, other_fields(arch.fusion))
    rest = other_fields(arch.head, shown=("conv_width", "pooling", "gem_p", "gem_learnable"))
    words = f"{pooling_words(arch.head)} {rest}".strip()
    table.add_row("head", str(sizes[-1]), str(arch.out_chs), *[""] * 4, words)
    if words := other_fields(arch, shown=("stem", "stages", "fusion", "head")):
        table.add_row("whole", *[""] * 6, words)
    return table


def pooling_words(head: HeadSpec) -> str:
    """How the final map is pooled."""
    if head.pooling != "gem":
        return f"{head.pooling} pooling"
    return "gem pooling, learnable p" if head.gem_learnable else f"gem pooling p={head.gem_p:g}"


def other_fields(part: Part, shown: Collection[str] = ()) -> str:
    """What a part's columns do not show: every further field that is not at its default."""
    fields = part.model_dump(mode="json", exclude_defaults=True)
    return " ".join(
        str(value) if name == "block" else f"{name}={_compact(value)}"
        for name, value in fields.items()
        if name not in shown
    )


def _compact(value: object) -> str:
    """A plain value in a few letters; a nested part as `kind(option=value)`."""
    if not isinstance(value, dict):
        return f"{value:g}" if isinstance(value, float) else str(value).lower()
    rest = ",".join(f"{k}={_compact(v)}" for k, v in value.items() if k != "kind")
    return f"{value.get('kind', '')}({rest})" if rest else str(value.get("kind"))
