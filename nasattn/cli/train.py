"""`nasattn train`: one network, by a recipe, to a weights file."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from rich.console import Console
from torch import nn

from nasattn.baselines.baseline import PICTURES
from nasattn.cli.data import load_with_progress
from nasattn.cli.epochs import EpochLines
from nasattn.cli.folders import RunFolder, check_folder, check_target, one_writer, write_result
from nasattn.cli.machine import Machine, check_params, machine_turns, plain_memory_errors
from nasattn.cli.teacher import Lesson, read_distil, say_lesson
from nasattn.cli.tuning import tuned
from nasattn.data import ImageData, Split, is_here
from nasattn.data.augment import Normalise
from nasattn.errors import EvaluationError, StudyError, WeightsError
from nasattn.evaluate import Setting, one_line
from nasattn.files import slug
from nasattn.fit import Fit, load_into
from nasattn.pretrained import Pretrained, read_pretrained
from nasattn.search.artifacts import curve_csv
from nasattn.spec import parse
from nasattn.tensor_file import TensorFile, read_tensors, write_tensors
from nasattn.train.distil import Distil
from nasattn.train.loop import Epoch, subset, to_tensors, train_model
from nasattn.train.metrics import Share, measure_answers
from nasattn.train.recipe import TrainingSpec
from nasattn.turns import Turns
from nasattn.weights import Facts
from nasattn.words import plural
from nasattn.zoo import NamedNetwork, read_network

WEIGHTS, CURVE = "weights.safetensors", "curve.csv"
VERSIONS = ("nasattn", "torch", "torchvision", "timm", "numpy")


class TrainOptions(Machine, TrainingSpec):
    """How `nasattn train` trains a network."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


LESS = "choose a lower --resolution or a smaller network"


@dataclass(frozen=True)
class Job:
    """A training that has been checked and is ready to run."""

    model: nn.Module
    options: TrainOptions
    data: ImageData
    facts: Facts  # all but the metrics
    folder: RunFolder
    turns: Turns
    distil: Distil | None = None


@plain_memory_errors(LESS)
def train_command(
    name: str,
    changes: Mapping[str, Any],
    *,
    init: str | None,
    lesson: Lesson,
    out: Path | None,
    overwrite: bool,
    cache_dir: Path,
    tune: bool = False,
) -> int:
    """Check everything, train, write weights and curve; returns the exit status."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    network, weights = read_start(name, init)
    options = parse(TrainOptions, usual(network, weights) | dict(changes), "train", StudyError)
    options.use()
    path = out or Path("runs") / slug(run_name(network, weights, options))
    check_folder(path)
    init = str(weights.path) if weights else init
    for result in (WEIGHTS, CURVE):
        check_target(path / result, init)
    if weights and "data" not in changes:
        check_here(name, options.data, options.resolution, cache_dir)
    data = load_with_progress(console, options.data, options.resolution, cache_dir)
    distil = read_distil(lesson, data, cache_dir)
    model, turns = build(network, options, data), machine_turns(console, cache_dir)
    if tune:
        setting = Setting(data, options.recipe, (), device=options.device, turns=turns)
        recipe = tuned(
            console, network.name, lambda: build(network, options, data), setting, cache_dir
        )
        options = options.model_copy(update={"recipe": recipe})
    if distil:
        distil.check(model, torch.zeros(1, 3, data.resolution, data.resolution))
    begun: dict[str, Any] = {}
    if init:
        found = load_init(console, model, init, network, cache_dir)
        begun = {"init": found.identity, "normalise": found.normalise}
    facts = known_facts(network, options, data, **begun, distil=distil)
    folder = RunFolder(path, WEIGHTS, CURVE, facts.run)
    job = Job(model, options, data, facts, folder, turns, distil)
    with one_writer(path):
        if not overwrite and folder.earlier(Facts):
            console.print("trained already with these settings; --overwrite trains it again")
        elif not run(console, job, done=len(folder.clear(overwrite=overwrite))):
            return 130
    next_command(console, job)
    return 0


def read_start(name: str, init: str | None) -> tuple[NamedNetwork, TensorFile[Facts] | None]:
    """A network by name, or a weights file, whose network is trained on, pruned as it may be."""
    if Path(name).suffix.lower() != ".safetensors":
        return read_network(name), None
    if init is not None:
        raise StudyError(f"--init: {name} has weights of its own")
    weights = read_tensors(Path(name), Facts)
    check_unfolded(weights)
    return weights.facts.network, weights


def check_unfolded(weights: TensorFile[Facts]) -> None:
    """WeightsError for a network without its norms, which cannot be trained any more."""
    if weights.facts.folded:
        raise WeightsError(
            f"{weights.path}: is folded; train or prune the weights that it was made from"
        )


def usual(network: NamedNetwork, weights: TensorFile[Facts] | None) -> dict[str, Any]:
    """The pictures that a weights file or a search's network is for."""
    if weights:
        return {"data": weights.facts.data, "resolution": weights.facts.resolution}
    known = not network.in_zoo and network.pictures != PICTURES["ImageNet"]
    return {"resolution": network.pictures.resolution} if known else {}


