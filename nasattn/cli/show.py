"""`nasattn show`: one network."""

import json
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from nasattn.arch import Architecture, parse_architecture
from nasattn.baselines import BASELINES, Baseline
from nasattn.cost import count_macs, count_params
from nasattn.data.load import MAX_RESOLUTION, MIN_RESOLUTION
from nasattn.errors import ArchitectureError, UnknownNameError
from nasattn.model import build_model
from nasattn.objectives import OBJECTIVES

MAX_CLASSES = 100_000


@dataclass(frozen=True)
class Shown:
    """A network and the pictures that it is shown for."""

    name: str
    architecture: Architecture
    resolution: int = 224
    n_classes: int = 1000
    baseline: Baseline | None = None


def read_network(name: str) -> Shown:
    """A baseline by name, or a JSON file: an architecture, or a network that a search wrote."""
    if name in BASELINES:
        return Shown(name, BASELINES[name].architecture, baseline=BASELINES[name])
    path = Path(name)
    if path.suffix != ".json":
        raise UnknownNameError("network", name, known=BASELINES)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        reason = getattr(e, "strerror", None) or e
        raise ArchitectureError(f"{path}: cannot be read as JSON ({reason})") from e
    if not isinstance(data, dict) or "architecture" not in data:
        return Shown(path.stem, parse_architecture(data, str(path)))
    architecture = parse_architecture(data["architecture"], str(path))
    try:
        return Shown(path.stem, architecture, data["settings"]["resolution"], data["n_classes"])
    except (KeyError, TypeError):
        return Shown(path.stem, architecture)


def show_command(
    name: str, resolution: int | None, num_classes: int | None, *, as_json: bool
) -> None:
    """Stages, costs, published figures and JSON of a network at a resolution."""
    shown = read_network(name)
    resolution = shown.resolution if resolution is None else resolution
    num_classes = shown.n_classes if num_classes is None else num_classes
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ArchitectureError(f"--classes: must be 1 to {MAX_CLASSES}, is {num_classes}")
    if not MIN_RESOLUTION <= resolution <= MAX_RESOLUTION:
        allowed = f"{MIN_RESOLUTION} to {MAX_RESOLUTION}"
        raise ArchitectureError(f"--resolution: must be {allowed}, is {resolution}")
    arch = shown.architecture.at_resolution(resolution)
    console = Console(highlight=False, markup=False)
    if as_json:
        console.print(arch.to_json(), soft_wrap=True)
        return
    try:
        model = build_model(arch, num_classes)
        costs = {"params": count_params(model), "macs": count_macs(model, resolution)}
    except (RuntimeError, MemoryError) as e:
        raise ArchitectureError(f"{name}: cannot be built here ({str(e).splitlines()[0]})") from e
    counted = ", ".join(f"{OBJECTIVES[n].show(v)} M {n}" for n, v in costs.items())
    console.print(stage_table(arch, resolution))
    console.print(f"{shown.name} ({arch.arch_id}) at {resolution}x{resolution}, ", end="")
    console.print(f"{num_classes} classes: {counted}")
    if shown.baseline:
        print_published(console, shown.baseline)
    console.print(arch.to_json(), soft_wrap=True, style="dim")


def print_published(console: Console, baseline: Baseline) -> None:
    """Where a network comes from, and what was printed about it."""
    console.print(f"source: {baseline.source}")
    for figure in baseline.published:
        row = OBJECTIVES[figure.metric]
        console.print(f"published: {row.say(figure.value)} ({figure.where}; {figure.source})")
    if baseline.note:
        console.print(f"our reading: {baseline.note}")


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
