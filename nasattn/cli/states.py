"""States: what the steps of a pipeline left, asked about the same pictures and timed in turns."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor, nn

from nasattn.cli.tables import add_row, name_column, number_column, table
from nasattn.compress.prune import cost_of
from nasattn.cost import Latency, StaticCost
from nasattn.cost.bench import Bench, Converted
from nasattn.data import ImageData, Split
from nasattn.data.augment import to_float
from nasattn.deploy.export import PARITY
from nasattn.deploy.formats import get_format
from nasattn.errors import EvaluationError
from nasattn.files import slug
from nasattn.runtimes.spec import RuntimeSpec
from nasattn.tensor_file import TensorFile, read_tensors
from nasattn.train.loop import to_tensors
from nasattn.train.metrics import Share, measure_answers
from nasattn.turns import Turns
from nasattn.weights import Facts


@dataclass(frozen=True)
class State:
    """A step's name, the weights that it left or began with, and where it exported them to."""

    name: str
    weights: Path
    exported: Path | None = None


@dataclass(frozen=True)
class Row:
    """A network or a file of it, and what it answers and takes."""

    name: str
    path: str
    top1: Share
    params: int
    macs: int
    size_bytes: int
    verdict: str = ""  # of an exported file
    latency: Latency | None = None
    reason: str = ""  # why it has none

    def plain(self) -> dict[str, Any]:
        return asdict(self) | {"interval": self.top1.interval}


@dataclass(frozen=True)
class Scene:
    """What all states have in common."""

    data: ImageData
    split: Split  # the pictures that every row is asked about
    spec: RuntimeSpec  # on which networks are timed
    device: str
    turns: Turns


def measure_states(states: Sequence[State], scene: Scene) -> list[Row]:
    """A row a network or file. Its time is set beside the first network's on the same runtime."""
    rows: list[Row] = []
    timed: dict[str, dict[str, nn.Module | Converted]] = {}  # by runtime, by row
    for state in states:
        file = read_tensors(state.weights, Facts)
        cost = cost_of(file.build(), example(scene))
        if state.exported is None:
            rows.append(network_row(state, file, cost, scene))
            timed.setdefault(scene.spec.runtime, {})[state.name] = file.build().eval()
            continue
        for row, runtime, files in exported_rows(state.name, state.exported, cost):
            rows.append(row)
            timed.setdefault(runtime, {})[row.name] = Converted(files, None)
    first = read_tensors(states[0].weights, Facts)
    images, _ = to_tensors(scene.split, "cpu")
    pictures = first.facts.normalise(to_float(images[:16]))
    found: dict[str, Row] = {row.name: row for row in rows}
    for runtime, networks in timed.items():
        spec = scene.spec.model_copy(update={"runtime": runtime})
        for name, latency, reason in time_in_turns(spec, first, networks, pictures, scene.turns):
            found[name] = replace(found[name], latency=latency, reason=reason)
    return list(found.values())


def example(scene: Scene) -> Tensor:
    """A picture's size."""
    images, _ = to_tensors(scene.split, "cpu")
    return images[:1].float()


def network_row(state: State, file: TensorFile[Facts], cost: StaticCost, scene: Scene) -> Row:
    model = file.build()
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    n_classes = len(scene.data.classes)
    answers = measure_answers(
        model.to(scene.device), scene.split, file.facts.normalise, n_classes, device=scene.device
    )
    return Row(state.name, str(state.weights), answers.top1, cost.params, cost.macs, size)


def exported_rows(
    name: str, folder: Path, cost: StaticCost
) -> Iterator[tuple[Row, str, dict[str, bytes]]]:
    """Each file that was exported, with its runtime and what that reads."""
    parity = json.loads((folder / PARITY).read_text(encoding="utf-8"))
    for model in parity["models"].values():
        if model["fidelity"] is None:
            continue
        form, precision = get_format(model["format"]), model["precision"]
        endings = form.file_names(slug(parity["network"]), precision)
        files = {own: (folder / file).read_bytes() for own, file in endings.items()}
        top1 = model["fidelity"]["top1"]
        row = Row(
            f"{name.partition('-')[0]}-{form.name} {precision}",
            str(folder / next(iter(model["files"]))),
            Share(top1["right"], top1["n"]),
            cost.params,
            cost.macs,
            model["size_bytes"],
            model["verdict"],
        )
        yield row, form.runtime, files


def time_in_turns(
    spec: RuntimeSpec,
    first: TensorFile[Facts],
    networks: Mapping[str, nn.Module | Converted],
    pictures: Tensor,
    turns: Turns,
) -> Iterator[tuple[str, Latency | None, str]]:
    """(name, latency, why there is none) on a runtime, in turns with the first network."""
    bench = Bench(spec, first.build().eval(), pictures, turns=turns)
    try:
        bench.start()
        for one in bench.measure_all(networks):
            yield one.name, one.latency, one.reason
    except EvaluationError as e:  # the reference does not run there
        yield from ((name, None, str(e)) for name in networks)
    finally:
        bench.close()


def state_table(rows: Sequence[Row]) -> Table:
    """A row a state: what it answers, what it takes, what of the first one's time."""
    numbers = ("top1 %", "95 %", "params", "macs M", "MB", "time", "95 %")
    made = table(name_column("after step"), *map(number_column, numbers), tight=True)
    for row in rows:
        low, high = (100 * bound for bound in row.top1.interval)
        cells = (
            f"{100 * row.top1.value:.1f}",
            f"{low:.1f}-{high:.1f}",
            f"{row.params:,}",
            f"{row.macs / 1e6:.2f}",
            f"{row.size_bytes / 1e6:.2f}",
            *time_cells(row.latency),
        )
        style = "red" if row.verdict == "bad" else None
        add_row(made, (row.name, *cells), style=style)
    return made


def time_cells(latency: Latency | None) -> tuple[str, str]:
    """Of the first network's time: the ratio and its interval."""
    if latency is None:
        return "-", "-"
    interval = latency.interval
    span = f"{interval[0]:.2f}-{interval[1]:.2f}" if interval else "-"
    return f"{latency.relative:.2f}", span


def notes(rows: Sequence[Row], scene: Scene) -> str:
    """How the table is to be read."""
    base = next((row.latency for row in rows if row.latency), None)
    runtimes = dict.fromkeys(row.latency.runtime for row in rows if row.latency)
    lines = [
        f"{len(scene.split):,} val-select pictures; 95 %: of so many pictures, and of the time",
        f"time: of {rows[0].name}'s on the same runtime in float32, in turns with it,",
        f"batch 1, {scene.spec.threads} of {scene.spec.target or 'this machine'}'s threads"
        + (f"; {rows[0].name} takes {base.reference_ms:.2f} ms" if base else ""),
        f"on {', '.join(runtimes)}" if runtimes else "",
    ]
    lines += [f"{row.name}: no time ({row.reason})" for row in rows if row.reason]
    lines += [f"{row.name}: bad, see {PARITY} beside it" for row in rows if row.verdict == "bad"]
    return "\n".join(line for line in lines if line)