def check_here(target: str, source: str, resolution: int | None, cache_dir: Path) -> None:
    """StudyError unless the data that a file names are here: it alone starts no download."""
    if not is_here(source, resolution, cache_dir=cache_dir):
        raise StudyError(
            f"{target}: names the data {source!r}, which are not here; --data reads others, or"
            " downloads a known set"
        )


def run_name(
    network: NamedNetwork, weights: TensorFile[Facts] | None, options: TrainOptions
) -> str:
    """The usual folder's name: of the network and its pictures, or of what is trained on, how."""
    if weights:
        return f"{weights.path.absolute().parent.name}-{options.recipe.name}"
    return f"{network.name}-{Path(options.data).absolute().stem}"


def build(network: NamedNetwork, options: TrainOptions, data: ImageData) -> nn.Module:
    """The network with its seed's initial weights: those that a search would give it, too."""
    Setting(data, options.recipe, ())  # refuses a train_size that is too small
    check_params(network.name, lambda: network.build(len(data.classes), data.resolution))
    try:
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            model = network.build(len(data.classes), data.resolution)
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, data.resolution, data.resolution))
    except (RuntimeError, ValueError, MemoryError) as e:  # mostly: too small a picture
        raise EvaluationError(
            f"{network.name}: cannot be run on pictures of {data.resolution}x{data.resolution} "
            f"({one_line(e)})"
        ) from e
    return model


def load_init(
    console: Console, model: nn.Module, init: str, network: NamedNetwork, cache_dir: Path
) -> Pretrained:
    """Put weights to begin with into the model, saying what went where."""
    pretrained = read_pretrained(init, network, cache_dir)
    found = load_into(model, pretrained.tensors, pretrained.where, transfer=True)
    console.print(fit_words(pretrained.where, found))
    return pretrained


def fit_words(where: str, found: Fit) -> str:
    """What was taken from a file, and how."""
    how = "name" if found.by_name else "order and shape"
    words = f"weights from {where}: {len(found.sources)} tensors, matched by {how}"
    if found.fresh:
        words += f"\nof another number of classes, left fresh: {', '.join(found.fresh)}"
    return words


def known_facts(
    network: NamedNetwork,
    options: TrainOptions,
    data: ImageData,
    *,
    init: str = "",
    normalise: Normalise | None = None,
    distil: Distil | None = None,
) -> Facts:
    """The facts as they stand before training; metrics are still to come.

    `init`: the identity of the weights that it begins with. `normalise`: theirs, None: by the
    training pictures.
    """
    arch = network.architecture
    if normalise is None:
        images, _ = to_tensors(subset(data.train, options.recipe.train_size), options.device)
        normalise = Normalise.of(images)
    fields = {
        "name": network.name,
        "arch": arch and arch.at_resolution(data.resolution),
        "classes": data.classes,
        "resolution": data.resolution,
        "mean": normalise.mean,
        "std": normalise.std,
        "recipe": options.recipe,
        "recipe_id": options.recipe.recipe_id(data.content_hash, mirror=data.mirror),
        "data": options.data,
        "content_hash": data.content_hash,
        "seed": options.seed,
        "init": init,
        "teacher": distil.identity if distil else "",
        "pruned": network.cuts,
        "versions": {package: version(package) for package in VERSIONS},
    }
    return parse(Facts, fields, "cannot be kept in a weights file", WeightsError)


