"""`nasattn prune`: a smaller network out of a trained one, fine-tuned, set beside what it was."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from nasattn.cli.evaluate import Choice
from nasattn.cli.folders import RunFolder, check_folder, check_target, one_writer, write_result
from nasattn.cli.machine import machine_turns, plain_memory_errors
from nasattn.cli.pruning import Original, PruneOptions, example, load, prepare, read_options, top1
from nasattn.cli.tables import add_row, number_column, table
from nasattn.cli.train import (
    LESS,
    WEIGHTS,
    Job,
    known_facts,
    plan,
    share_words,
    train_shown,
)
from nasattn.compress.nni_pruners import NNI_PRUNERS, prune_with_nni
from nasattn.compress.prune import Pruned, cost_of, losses, prune
from nasattn.cost import Latency, LatencyMeter
from nasattn.data import ImageData
from nasattn.errors import StudyError
from nasattn.files import slug
from nasattn.tensor_file import write_tensors
from nasattn.train.loop import Epoch, subset
from nasattn.train.metrics import Share
from nasattn.weights import Facts
from nasattn.words import plural
from nasattn.zoo import NamedNetwork

REPORT = "prune.json"


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


def cut(original: Original, data: ImageData, options: PruneOptions) -> Pruned:
    """The network without its least important channels, as the options say."""
    how: dict[str, Any] = options.model_dump(
        include={"ratio", "target_macs", "target_params", "ignore", "seed"}
    )
    if options.pruner in NNI_PRUNERS:
        split = subset(data.train, options.calibration)
        loss = partial(losses, split=split, normalise=original.normalise, device=options.device)
        how |= {"pruner": options.pruner, "losses": loss}
        return prune_with_nni(original.model, example(data), **how)
    prepare(original, data, options)
    how |= {"importance": options.importance, "multiple": options.multiple}
    how |= {"global_": options.compete == "global"}
    pruned = prune(original.model, example(data), **how)
    original.model.zero_grad()
    return pruned


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
        f"{plural(len(pruned.record), 'group')} by {options.importance or options.pruner}\n"
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
