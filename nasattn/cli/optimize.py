"""`nasattn optimize`: steps from trained weights to a model that runs elsewhere, set side by side.

A step is what a command of its own does, in a folder of its own: so it goes on where it stopped.
"""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from nasattn.cli.data import load_with_progress
from nasattn.cli.evaluate import Choice, restored
from nasattn.cli.export import Wanted, export_command
from nasattn.cli.folders import RunFolder, check_folder, make_folder, write_result
from nasattn.cli.machine import check_here, machine_turns, plain_memory_errors
from nasattn.cli.prune import prune_command
from nasattn.cli.pruning import read_options
from nasattn.cli.states import Scene, State, measure_states, notes, state_table
from nasattn.cli.teacher import Lesson, read_distil
from nasattn.cli.train import LESS, WEIGHTS, train_command, usual
from nasattn.cli.train import check_here as check_data_here
from nasattn.compress.fold import fold_checked
from nasattn.compress.prune import checked_ratio
from nasattn.data import ImageData
from nasattn.deploy.card import weights_id
from nasattn.deploy.export import PARITY
from nasattn.errors import StudyError, WeightsError
from nasattn.evaluate import check_device
from nasattn.files import slug
from nasattn.pretrained import TORCHVISION
from nasattn.runtimes.spec import RuntimeSpec, parse_runtime
from nasattn.runtimes.table import RUNTIMES
from nasattn.steps import START, Distil, Export, Fold, Prune, Qat, Step, Transfer
from nasattn.tensor_file import read_tensors, write_tensors
from nasattn.train.loop import subset
from nasattn.weights import Facts
from nasattn.words import plural
from nasattn.zoo import read_network

REPORT = "optimize.json"
USUAL_RUNTIME, PLAIN_RUNTIME = "onnxruntime", "torch"


@dataclass(frozen=True)
class Ask:
    """The options of the command; None where they are left to the weights file."""

    init: str | None = None
    data: str | None = None
    resolution: int | None = None
    device: str | None = None
    threads: int | None = None
    runtime: str | None = None  # on which networks are timed
    n: int = 1000  # val-select pictures, at most, that every row is asked about
    overwrite: bool = False

    @property
    def changes(self) -> dict[str, Any]:
        """What training commands are told."""
        names = ("data", "resolution", "device", "threads")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def spec(self) -> RuntimeSpec:
        """The runtime, checked; raises StudyError or RuntimeMissingError."""
        usual = PLAIN_RUNTIME if RUNTIMES[USUAL_RUNTIME].missing() else USUAL_RUNTIME
        spec = parse_runtime(self.runtime or usual, threads=self.threads or 1)
        check_here(spec)
        if spec.batch > 1:
            raise StudyError(f"--runtime: files take one picture at a time, batch is {spec.batch}")
        return spec


@dataclass(frozen=True)
class Ground:
    """What a step stands on."""

    ask: Ask
    data: ImageData  # that every state is asked about
    start: str  # what the pipeline began with
    target: str  # what the step begins with: a weights file, or a network by name
    init: str | None  # with these weights
    place: Path  # the step's own folder
    cache_dir: Path


