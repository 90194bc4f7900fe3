"""`--tune-engine`: the fastest way of computing on this machine, found out once and kept."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from torch import nn

from nasattn.cli.tables import add_row, name_column, number_column, table
from nasattn.errors import StudyError
from nasattn.evaluate import Setting
from nasattn.files import write_text
from nasattn.search.environment import environment
from nasattn.train.recipe import Recipe
from nasattn.train.tune import WAYS, Timing, fastest, time_way, ways_of

TIMINGS = TypeAdapter(list[Timing])
MACHINE = ("nasattn", "torch", "processor", "vector", "gpu")  # of what timings hold good for


def tuned(
    console: Console, name: str, build: Callable[[], nn.Module], setting: Setting, cache_dir: Path
) -> Recipe:
    """The setting's recipe with the way by which a network trains fastest here, which it shows.

    The timings are kept with the machine's other files and not taken again for a network built of
    the same layers, but for a way that failed: it may have been for want of memory. Raises
    StudyError for a recipe that quantises.
    """
    data, recipe, device = setting.data, setting.recipe, setting.device
    if recipe.quantise != "none":
        raise StudyError(f"--tune-engine: recipe {recipe.name!r} quantises, which has one way only")
    machine = environment()
    facts = [machine.get(key) for key in MACHINE]
    sizes = (torch.get_num_threads(), data.resolution, recipe.batch_size)
    text = json.dumps([facts, repr(build()), device, sizes])
    path = cache_dir / "engines" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    timings = {timing.way: timing for timing in _kept(path) if not timing.reason}
    missing = [way for way in ways_of(device) if way not in timings]
    for way in missing:
        with console.status(f"training {name} for a few steps: {way}"):
            timings[way] = time_way(way, build, data, recipe, device=device, turns=setting.turns)
    problem = _keep(path, list(timings.values())) if missing else ""
    size = min(recipe.train_size or len(data.train), len(data.train))
    n_steps = recipe.epochs * max(size // recipe.batch_size, 1)
    best = fastest(timings, n_steps)
    show(console, timings.values(), n_steps, best)
    kept = f"not kept: {path}: {problem}" if problem else f"kept: {path}"
    console.print(kept, style="dim", markup=False, soft_wrap=True)
    return recipe.model_copy(update=dict(WAYS[best]))


def _kept(path: Path) -> list[Timing]:
    """Timings of an earlier probe; none where the file is missing or of another version."""
    try:
        found = TIMINGS.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return []
    return found if {timing.way for timing in found} <= WAYS.keys() else []


def _keep(path: Path, timings: list[Timing]) -> str:
    """Why the timings could not be kept; "" where they are."""
    text = json.dumps([asdict(timing) for timing in timings], indent=1) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as e:
        return f"cannot be written ({e.strerror or e})"
    return ""


def show(console: Console, timings: Iterable[Timing], n_steps: int, best: str) -> None:
    """A row a way, the chosen one marked."""
    heads = ("setup s", "ms a step", f"{n_steps:,} steps, s")
    made = table(name_column("engine"), *map(number_column, heads), "")
    for timing in timings:
        cells: tuple[str, ...] = ("-", "-", "-", timing.reason)
        if not timing.reason:
            total = timing.training_seconds(n_steps)
            times = (f"{timing.setup_seconds:.1f}", f"{1000 * timing.step_seconds:.1f}")
            cells = (*times, f"{total:.0f}", "taken" if timing.way == best else "")
        add_row(made, (timing.way, *cells))
    console.print(made)