def run(console: Console, job: Job, done: int) -> bool:
    """Train with a line an epoch, then measure and write; False where the user stopped it."""
    console.print(plan(job), style="dim")
    say_lesson(console, job.distil)
    curve = train_shown(console, job, done)
    if curve is None:
        return False
    splits = {"val_search": job.data.val_search, "val_select": job.data.val_select}
    shares = {name: top1(job, split) for name, split in splits.items()}
    for name, share in shares.items():
        console.print(f"top1 {share_words(share)} {name.replace('_', '-')} pictures")
    metrics = {f"top1_{name}": share.value for name, share in shares.items()}
    write(job, curve, metrics)
    return True


def train_shown(console: Console, job: Job, done: int) -> list[Epoch] | None:
    """Train with a line an epoch after those that are done; None where the user stopped it."""
    options = job.options
    lines = EpochLines(console, options.recipe.epochs, ("loss", "top1 %"), done)

    def show(epoch: Epoch) -> None:
        lines.show(epoch.number, epoch.seconds, (f"{epoch.loss:.4f}", f"{100 * epoch.top1:.2f}"))

    try:
        with lines, torch.random.fork_rng():
            torch.manual_seed(options.seed)  # dropout, as in a search
            return train_model(
                job.model,
                job.data,
                options.recipe,
                seed=options.seed,
                device=options.device,
                on_epoch=show,
                checkpoint=job.folder.checkpoint,
                turns=job.turns,
                distil=job.distil,
                normalise=job.facts.normalise,
            )
    except KeyboardInterrupt:
        lines.stopped()
        return None


def write(job: Job, curve: list[Epoch], metrics: dict[str, float]) -> None:
    """The curve, then the weights, whose presence says that all is done."""
    write_result(job.folder.report, curve_csv(curve))
    facts = job.facts.model_copy(update={"metrics": metrics})
    write_tensors(job.folder.result, job.model, facts)
    job.folder.done()


def plan(job: Job) -> str:
    """What is about to happen, in lines of at most 80 columns for usual names."""
    data, options, recipe = job.data, job.options, job.options.recipe
    size = min(recipe.train_size or len(data.train), len(data.train))
    return (
        f"network {job.facts.name} ({job.facts.network_id})\n"
        f"data {data.name}: {size:,} train, {len(data.val_search):,} val-search pictures of "
        f"{data.resolution}x{data.resolution}, {len(data.classes)} classes\n"
        f"recipe {recipe.name}, {plural(recipe.epochs, 'epoch')}, "
        f"seed {options.seed}, {options.device}, "
        f"{plural(options.threads, 'thread')}{recipe.way}"
    )


def top1(job: Job, split: Split) -> Share:
    """Top-1 of the trained network on a split."""
    n_classes, device = len(job.data.classes), job.options.device
    return measure_answers(job.model, split, job.facts.normalise, n_classes, device=device).top1


def share_words(share: Share) -> str:
    """97.24 % (95 %: 93.1 to 98.9) of 145."""
    low, high = share.interval
    return f"{100 * share.value:.2f} % (95 %: {100 * low:.1f} to {100 * high:.1f}) of {share.n:,}"


def next_command(console: Console, job: Job) -> None:
    """Where the weights are, and how to look at them."""
    console.print(f"\nwritten: {job.folder.result}, {job.folder.report}")
    console.print(f"measure it: nasattn evaluate {shlex.quote(str(job.folder.result))}")
