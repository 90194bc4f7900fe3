"""`nasattn detect`: a network as the backbone of a detector, trained and scored."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from rich.console import Console
from torch import nn

from nasattn.cli.detect_scores import METRICS, checked, means, percent, show_scores, write_metrics
from nasattn.cli.epochs import EpochLines
from nasattn.cli.folders import RunFolder, check_folder, check_target, one_writer
from nasattn.cli.machine import Machine, check_params, machine_turns, plain_memory_errors
from nasattn.cost import count_params
from nasattn.data.augment import Normalise
from nasattn.detect.coco import CocoSplit, check_objects, read_split, same_classes
from nasattn.detect.file import DetectorFacts
from nasattn.detect.init import init_backbone
from nasattn.detect.loop import DetectEpoch, DetectRecipe, evaluate_detector, train_detector
from nasattn.detect.model import IMAGENET_MEAN, IMAGENET_STD, STRIDES
from nasattn.detect.score import check_pycocotools
from nasattn.errors import ArchitectureError, EvaluationError, StudyError, WeightsError, shown
from nasattn.files import slug
from nasattn.model import build_model
from nasattn.pretrained import read_pretrained
from nasattn.spec import Spec, parse
from nasattn.tensor_file import read_tensors, write_tensors
from nasattn.turns import Turns
from nasattn.words import plural
from nasattn.zoo import read_network

DETECTOR = "detector.safetensors"
PACKAGES = ("nasattn", "torch", "torchvision", "pycocotools")


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
        check_pycocotools()
        ready.use()
        with plain_memory_errors("choose a lower --batch-size, --resolution or --fpn-width"):
            job = prepare(console, network, data, options, ready, out, cache_dir)
            return train_command(console, job, overwrite=overwrite)
    if network is not None or weights is None:
        raise StudyError("a NETWORK to train, or the --weights of a detector to score: one of both")
    extra = [*changes.get("recipe", {}), *(name for name in changes if name != "recipe")]
    if extra:
        option = extra[0].replace("_", "-")
        raise StudyError(f"--{option}: a detector that is only scored has its own; leave it out")
    check_pycocotools()
    ready.use()
    with plain_memory_errors("the detector needs more than there is"):
        return score_command(console, weights, data, ready.device, out)


@dataclass(frozen=True)
class Job:
    """A training that has been checked and is ready to run."""

    model: nn.Module
    train: CocoSplit
    val: CocoSplit
    facts: DetectorFacts  # all but epoch and metrics
    machine: Machine
    folder: RunFolder
    turns: Turns


def train_command(console: Console, job: Job, *, overwrite: bool) -> int:
    """Train where nobody else writes; returns the exit status."""
    with one_writer(job.folder.path):
        return train_alone(console, job, overwrite=overwrite)


def train_alone(console: Console, job: Job, *, overwrite: bool) -> int:
    """Train, show the scores and the next command; returns the exit status."""
    earlier = None if overwrite else job.folder.earlier(DetectorFacts)
    if earlier and earlier.epoch == earlier.recipe.epochs:
        console.print("trained already with these settings; --overwrite trains it again")
        next_command(console, job)
        return 0
    curve = [DetectEpoch.of(row) for row in job.folder.clear(overwrite=overwrite)]
    console.print(plan(job), style="dim", markup=False)
    lines = EpochLines(
        console, job.facts.recipe.epochs, ("loss", "mAP %", "mAP50 %"), done=len(curve)
    )
    try:
        with lines:
            run(job, lines, curve)
    except KeyboardInterrupt:
        lines.stopped()
        if job.folder.result.exists():
            console.print(f"{job.folder.result} is the detector so far", markup=False)
        return 130
    show_scores(console, curve[-1].scores, job.val)
    next_command(console, job)
    return 0


def next_command(console: Console, job: Job) -> None:
    """Where the detector is, and how to score it."""
    console.print(
        f"\nwritten: {job.folder.result}, {job.folder.report}\nscore it on other pictures:\n"
        f"nasattn detect --weights {shlex.quote(str(job.folder.result))} --data FOLDER",
        markup=False,
    )


def prepare(
    console: Console,
    network: str,
    data: Path,
    options: DetectOptions,
    machine: Machine,
    out: Path | None,
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
    path = out or Path("runs") / slug(f"{named.name}-{data.absolute().name}-detector")
    check_folder(path)
    for result in (DETECTOR, METRICS):
        check_target(path / result, options.init or None)
    train = read_split(data, "train")
    val = same_classes(read_split(data, "val"), train.classes, str(train.where))
    pretrained = read_pretrained(options.init, named, cache_dir) if options.init else None
    normalise = (pretrained and pretrained.normalise) or Normalise(IMAGENET_MEAN, IMAGENET_STD)
    fields = {
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
    facts = parse(DetectorFacts, fields, "cannot be kept in a detector file", WeightsError)
    check_params(named.name, facts.build)
    if pretrained:
        check_params(named.name, lambda: build_model(facts.arch, 1))  # with its head
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = facts.build()
    if pretrained:
        init_backbone(model.backbone.network, named.architecture, pretrained)
    train, val = checked(console, train), checked(console, val)
    check_objects(val)
    pictures = {split.name: len(split.pictures) for split in (train, val)}  # the readable ones
    folder = RunFolder(path, DETECTOR, METRICS, facts.run, {"pictures": pictures})
    turns = machine_turns(console, cache_dir)
    return Job(model, train, val, facts, machine, folder, turns)


def run(job: Job, lines: EpochLines, curve: list[DetectEpoch]) -> None:
    """Train on from `curve`, keeping the detector after each epoch."""

    def keep() -> None:
        """The report, then the detector, whose epoch says how far it is."""
        scores = curve[-1].scores
        metrics = {"loss": curve[-1].loss, **means(scores)}
        facts = job.facts.model_copy(update={"epoch": len(curve), "metrics": metrics})
        write_metrics(job.folder.path, facts, scores, job.val, curve)
        write_tensors(job.folder.result, job.model, facts)

    def ended(epoch: DetectEpoch) -> None:
        curve.append(epoch)
        keep()
        scores = (percent(epoch.scores.map), percent(epoch.scores.map50))
        lines.show(epoch.number, epoch.seconds, (f"{epoch.loss:.3f}", *scores))

    with plain_errors():
        train_detector(
            job.model,
            job.train,
            job.val,
            job.facts.recipe,
            resolution=job.facts.resolution,
            seed=job.facts.seed,
            device=job.machine.device,
            on_step=lines.step,
            on_epoch=ended,
            checkpoint=job.folder.checkpoint,
            turns=job.turns,
        )
    if not lines.seconds:  # it was stopped between its last checkpoint and the files
        keep()
    job.folder.done()


def score_command(
    console: Console, weights: Path, data: Path, device: str, out: Path | None
) -> int:
    """Score a detector file on the val split of a folder; returns the exit status."""
    file = read_tensors(weights, DetectorFacts)
    facts = file.facts
    if out is not None:
        check_folder(out)
        check_target(out / METRICS, weights)
    val = checked(console, same_classes(read_split(data, "val"), facts.classes, str(weights)))
    check_objects(val)
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
        with one_writer(out):
            written = write_metrics(out, facts, scores, val)
        console.print(f"\nwritten: {written}", markup=False)
    return 0


def parse_strides(text: str) -> tuple[int, ...]:
    """'4,8,16' -> (4, 8, 16)."""
    try:
        strides = tuple(int(part) for part in text.split(","))
    except ValueError:
        strides = ()
    if not strides or min(strides) < 1 or list(strides) != sorted(set(strides)):
        raise StudyError(f"--strides: must be like '4,8,16', ascending from 1 up, is {shown(text)}")
    return strides


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


REMEDIES = {  # by what torch says
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
    except (RuntimeError, ValueError) as e:
        remedy = next((words for sign, words in REMEDIES.items() if sign in str(e)), None)
        if remedy is None:
            raise
        raise EvaluationError(remedy) from e
