"""`nasattn detect`: a network as the backbone of a detector, trained and scored."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from rich.console import Console
from rich.progress import Progress
from torch import nn

from nasattn.cli.detect_tables import DetectProgress, show_scores
from nasattn.cli.search import check_folder, make_folder
from nasattn.cli.tables import plural
from nasattn.cost import count_params
from nasattn.data.augment import Normalise
from nasattn.detect.coco import CocoSplit, read_split, same_classes
from nasattn.detect.file import DetectorFacts, read_detector, save_detector
from nasattn.detect.init import init_backbone
from nasattn.detect.loop import DetectEpoch, DetectRecipe, evaluate_detector, train_detector
from nasattn.detect.model import IMAGENET_MEAN, IMAGENET_STD, STRIDES
from nasattn.detect.pictures import check_pictures
from nasattn.detect.score import Scores, check_pycocotools
from nasattn.errors import ArchitectureError, EvaluationError, StudyError, shown
from nasattn.evaluate import check_device
from nasattn.files import write_text
from nasattn.pretrained import read_pretrained
from nasattn.search.spec import slug
from nasattn.spec import Spec, parse
from nasattn.zoo import read_network

SHOWN = 5
DETECTOR, METRICS = "detector.safetensors", "metrics.json"
PACKAGES = ("nasattn", "torch", "torchvision", "pycocotools")


class Machine(Spec):
    """What a detector runs on."""

    device: str = "cpu"
    threads: Annotated[int, Field(gt=0, le=1024)] = 1

    def use(self) -> None:
        """Check that it can be used, and that scores can be had at all; sets the threads."""
        check_pycocotools()
        check_device(self.device)
        torch.set_num_threads(self.threads)


class DetectOptions(Spec):
    """How `nasattn detect NETWORK` trains."""

    recipe: DetectRecipe = DetectRecipe()
    resolution: Annotated[int, Field(ge=32, le=2048)] = 320
    strides: str = ",".join(map(str, STRIDES))
    fpn_width: Annotated[int, Field(gt=0, le=1024)] = 256
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    init: str = ""


def detect_command(
    network: str | None,
    weights: Path | None,
    data: Path | None,
    changes: Mapping[str, Any],
    machine: Mapping[str, Any],
    *,
    out: Path | None,
    overwrite: bool,
    cache_dir: Path,
) -> int:
    """Train NETWORK, or score --weights; returns the exit status."""
    if data is None:
        raise StudyError("--data: which COCO-format folder?")
    console = Console(highlight=False, soft_wrap=True)
    ready = parse(Machine, machine, "detect", StudyError)
    if network is not None and weights is None:
        options = parse(DetectOptions, changes, "detect", StudyError)
        ready.use()
        job = prepare(console, network, data, options, ready, out, overwrite, cache_dir)
        return train_command(console, job)
    if network is not None or weights is None:
        raise StudyError("a NETWORK to train, or the --weights of a detector to score: one of both")
    extra = [*changes.get("recipe", {}), *(name for name in changes if name != "recipe")]
    if extra:
        option = extra[0].replace("_", "-")
        raise StudyError(f"--{option}: a detector that is only scored has its own; leave it out")
    ready.use()
    return score_command(console, weights, data, ready.device, out)


@dataclass(frozen=True)
class Job:
    """A training that has been checked and is ready to run."""

    model: nn.Module
    train: CocoSplit
    val: CocoSplit
    facts: DetectorFacts  # all but epoch and metrics
    machine: Machine
    folder: Path

    @property
    def detector(self) -> Path:
        return self.folder / DETECTOR


def train_command(console: Console, job: Job) -> int:
    """Train, show the scores and the next command; returns the exit status."""
    console.print(plan(job), style="dim", markup=False)
    curve: list[DetectEpoch] = []
    try:
        run(console, job, curve)
    except KeyboardInterrupt:
        kept = f"{job.detector} holds epoch {len(curve)}" if curve else "before an epoch was done"
        console.print(f"\nstopped: {kept}", markup=False)
        return 130
    show_scores(console, curve[-1].scores, job.val)
    console.print(
        f"\nwritten: {job.detector}, {job.folder / METRICS}\nscore it on other pictures:\n"
        f"nasattn detect --weights {shlex.quote(str(job.detector))} --data FOLDER",
        markup=False,
    )
    return 0


def prepare(
    console: Console,
    network: str,
    data: Path,
    options: DetectOptions,
    machine: Machine,
    out: Path | None,
    overwrite: bool,
    cache_dir: Path,
) -> Job:
    """The cheap checks first; nothing is written but the folder, at the end."""
    strides = parse_strides(options.strides)
    named = read_network(network)
    if named.architecture is None:
        raise ArchitectureError(
            f"{named.name}: is a library's network, which gives no maps at named strides; choose"
            " one of ours, such as 'mobilenet_v2'"
        )
    folder = out or Path("runs") / slug(f"{named.name}-{data.absolute().name}-detector")
    check_folder(folder)
    if (folder / DETECTOR).exists() and not overwrite:
        raise StudyError(f"{folder}: holds a detector already; --overwrite replaces it")
    train = read_split(data, "train")
    val = same_classes(read_split(data, "val"), train.classes, str(train.where))
    pretrained = read_pretrained(options.init, named, cache_dir) if options.init else None
    normalise = (pretrained and pretrained.normalise) or Normalise(IMAGENET_MEAN, IMAGENET_STD)
    facts = DetectorFacts.model_validate(
        {
            "name": named.name,
            "arch": named.architecture,
            "classes": train.classes,
            "strides": strides,
            "out_chs": options.fpn_width,
            "resolution": options.resolution,
            "mean": normalise.mean,
            "std": normalise.std,
            "recipe": options.recipe,
            "data": str(data),
            "annotations": {split.name: split.sha256 for split in (train, val)},
            "seed": options.seed,
            "init": pretrained.identity if pretrained else "",
            "versions": {name: version(name) for name in PACKAGES},
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = facts.build()
    if pretrained:
        init_backbone(model.backbone.network, named.architecture, pretrained)
    train, val = checked(console, train), checked(console, val)
    make_folder(folder)
    return Job(model, train, val, facts, machine, folder)


def run(console: Console, job: Job, curve: list[DetectEpoch]) -> None:
    """Train, keeping the detector after each epoch: a killed run leaves the last whole one."""
    with DetectProgress(console, job.facts.recipe.epochs) as progress, plain_errors():

        def keep(epoch: DetectEpoch) -> None:
            metrics = {"loss": epoch.loss, **means(epoch.scores)}
            facts = job.facts.model_copy(update={"epoch": epoch.number, "metrics": metrics})
            save_detector(job.detector, job.model, facts)
            curve.append(epoch)
            write_metrics(job.folder, facts, epoch.scores, job.val, curve)
            progress.epoch(epoch)

        train_detector(
            job.model,
            job.train,
            job.val,
            job.facts.recipe,
            resolution=job.facts.resolution,
            seed=job.facts.seed,
            device=job.machine.device,
            on_step=progress.step,
            on_epoch=keep,
        )


def score_command(
    console: Console, weights: Path, data: Path, device: str, out: Path | None
) -> int:
    """Score a detector file on the val split of a folder; returns the exit status."""
    file = read_detector(weights)
    facts = file.facts
    if out is not None:
        check_folder(out)
    val = checked(console, same_classes(read_split(data, "val"), facts.classes, str(weights)))
    console.print(
        f"detector {weights}: {facts.name}, epoch {facts.epoch} of {facts.recipe.epochs}, "
        f"short side {facts.resolution}",
        style="dim",
        markup=False,
    )
    with plain_errors():
        scores = evaluate_detector(file.build(), val, resolution=facts.resolution, device=device)
    show_scores(console, scores, val)
    if out is not None:
        make_folder(out)
        written = write_metrics(out, facts, scores, val)
        console.print(f"\nwritten: {written}", markup=False)
    return 0


def parse_strides(text: str) -> tuple[int, ...]:
    """'4,8,16' -> (4, 8, 16)."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as e:
        raise StudyError(f"--strides: must be like '4,8,16', is {shown(text)}") from e