@plain_memory_errors(LESS)
def optimize_command(
    target: str, steps: Sequence[Step], ask: Ask, *, out: Path | None, cache_dir: Path
) -> int:
    """Do the steps that are not done yet, measure what each left; returns the exit status."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if ask.n < 1:
        raise StudyError(f"--pictures: must be 1 or more, is {ask.n}")
    check_start(target, steps, ask)
    check_steps(steps)
    check_device(ask.device or "cpu")
    spec = ask.spec
    folder = out or Path("runs") / slug(f"{Path(target).absolute().parent.name}-optimized")
    check_folder(folder)
    data = load_checked(console, target, steps, ask, cache_dir)
    make_folder(folder)
    states = [] if isinstance(steps[0], Transfer) else [State(START, Path(target))]
    ground = Ground(ask, data, target, target, ask.init, folder, cache_dir)
    bad = False
    for i, step in enumerate(steps, 1):
        name = f"{i}-{step.step}"
        console.print(f"\nstep {i} of {len(steps)}: {step.step}", style="bold")
        here = replace(ground, place=folder / name)
        status = DO[step.step](console, step, here)
        if status == 130:
            return status
        bad = bad or status != 0
        if isinstance(step, Export):
            states += [State(name, Path(ground.target), here.place)]
        else:
            weights = here.place / WEIGHTS
            states += [State(name, weights)]
            ground = replace(ground, target=str(weights), init=None)
    compare(console, states, steps, spec, ground)
    return int(bad)


def compare(
    console: Console, states: Sequence[State], steps: Sequence[Step], spec: RuntimeSpec, end: Ground
) -> None:
    """Measure all states together, show and write what came of them, and what to type next."""
    ask, folder, data = end.ask, end.place, end.data
    facts = read_tensors(Path(end.target), Facts).facts
    split = subset(data.val_select, ask.n)
    turns = machine_turns(console, end.cache_dir)
    scene = Scene(data, split, spec, ask.device or "cpu", turns)
    with console.status("asking and timing what every step left"):
        rows = measure_states(states, scene)
    console.print()
    console.print(state_table(rows), soft_wrap=False)
    console.print(notes(rows, scene), style="dim")
    report = {
        "steps": [step.plain() for step in steps],
        "data": data.name,
        "content_hash": data.content_hash,
        "split": "val_select",
        "rows": [row.plain() for row in rows],
        "versions": facts.versions,
    }
    write_result(folder / REPORT, json.dumps(report, indent=1) + "\n")
    console.print(f"\nwritten: {folder / REPORT}")
    best = next(row for row in reversed(rows) if row.verdict != "bad")
    console.print(f"ask it: nasattn predict {shlex.quote(best.path)} PICTURES")


def check_start(target: str, steps: Sequence[Step], ask: Ask) -> None:
    """Whether the first step can begin with what is given."""
    is_file = Path(target).suffix.lower() == ".safetensors"
    if is_file and ask.init is not None:
        raise StudyError(f"--init: {target} has weights of its own")
    if is_file:
        read_tensors(Path(target), Facts)
    elif ask.init is None:
        raise StudyError(
            f"{target}: is no .safetensors file; a network needs --init, a file of its weights"
        )
    elif not isinstance(steps[0], Transfer):
        raise StudyError(
            f"{target}: a network by name begins with the step transfer, "
            f"here it is {steps[0].step}; `nasattn train` makes weights of it, too"
        )
    if isinstance(steps[0], Transfer) and ask.data is None:
        raise StudyError("--data: names the pictures that transfer is to")
    if ask.resolution is not None and all(isinstance(step, Fold | Export) for step in steps):
        raise StudyError("--resolution: is for steps that train, here is none")


def load_checked(
    console: Console, target: str, steps: Sequence[Step], ask: Ask, cache_dir: Path
) -> ImageData:
    """The pictures of all steps; an error where what is there, or a teacher, has other classes."""
    is_file = Path(target).suffix.lower() == ".safetensors"
    weights = read_tensors(Path(target), Facts) if is_file else None
    network = weights.facts.network if weights else read_network(target)
    if network.architecture is None and any(isinstance(step, Prune) for step in steps):
        raise StudyError(f"{target}: is a library's network; those of nasattn can be pruned")
    chosen = usual(network, weights) | ask.changes
    source, resolution = chosen["data"], chosen.get("resolution")
    if weights and ask.data is None:
        check_data_here(target, source, resolution, cache_dir)
    data = load_with_progress(console, source, resolution, cache_dir)
    if weights and not isinstance(steps[0], Transfer):
        restored(weights, data)
    for step in steps:
        read_distil(lesson_of(step, target), data, cache_dir)
    return data


def check_steps(steps: Sequence[Step]) -> None:
    """What can be known of steps before the first one begins: packages, names, files."""
    for step in steps:
        if isinstance(step, Prune):
            if step.ratio is not None:
                checked_ratio(step.ratio)
            read_options(prune_changes(step, Ask()), choice_of(Ask()))
        if isinstance(step, Export):
            wanted(step, Ask(), None).orders()
        if isinstance(step, Distil):
            check_teachers(step.teacher)


def check_teachers(names: Sequence[str]) -> None:
    """WeightsError for a file that is not there."""
    for name in names:
        file = name.partition("=")[2] or name
        if file not in (START, TORCHVISION) and not Path(file).expanduser().is_file():
            raise WeightsError(f"teacher {name}: there is no such file")


# ---- Each step, as its command does it ----


def train_step(console: Console, step: Any, ground: Ground) -> int:
    """Transfer, distillation, quantisation-aware training: they differ by recipe and teacher."""
    return train_command(
        ground.target,
        ground.ask.changes | {"recipe": step.recipe.model_dump()},
        init=ground.init,
        lesson=lesson_of(step, ground.start),
        out=ground.place,
        overwrite=ground.ask.overwrite,
        cache_dir=ground.cache_dir,
    )


def lesson_of(step: Step, start: str) -> Lesson:
    """What a step teaches; `start` is what the pipeline began with."""
    if not isinstance(step, Distil):
        return Lesson()
    names = tuple(start if one == START else one for one in step.teacher)
    return Lesson(names, step.temperature, step.weight, features=step.features)


def prune_step(console: Console, step: Any, ground: Ground) -> int:
    return prune_command(
        ground.target,
        prune_changes(step, ground.ask),
        choice_of(ground.ask),
        out=ground.place,
        overwrite=ground.ask.overwrite,
        cache_dir=ground.cache_dir,
    )


def prune_changes(step: Prune, ask: Ask) -> dict[str, Any]:
    """What `nasattn prune` is told."""
    machine = {name: value for name, value in ask.changes.items() if name != "data"}
    own = step.model_dump(exclude_none=True, exclude={"recipe"})
    return machine | own | {"recipe": step.recipe.model_dump()}


def choice_of(ask: Ask) -> Choice:
    """The pictures, as `nasattn evaluate` has it."""
    device, threads = ask.device or "cpu", ask.threads or 1
    return Choice(None, ask.data, ask.resolution, "val_select", None, None, device, threads)


def fold_step(console: Console, step: Step, ground: Ground) -> int:
    """Fold what can be folded; nothing is trained."""
    weights = read_tensors(Path(ground.target), Facts)
    model, side = weights.build(), weights.facts.resolution
    x = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    folds = fold_checked(model, x, ground.target)
    make_folder(ground.place)
    facts = weights.facts.model_copy(update={"folded": weights.facts.folded + folds})
    folder = RunFolder(ground.place, WEIGHTS, REPORT, facts.run)
    if not ground.ask.overwrite and folder.earlier(Facts):
        console.print("folded already; --overwrite does it again")
        return 0
    write_tensors(folder.result, model, facts)
    console.print(f"{plural(len(folds), 'norm')} folded into convolutions")
    return 0


def export_step(console: Console, step: Any, ground: Ground) -> int:
    order = wanted(step, ground.ask, ground.place)
    if not ground.ask.overwrite and is_exported(order, ground):
        console.print("exported already; --overwrite does it again")
        return 0
    return export_command(ground.target, order, cache_dir=ground.cache_dir)


def is_exported(order: Wanted, ground: Ground) -> bool:
    """Whether all files are there, good ones of these very weights, asked about these pictures."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        parity = json.loads((ground.place / PARITY).read_text(encoding="utf-8"))
        found = [parity["models"][f"{form.name} {p}"] for form, p in order.orders()[0]]
        files = [ground.place / file for one in found for file in one["files"]]
        n = len(subset(ground.data.val_select, ground.ask.n))
        asked = [(one["pictures"]["content_hash"], one["pictures"]["n"]) for one in found]
        ours = weights_id(read_tensors(Path(ground.target), Facts).build())
        return (
            parity["weights"] == ours
            and all(one["verdict"] == "good" for one in found)
            and all(one == (ground.data.content_hash, n) for one in asked)
            and all(file.is_file() for file in files)
        )
    return False


def wanted(step: Export, ask: Ask, place: Path | None) -> Wanted:
    """What `nasattn export` is told."""
    return Wanted(
        ",".join(step.to),
        ",".join(step.precision),
        None,
        ask.data,
        None,
        None,
        None,
        ask.n,
        place,
        ask.overwrite,
    )


DO: Mapping[str, Callable[[Console, Any, Ground], int]] = {
    Transfer.step: train_step,
    Distil.step: train_step,
    Qat.step: train_step,
    Prune.step: prune_step,
    Fold.step: fold_step,
    Export.step: export_step,
}
