"""`nasattn prune`: a smaller network out of a trained one, fine-tuned, set beside what it was."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, PositiveInt
from rich.console import Console
from rich.table import Table
from torch import nn

from nasattn.arch import Architecture
from nasattn.cli.data import load_with_progress
from nasattn.cli.evaluate import (
    Choice,
    check,
    check_file,
    choose_normalise,
    outside,
    pictures,
    read_own,
    restored,
)
from nasattn.cli.folders import RunFolder, check_folder, check_target, one_writer, write_result
from nasattn.cli.machine import machine_turns, plain_memory_errors
from nasattn.cli.tables import add_row, number_column, table
from nasattn.cli.train import (
    LESS,
    WEIGHTS,
    Job,
    TrainOptions,
    known_facts,
    plan,
    share_words,
    train_shown,
)
from nasattn.compress.graph import IMPORTANCES, channel_groups, library
from nasattn.compress.narrow import Cuts
from nasattn.compress.prune import Pruned, add_gradients, cost_of, prune
from nasattn.compress.sensitivity import RATIOS, Response, sensitivity
from nasattn.cost import Latency, LatencyMeter
from nasattn.data import ImageData, Split
from nasattn.data.augment import Normalise
from nasattn.errors import StudyError, UnknownNameError
from nasattn.files import slug
from nasattn.pretrained import read_pretrained
from nasattn.spec import Name, parse
from nasattn.tensor_file import write_tensors
from nasattn.train.loop import Epoch, subset
from nasattn.train.metrics import Share, measure_answers
from nasattn.train.recipe import Recipe, from_named
from nasattn.weights import Facts
from nasattn.words import plural
from nasattn.zoo import NamedNetwork, read_network

REPORT = "prune.json"
UNITS = {"k": 10**3, "M": 10**6, "G": 10**9}


class PruneOptions(TrainOptions):
    """What `nasattn prune` takes away, and how it trains what is left."""

    recipe: Annotated[Recipe, BeforeValidator(from_named)] = Field(
        default="finetune", validate_default=True
    )
    ratio: float | None = None
    target_macs: PositiveInt | None = None
    target_params: PositiveInt | None = None
    importance: Name = "l2"
    compete: Literal["group", "global"] = "group"
    ignore: tuple[Name, ...] = ()
    calibration: PositiveInt = 512  # training pictures whose loss `taylor` differentiates


@dataclass(frozen=True, eq=False)
class Original:
    """A trained network, and what it is to be called, built and fed by."""

    model: nn.Module
    name: str
    arch: Architecture
    earlier: Cuts  # that had been made before
    identity: str
    normalise: Normalise


@dataclass(frozen=True)
class PruneJob(Job):
    """A pruned network that is ready to be trained on."""

    options: PruneOptions


@dataclass(frozen=True)
class State:
    """A row of the report."""

    top1: Share  # of val-select
    params: int
    macs: int
    size_bytes: int


@plain_memory_errors(LESS)
def prune_command(
    target: str,
    changes: Mapping[str, Any],
    choice: Choice,
    *,
    out: Path | None,
    overwrite: bool,
    cache_dir: Path,
) -> int:
    """Prune, fine-tune, measure, write; returns the exit status."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    options = read_options(changes, choice)
    if sum(v is not None for v in (options.ratio, options.target_macs, options.target_params)) != 1:
        raise StudyError("prune: give one of --ratio, --target-macs and --target-params")
    path = out or Path("runs") / slug(f"{Path(target).parent.name or target}-pruned")
    check_folder(path)
    for result in (WEIGHTS, REPORT):
        check_target(path / result, target, choice.init)
    original, data, options = load(console, target, choice, options, cache_dir)
    pruned = cut(original, data, options)
    facts = pruned_facts(original, data, options, pruned)
    folder = RunFolder(path, WEIGHTS, REPORT, facts.run)
    job = PruneJob(pruned.model, options, data, facts, folder, machine_turns(console, cache_dir))
    with one_writer(path):
        if not overwrite and folder.earlier(Facts):
            console.print("pruned already with these settings; --overwrite does it again")
            next_command(console, job)
            return 0
        return run(console, job, original, pruned, len(folder.clear(overwrite=overwrite)))


def read_options(changes: Mapping[str, Any], choice: Choice) -> PruneOptions:
    """The options checked; nothing has been read or written yet."""
    library()  # or say that it is absent, before pictures are read
    options = parse(PruneOptions, dict(changes), "prune", StudyError)
    if options.importance not in IMPORTANCES:
        raise UnknownNameError("importance", options.importance, known=IMPORTANCES)
    check(choice)
    options.use()
    return options


