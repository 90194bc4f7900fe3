"""`nasattn spaces` and `nasattn show`."""

import json
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nasattn.arch import Architecture, parse_architecture
from nasattn.baselines import BASELINES, Baseline
from nasattn.cost import count_macs, count_params
from nasattn.errors import ArchitectureError, UnknownNameError
from nasattn.library import shipped
from nasattn.model import build_model
from nasattn.objectives import OBJECTIVES
from nasattn.space import load_space


def spaces_command() -> None:
    """A table of the shipped spaces."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("space", "parameters", "baselines", "description"):
        table.add_column(column, justify="right" if column == "parameters" else "left")
    for name in shipped("search_spaces"):
        space = load_space(name)
        cells = (name, str(len(space.free)), " ".join(space.baselines), space.description)
        table.add_row(*map(Text, cells))
    console = Console(highlight=False)
    console.print(table)
    console.print("next: nasattn search --space mobile", style="dim")


def read_network(name: str) -> tuple[Architecture, Baseline | None]:
    """A baseline by name, or the architecture in a JSON file."""
    if name in BASELINES:
        return BASELINES[name].architecture, BASELINES[name]
    path = Path(name)
    if path.suffix != ".json":
        raise UnknownNameError("network", name, known=BASELINES)
    try:
        return parse_architecture(json.loads(path.read_text(encoding="utf-8")), str(path)), None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        reason = getattr(e, "strerror", None) or e
        raise ArchitectureError(f"{path}: cannot be read as JSON ({reason})") from e


def show_command(name: str, resolution: int, num_classes: int, *, as_json: bool) -> None:
    """Stages, costs, published figures and JSON of a network at a resolution."""
    arch, baseline = read_network(name)
    if num_classes < 1:
        raise ArchitectureError(f"--classes: must be 1 or more, is {num_classes}")
    arch = arch.at_resolution(resolution)
    console = Console(highlight=False)
    if as_json:
        console.print(arch.to_json(), markup=False, soft_wrap=True)
        return
    model = build_model(arch, num_classes)
    console.print(stage_table(arch, resolution))
    costs = {"params": count_params(model), "macs": count_macs(model, resolution)}
    counted = ", ".join(f"{OBJECTIVES[n].show(v)} M {n}" for n, v in costs.items())
    console.print(
        f"{name} ({arch.arch_id}): {counted} at {resolution}x{resolution}, {num_classes} classes",
        markup=False,
    )
    if baseline:
        console.print(f"source: {baseline.source}", markup=False)
        for figure in baseline.published:
            row = OBJECTIVES[figure.metric]
            console.print(
                f"published: {figure.metric} {row.show(figure.value)} {row.unit} "
                f"({figure.where}; {figure.source})",
                markup=False,
            )
        if baseline.note:
            console.print(f"our reading: {baseline.note}", markup=False)
    console.print(arch.to_json(), markup=False, soft_wrap=True, style="dim")


def stage_table(arch: Architecture, resolution: int) -> Table:
    """A row for the stem, each stage, and the head."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("part", "map", "width", "depth", "expansion", "kernel", "attention"):
        table.add_column(column, justify="left" if column in ("part", "attention") else "right")
    sizes = arch.map_sizes(resolution)
    table.add_row("stem", str(sizes[0]), str(arch.stem.width), "1", "", "3", "")
    for i, (size, stage) in enumerate(zip(sizes[1:], arch.stages, strict=True)):
        spec = stage.attention
        options = " ".join(f"{k}={v}" for k, v in (spec.model_extra or {}).items())
        words = "" if spec.kind == "none" else f"{spec.kind} {spec.placement} {options}"
        cells = (f"stage {i}", size, stage.width, stage.depth, f"{stage.expansion:g}", stage.kernel)
        table.add_row(*map(str, cells), words)
    head = arch.head
    pooling = head.pooling if head.pooling == "avg" else f"gem p={head.gem_p:g}"
    pooling = "gem, learnable p" if head.gem_learnable else pooling
    parts = [f"fusion {arch.fusion.kind}, {arch.fusion.terms} terms"] * (arch.fusion.kind != "none")
    parts += [f"{pooling} pooling"]
    parts += [f"hidden {head.hidden}"] * (head.hidden > 0)
    table.add_row("head", str(sizes[-1]), str(arch.out_chs), "", "", "1", ", ".join(parts))
    return table