def checked(console: Console, split: CocoSplit) -> CocoSplit:
    """The split without pictures that cannot be read; says what was left out or put right."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"checking {split.name} pictures", total=None)
        split = check_pictures(split, lambda n, total: bar.update(task, completed=n, total=total))
    for skipped in split.skipped[:SHOWN]:
        line = f"skipped {skipped.path}: {skipped.reason}"
        console.print(line, markup=False, style="yellow", soft_wrap=True)
    if len(split.skipped) > SHOWN:
        console.print(f"... {len(split.skipped)} pictures skipped in all", style="yellow")
    crowds = "count neither way" if split.name == "val" else "are not trained on"
    notes = [
        f"{n} {words}"
        for n, words in (
            (split.clipped, "boxes cut to their picture"),
            (split.dropped, "boxes without area dropped"),
            (split.n_crowds, f"crowds {crowds}"),
        )
        if n
    ]
    if notes:
        console.print(f"{split.name}: {', '.join(notes)}", style="yellow")
    return split


def plan(job: Job) -> str:
    """What is about to happen, in lines of at most 80 columns for usual names."""
    facts, recipe = job.facts, job.facts.recipe
    maps = ", ".join(map(str, facts.strides))
    weights = f"weights {facts.init}" if facts.init else "fresh weights"
    threads = job.machine.threads
    return (
        f"network {facts.name} ({facts.arch.arch_id}), {weights}\n"
        f"Faster R-CNN, maps at strides {maps}, pyramid of {facts.out_chs} channels, "
        f"{count_params(job.model) / 1e6:.2f} M params\n"
        f"data {facts.data}: {len(job.train.pictures):,} train, {len(job.val.pictures):,} val "
        f"pictures, {len(facts.classes)} classes, {job.train.n_objects:,} and "
        f"{job.val.n_objects:,} objects\n"
        f"{plural(recipe.epochs, 'epoch')}, batch {recipe.batch_size}, lr "
        f"{recipe.lr:g}, short side {facts.resolution}, seed {facts.seed}, {job.machine.device}, "
        f"{plural(threads, 'thread')}"
    )


def means(scores: Scores) -> dict[str, float]:
    return {name: getattr(scores, name) for name in ("map", "map50", "map75")}


def write_metrics(
    folder: Path,
    facts: DetectorFacts,
    scores: Scores,
    split: CocoSplit,
    curve: Sequence[DetectEpoch] = (),
) -> Path:
    """metrics.json: the scores, those of each class, the curve, and what was scored on what."""
    rows = [
        {"epoch": e.number, "loss": e.loss, **e.parts, **means(e.scores), "seconds": e.seconds}
        for e in curve
    ]
    held = {
        "scores": asdict(scores),
        "scored_on": {"annotations": str(split.where), "sha256": split.sha256},
        "curve": rows,
        "arch_id": facts.arch.arch_id,
        "detector": facts.model_dump(mode="json", exclude={"metrics"}),
    }
    path = folder / METRICS
    try:
        write_text(path, json.dumps(held, indent=2) + "\n")
    except OSError as e:
        raise EvaluationError(f"{path}: cannot be written ({e.strerror or e})") from e
    return path


LESS = "out of memory; choose a lower --batch-size, --resolution or --fpn-width"
REMEDIES = {  # by what torch says
    "out of memory": LESS,
    "can't allocate memory": LESS,
    "Expected more than 1 value per channel": (
        "one pixel of one picture cannot be normalised in training; choose a higher --batch-size"
        " or --resolution"
    ),
}


@contextmanager
def plain_errors() -> Iterator[None]:
    """What other options mend as one line; anything else is a bug and passes through."""
    try:
        yield
    except (RuntimeError, ValueError, MemoryError) as e:
        text = "out of memory" if isinstance(e, MemoryError) else str(e)
        remedy = next((words for sign, words in REMEDIES.items() if sign in text), None)
        if remedy is None:
            raise
        raise EvaluationError(remedy) from e
