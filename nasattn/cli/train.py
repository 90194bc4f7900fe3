"""`nasattn train`: one network, by a recipe, to a weights file."""

import shlex
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from nasattn.baselines.baseline import PICTURES
from nasattn.cli.data import load_with_progress
from nasattn.cli.progress import duration
from nasattn.cli.search import check_folder, make_folder
from nasattn.cli.tables import plural
from nasattn.data import ImageData, Split
from nasattn.data.augment import Normalise
from nasattn.errors import EvaluationError, NasattnError
from nasattn.evaluate import Setting, check_device
from nasattn.files import write_text
from nasattn.pretrained import read_pretrained
from nasattn.search.artifacts import curve_csv
from nasattn.search.spec import StudySpec, load_study_spec, slug
from nasattn.train.checkpoint import Checkpoint, check_same_run
from nasattn.train.loop import Epoch, subset, to_tensors, train_model
from nasattn.train.metrics import Share, measure_answers
from nasattn.weights import Facts, Fit, load_into, read_weights, save_weights
from nasattn.zoo import NamedNetwork, read_network

WEIGHTS, CURVE, CHECKPOINT = "weights.safetensors", "curve.csv", "checkpoint.pt"
VERSIONS = ("nasattn", "torch", "torchvision", "timm", "numpy")


@dataclass(frozen=True)
class Job:
    """A training that has been checked and is ready to run."""

    model: nn.Module
    spec: StudySpec
    data: ImageData
    facts: Facts  # all but the metrics
    folder: Path

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.folder / CHECKPOINT, self.facts.run)


def train_command(
    name: str,
    changes: Mapping[str, Any],
    *,
    init: str | None,
    out: Path | None,
    overwrite: bool,
    cache_dir: Path,
) -> int:
    """Check everything, train, write weights and curve; returns the exit status."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    network = read_network(name)
    spec = load_study_spec(None, searched(network) | dict(changes))
    check_device(spec.device)
    torch.set_num_threads(spec.threads)
    folder = out or Path("runs") / slug(f"{network.name}-{Path(spec.data).absolute().stem}")
    check_folder(folder)
    data = load_with_progress(console, spec.data, spec.resolution, cache_dir)
    model = build(network, spec, data)
    identity = load_init(console, model, init, network, cache_dir) if init else ""
    facts = known_facts(network, spec, data, identity)
    job = Job(model, spec, data, facts, folder)
    if job.weights.exists() and not overwrite:
        refuse_another(job)
        console.print("trained already with these settings; --overwrite trains it again")
        next_command(console, job)
        return 0
    done = clear(job, overwrite=overwrite)
    make_folder(folder)
    return run(console, job, done)


def searched(network: NamedNetwork) -> dict[str, Any]:
    """The resolution that a search found a network at, where its file says so."""
    known = network.family == "file" and network.pictures != PICTURES["ImageNet"]
    return {"resolution": network.pictures.resolution} if known else {}


def build(network: NamedNetwork, spec: StudySpec, data: ImageData) -> nn.Module:
    """The network with its seed's initial weights: those that a search would give it, too."""
    Setting(data, spec.recipe, ())  # refuses a train_size that is too small
    try:
        with torch.random.fork_rng():
            torch.manual_seed(spec.seed)
            model = network.build(len(data.classes), data.resolution)
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, data.resolution, data.resolution))
    except (RuntimeError, ValueError, MemoryError) as e:  # mostly: too small a picture
        raise EvaluationError(
            f"{network.name}: cannot be run on pictures of {data.resolution}x{data.resolution} "
            f"({str(e).splitlines()[0]})"
        ) from e
    return model


def load_init(
    console: Console, model: nn.Module, init: str, network: NamedNetwork, cache_dir: Path
) -> str:
    """Put the weights of --init into the model, saying what went where; returns their identity."""
    pretrained = read_pretrained(init, network, cache_dir)
    found = load_into(model, pretrained.tensors, pretrained.where, transfer=True)
    console.print(fit_words(pretrained.where, found))
    return pretrained.identity


def fit_words(where: str, found: Fit) -> str:
    """What was taken from a file, and how."""
    how = "name" if found.by_name else "order and shape"
    words = f"weights from {where}: {len(found.sources)} tensors, matched by {how}"
    if found.fresh:
        words += f"\nof another number of classes, left fresh: {', '.join(found.fresh)}"
    return words


def known_facts(network: NamedNetwork, spec: StudySpec, data: ImageData, init: str) -> Facts:
    """The facts as they stand before training; metrics are still to come."""
    arch = network.architecture
    images, _ = to_tensors(subset(data.train, spec.recipe.train_size), spec.device)
    normalise = Normalise.of(images)
    return Facts.model_validate(
        {
            "name": network.name,
            "arch": arch and arch.at_resolution(data.resolution),
            "classes": data.classes,
            "resolution": data.resolution,
            "mean": normalise.mean,
            "std": normalise.std,
            "recipe": spec.recipe,
            "recipe_id": spec.recipe.recipe_id(data.content_hash, mirror=data.mirror),
            "data": spec.data,
            "content_hash": data.content_hash,
            "seed": spec.seed,
            "init": init,
            "versions": {package: version(package) for package in VERSIONS},
            "metrics": {},
        }
    )