def load(
    console: Console, target: str, choice: Choice, options: PruneOptions, cache_dir: Path
) -> tuple[Original, ImageData, PruneOptions]:
    """The network with its weights, and the pictures to train and to judge it on."""
    weights = read_own(target, choice)
    source, resolution = pictures(target, choice, weights)
    options = options.model_copy(update={"data": source})
    if weights:
        name, arch, file = weights.facts.name, weights.facts.arch, str(weights.path)
    else:
        named = read_network(target)
        name, arch, file = named.name, named.architecture, str(choice.init)
    if arch is None:
        raise StudyError(f"{target}: is a library's network; those of nasattn can be pruned")
    data = load_with_progress(console, source, resolution, cache_dir)
    subject = restored(weights, data) if weights else outside(target, choice, data, cache_dir)
    arch = arch if weights else arch.at_resolution(data.resolution)
    console.print(subject.words)
    original = Original(
        subject.model,
        name,
        arch,
        weights.facts.pruned if weights else (),
        read_pretrained(file, NamedNetwork(name, arch), cache_dir).identity,
        choose_normalise(choice, subject.normalise, data),
    )
    return original, data, options


def cut(original: Original, data: ImageData, options: PruneOptions) -> Pruned:
    """The network without its least important channels, as the options say."""
    prepare(original, data, options)
    pruned = prune(
        original.model,
        example(data),
        ratio=options.ratio,
        target_macs=options.target_macs,
        target_params=options.target_params,
        importance=options.importance,
        global_=options.compete == "global",
        ignore=options.ignore,
        seed=options.seed,
    )
    original.model.zero_grad()
    return pruned


def prepare(original: Original, data: ImageData, options: PruneOptions) -> None:
    """The gradients that `taylor` reads."""
    if options.importance == "taylor":
        split = subset(data.train, options.calibration)
        add_gradients(original.model, split, original.normalise, device=options.device)


def example(data: ImageData) -> torch.Tensor:
    return torch.zeros(1, 3, data.resolution, data.resolution)


def pruned_facts(
    original: Original, data: ImageData, options: PruneOptions, pruned: Pruned
) -> Facts:
    """What the file will say; cuts come after those that had been made before."""
    cuts = original.earlier + pruned.record
    network = NamedNetwork(original.name, original.arch, cuts=cuts)
    facts = known_facts(
        network, options, data, init=original.identity, normalise=original.normalise
    )
    return facts.model_copy(update={"arch": original.arch})


def run(console: Console, job: PruneJob, original: Original, pruned: Pruned, done: int) -> int:
    """Measure, fine-tune with a line an epoch, measure, write; 130 when the user stopped it."""
    console.print(plan(job), style="dim")
    data, options = job.data, job.options
    states = {"whole": state(original.model, job), "pruned": state(pruned.model, job)}
    console.print(
        f"pruned {100 * pruned.ratio:.1f} % of the channels of "
        f"{plural(len(pruned.record), 'group')} by {options.importance}\n"
        f"top1 {share_words(states['whole'].top1)} val-select pictures, whole\n"
        f"top1 {share_words(states['pruned'].top1)}, pruned"
    )
    curve = train_shown(console, job, done)
    if curve is None:
        return 130
    states["fine-tuned"] = state(job.model, job)
    meter = LatencyMeter(
        original.model,
        data.resolution,
        threads=options.threads,
        device=options.device,
        turns=job.turns,
    )
    latency = meter.measure(job.model)
    console.print(state_table(states), soft_wrap=False)
    console.print(latency_words(latency))
    write(job, states, latency, curve, pruned)
    next_command(console, job)
    return 0


def state(model: nn.Module, job: Job) -> State:
    """What a network answers and costs."""
    cost = cost_of(model.cpu(), example(job.data))
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    share = top1(
        model.to(job.options.device),
        job.data.val_select,
        job.facts.normalise,
        job.data,
        job.options,
    )
    return State(share, cost.params, cost.macs, size)


def top1(
    model: nn.Module, split: Split, normalise: Normalise, data: ImageData, options: TrainOptions
) -> Share:
    n_classes = len(data.classes)
    return measure_answers(model, split, normalise, n_classes, device=options.device).top1


def state_table(states: Mapping[str, State]) -> Table:
    """The network before, after pruning and after fine-tuning."""
    names = ("top1 %", "95 %", "params", "macs M", "size MB")
    made = table("network", *map(number_column, names))
    for name, row in states.items():
        low, high = (100 * bound for bound in row.top1.interval)
        cells = (
            f"{100 * row.top1.value:.2f}",
            f"{low:.1f} to {high:.1f}",
            f"{row.params:,}",
            f"{row.macs / 1e6:.2f}",
            f"{row.size_bytes / 1e6:.2f}",
        )
        add_row(made, (name, *cells))
    return made


def latency_words(latency: Latency) -> str:
    """How long the pruned network takes, of the time that the whole one does."""
    spread = ""
    if latency.interval:
        spread = f" (95 %: {latency.interval[0]:.2f} to {latency.interval[1]:.2f})"
    return (
        f"latency {latency.relative:.2f} of the whole network's{spread},\n"
        f"in turns with it: eager, batch 1, {plural(latency.threads, 'thread')}"
    )


def write(
    job: PruneJob, states: Mapping[str, State], latency: Latency, curve: list[Epoch], pruned: Pruned
) -> None:
    """The report, then the weights, whose presence says that all is done."""
    report = {
        "network": job.facts.name,
        "network_id": job.facts.network_id,
        "init": job.facts.init,
        "data": job.facts.data,
        "content_hash": job.facts.content_hash,
        "options": job.options.model_dump(mode="json"),
        "ratio": pruned.ratio,
        "split": "val_select",
        "states": {
            name: asdict(row) | {"interval": row.top1.interval} for name, row in states.items()
        },
        "latency": asdict(latency),
        "curve": [asdict(epoch) for epoch in curve],
        "cuts": [one.model_dump(mode="json") for one in pruned.record],
        "versions": job.facts.versions,
    }
    write_result(job.folder.report, json.dumps(report, indent=1) + "\n")
    metrics = {"top1_val_select": states["fine-tuned"].top1.value}
    facts = job.facts.model_copy(update={"metrics": metrics})
    write_tensors(job.folder.result, job.model, facts)
    job.folder.done()


def next_command(console: Console, job: Job) -> None:
    console.print(f"\nwritten: {job.folder.result}, {job.folder.report}")
    console.print(f"measure it: nasattn evaluate {shlex.quote(str(job.folder.result))}")


@plain_memory_errors(LESS)
def sensitivity_command(
    target: str,
    changes: Mapping[str, Any],
    choice: Choice,
    *,
    n: int,
    json_file: Path | None,
    cache_dir: Path,
) -> None:
    """Top-1 on val-search after each group of channels alone is pruned."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    options = read_options(changes, choice)
    if n < 1:
        raise StudyError(f"--n: must be 1 or more, is {n}")
    check_file(json_file, target, choice.init, choice.data)
    original, data, options = load(console, target, choice, options, cache_dir)
    split = subset(data.val_search, n)
    prepare(original, data, options)
    groups = channel_groups(
        original.model, example(data), importance=options.importance, seed=options.seed
    )
    original.model.zero_grad()

    def measure(model: nn.Module) -> Share:
        return top1(model.to(options.device), split, original.normalise, data, options)

    whole = measure(original.model)
    console.print(f"top1 {share_words(whole)} val-search pictures, nothing pruned")
    with console.status("pruning one group after the other"):
        rows = list(sensitivity(original.model, groups, measure))
    console.print(sensitivity_table(rows, whole), soft_wrap=False)
    console.print("top1 %, where that share of the layer's channels goes; nothing trained")
    if json_file:
        facts = {
            "weights": target,
            "data": data.name,
            "content_hash": data.content_hash,
            "split": "val_search",
            "n": whole.n,
            "importance": options.importance,
            "whole": asdict(whole),
            "ratios": RATIOS,
            "groups": [asdict(row) for row in rows],
        }
        write_result(json_file, json.dumps(facts, indent=1) + "\n")
        console.print(f"written: {json_file}")


def sensitivity_table(rows: list[Response], whole: Share) -> Table:
    """A row a group of channels, in the order of the network."""
    heads = [f"{ratio:.0%}".replace("%", " %") for ratio in RATIOS]
    made = table("layer", *map(number_column, ("channels", *heads)))
    worst = min((row.top1[1].value for row in rows), default=whole.value)
    for row in rows:
        cells = (f"{100 * share.value:.1f}" for share in row.top1)
        style = "bold" if row.top1[1].value == worst else None
        add_row(made, (row.name, f"{row.width:,}", *cells), style=style)
    return made


def amount(option: str, text: str | None) -> int | None:
    """'40M' as 40,000,000; raises StudyError naming the option."""
    if text is None:
        return None
    digits, unit = (text[:-1], UNITS[text[-1]]) if text[-1:] in UNITS else (text, 1)
    try:
        value = float(digits) * unit
        if not 1 <= value < 2**63:
            raise ValueError
    except ValueError:
        raise StudyError(
            f"{option}: must be an amount like 40M, 1.5G or 300k, is {text!r}"
        ) from None
    return round(value)