def refuse_another(job: Job) -> None:
    """EvaluationError where the folder holds the weights of another training."""
    with remedy("-o takes another folder, --overwrite replaces it"):
        check_same_run(read_weights(job.weights).facts.run, job.facts.run, job.weights)


def clear(job: Job, *, overwrite: bool) -> int:
    """Make way for a training; returns how many epochs of it are done already.

    With `overwrite` the results of any training go, and a checkpoint unless it is of this one.
    """
    state = None
    try:
        with remedy("-o takes another folder, --overwrite drops it"):
            state = job.checkpoint.read()
    except EvaluationError:
        if not overwrite:
            raise
        job.checkpoint.path.unlink()
    if overwrite:
        for name in (WEIGHTS, CURVE):
            (job.folder / name).unlink(missing_ok=True)
    return len(state["curve"]) if state else 0


@contextmanager
def remedy(text: str) -> Iterator[None]:
    """Add to one of our errors what the user can do about it."""
    try:
        yield
    except NasattnError as e:
        raise EvaluationError(f"{e}; {text}") from e


def run(console: Console, job: Job, done: int) -> int:
    """Train with a line an epoch, then measure and write; 130 when the user stopped it, else 0."""
    console.print(plan(job), style="dim")
    if done:
        console.print(f"going on after epoch {done}")
    lines = EpochLines(console, job.spec.recipe.epochs, done)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(job.spec.seed)  # dropout, as in a search
            curve = train_model(
                job.model,
                job.data,
                job.spec.recipe,
                seed=job.spec.seed,
                device=job.spec.device,
                on_epoch=lines.show,
                checkpoint=job.checkpoint,
            )
    except KeyboardInterrupt:
        command = shlex.join(["nasattn", *sys.argv[1:]])
        console.print(f"\nstopped, {lines.done} epochs are kept; to go on: {command}")
        return 130
    except (torch.OutOfMemoryError, MemoryError) as e:
        raise EvaluationError(f"out of memory: {str(e).splitlines()[0]}") from e
    splits = {"val_search": job.data.val_search, "val_select": job.data.val_select}
    shares = {name: top1(job, split) for name, split in splits.items()}
    for name, share in shares.items():
        console.print(f"top1 {share_words(share)} {name.replace('_', '-')} pictures")
    metrics = {f"top1_{name}": share.value for name, share in shares.items()}
    write(job, curve, metrics)
    next_command(console, job)
    return 0


def write(job: Job, curve: list[Epoch], metrics: dict[str, float]) -> None:
    """The curve, then the weights, whose presence says that all is done."""
    try:
        write_text(job.folder / CURVE, curve_csv(curve))
    except OSError as e:
        raise EvaluationError(f"{job.folder}: cannot be written ({e.strerror or e})") from e
    save_weights(job.weights, job.model, job.facts.model_copy(update={"metrics": metrics}))
    job.checkpoint.path.unlink(missing_ok=True)


class EpochLines:
    """A line an epoch: loss, top-1, and the time that is left by the median epoch so far."""

    def __init__(self, console: Console, n_epochs: int, done: int) -> None:
        self.console = console
        self.n_epochs = n_epochs
        self.done = done
        self.seconds: list[float] = []
        console.print("  epoch       loss   top1 %    took    left")

    def show(self, epoch: Epoch) -> None:
        self.done = epoch.number
        self.seconds.append(epoch.seconds)
        left = statistics.median(self.seconds) * (self.n_epochs - epoch.number)
        self.console.print(
            f"{f'{epoch.number}/{self.n_epochs}':>7} {epoch.loss:>10.4f} {100 * epoch.top1:>8.2f} "
            f"{duration(epoch.seconds):>7} {duration(left) if left else '':>7}".rstrip()
        )


def plan(job: Job) -> str:
    """What is about to happen, in lines of at most 80 columns for usual names."""
    data, recipe, spec = job.data, job.spec.recipe, job.spec
    size = min(recipe.train_size or len(data.train), len(data.train))
    return (
        f"network {job.facts.name} ({job.facts.network_id})\n"
        f"data {data.name}: {size:,} train, {len(data.val_search):,} val-search pictures of "
        f"{data.resolution}x{data.resolution}, {len(data.classes)} classes\n"
        f"recipe {recipe.name}, {plural(recipe.epochs, 'epoch')}, "
        f"seed {spec.seed}, {spec.device}, "
        f"{plural(spec.threads, 'thread')}"
    )


def top1(job: Job, split: Split) -> Share:
    """Top-1 of the trained network on a split."""
    n_classes, device = len(job.data.classes), job.spec.device
    return measure_answers(job.model, split, job.facts.normalise, n_classes, device=device).top1


def share_words(share: Share) -> str:
    """97.24 % (95 %: 93.1 to 98.9) of 145."""
    low, high = share.interval
    return f"{100 * share.value:.2f} % (95 %: {100 * low:.1f} to {100 * high:.1f}) of {share.n:,}"


def next_command(console: Console, job: Job) -> None:
    """Where the weights are, and how to look at them."""
    console.print(f"\nwritten: {job.weights}, {job.folder / CURVE}")
    console.print(f"measure it: nasattn evaluate {shlex.quote(str(job.weights))}")
