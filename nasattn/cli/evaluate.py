"""`nasattn evaluate`: what a trained network gets right, by class, and what it takes for what."""

import csv
import io
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Column, Table
from torch import nn

from nasattn.cli.data import load_with_progress
from nasattn.cli.folders import check_target, write_result
from nasattn.cli.machine import check_params, plain_memory_errors
from nasattn.cli.options import channels
from nasattn.cli.tables import add_row, number_column, table
from nasattn.cli.train import check_here, fit_words, share_words
from nasattn.data import ImageData, Split, open_test
from nasattn.data.augment import Normalise
from nasattn.errors import EvaluationError, StudyError, UnknownNameError
from nasattn.evaluate import check_device
from nasattn.fit import load_into
from nasattn.pretrained import read_pretrained
from nasattn.tensor_file import TensorFile, read_tensors
from nasattn.train.loop import to_tensors
from nasattn.train.metrics import Answers, Share, measure_answers
from nasattn.weights import Facts
from nasattn.words import plural
from nasattn.zoo import read_network

MOST_CLASSES, MOST_MISTAKES = 20, 10  # rows on the screen

SPLITS: dict[str, Callable[[ImageData], Split]] = {
    "val_search": lambda data: data.val_search,
    "val_select": lambda data: data.val_select,
}
TEST = "test"


@dataclass(frozen=True)
class Choice:
    """The options of the command; None where they are left to the weights file."""

    init: str | None
    data: str | None
    resolution: int | None
    split: str
    mean: str | None
    std: str | None
    device: str
    threads: int


@dataclass(frozen=True, eq=False)
class Subject:
    """A network to measure, how its pictures are normalised (if known), and what to say of it."""

    model: nn.Module
    normalise: Normalise | None
    words: str


@plain_memory_errors("choose a lower --resolution or a smaller network")
def evaluate_command(
    target: str, choice: Choice, *, json_file: Path | None, csv_file: Path | None, cache_dir: Path
) -> None:
    """Measure a weights file, or a network with weights from outside, on one split."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    check(choice)
    check_file(json_file, target, choice.init, choice.data)
    check_file(csv_file, target, choice.init, choice.data, json_file)
    weights = read_own(target, choice)
    source, resolution = pictures(target, choice, weights)
    for path in (json_file, csv_file):
        check_file(path, source)
    if weights and choice.data is None:
        console.print(f"data: {source}, as {target} says")
        check_here(target, source, resolution, cache_dir)
    data = load_with_progress(console, source, resolution, cache_dir)
    subject = restored(weights, data) if weights else outside(target, choice, data, cache_dir)
    normalise = choose_normalise(choice, subject.normalise, data)
    console.print(subject.words)
    if choice.split == TEST:
        command = shlex.join(["nasattn", *sys.argv[1:]])
        split = open_test(source, resolution, command=command, cache_dir=cache_dir)
        console.print("the sealed test split is opened: choose nothing by these figures")
    else:
        split = SPLITS[choice.split](data)
    console.print(
        f"data {data.name}: {len(split):,} {choice.split.replace('_', '-')} pictures of "
        f"{data.resolution}x{data.resolution}, {len(data.classes)} classes"
    )
    model = subject.model.to(choice.device)
    answers = measure_answers(model, split, normalise, len(data.classes), device=choice.device)
    show_answers(console, answers, data.classes)
    if json_file:
        facts = {
            "weights": target,
            "init": choice.init,
            "data": data.name,
            "content_hash": data.content_hash,
            "resolution": data.resolution,
            "split": choice.split,
            "mean": normalise.mean,
            "std": normalise.std,
        }
        write_result(json_file, json.dumps(facts | plain(answers, data.classes), indent=2) + "\n")
    if csv_file:
        write_result(csv_file, confusion_csv(answers, data.classes))
    if written := [str(path) for path in (json_file, csv_file) if path]:
        console.print(f"written: {', '.join(written)}")
    else:
        console.print("the whole confusion matrix: --json FILE or --csv FILE", style="dim")


def check(choice: Choice) -> None:
    """StudyError for an option whose value is not allowed."""
    if choice.split not in (*SPLITS, TEST):
        known = [name.replace("_", "-") for name in (*SPLITS, TEST)]
        raise UnknownNameError("split", choice.split.replace("_", "-"), known)
    if choice.threads < 1:
        raise StudyError(f"--threads: must be 1 or more, is {choice.threads}")
    check_device(choice.device)
    torch.set_num_threads(choice.threads)
    for option in ("mean", "std"):
        channels(option, getattr(choice, option))
    if (choice.mean is None) != (choice.std is None):
        raise StudyError("--mean and --std: are given together or not at all")


def check_file(path: Path | None, *others: Path | str | None) -> None:
    """StudyError where a file cannot go there, found before anything is measured."""
    if path is None:
        return
    check_target(path, *others)
    if not path.absolute().parent.is_dir():
        raise StudyError(f"{path}: must be a file in a folder that exists")


def read_own(target: str, choice: Choice) -> TensorFile[Facts] | None:
    """The weights file that is to be measured; None where a network is named instead."""
    if Path(target).suffix.lower() != ".safetensors":
        if choice.init is None:
            raise StudyError(
                f"{target}: is no .safetensors file; a network needs --init, a file of its weights"
            )
        return None
    if choice.init is not None:
        raise StudyError(f"--init: {target} has weights of its own")
    return read_tensors(Path(target), Facts)


def pictures(
    target: str, choice: Choice, weights: TensorFile[Facts] | None
) -> tuple[str, int | None]:
    """Name and resolution of the data: by the options, else as in training."""
    source, resolution = choice.data, choice.resolution
    if weights is not None:
        source = weights.facts.data if source is None else source
        resolution = weights.facts.resolution if resolution is None else resolution
    if source is None:
        raise StudyError(f"--data: names the pictures to measure {target} on")
    return source, resolution


def restored(weights: TensorFile[Facts], data: ImageData) -> Subject:
    """The network of a weights file; a note where its training knew other pictures."""
    facts = weights.facts
    if len(facts.classes) != len(data.classes):
        raise EvaluationError(
            f"{weights.path}: knows {len(facts.classes)} classes, {data.name} has "
            f"{len(data.classes)}"
        )
    words = f"network {facts.name} ({facts.network_id}), seed {facts.seed}, "
    n_epochs = facts.recipe.epochs
    words += f"recipe {facts.recipe.name}, {plural(n_epochs, 'epoch')}"
    if facts.content_hash != data.content_hash:
        words += (
            f"\nnote: trained on other pictures: {facts.data} at {facts.resolution} "
            f"({facts.content_hash}), now {data.name} at {data.resolution} ({data.content_hash})"
        )
    if facts.classes != data.classes:
        words += "\nnote: the classes were called otherwise in training; they go by their order"
    return Subject(weights.build(), facts.normalise, words)


def outside(name: str, choice: Choice, data: ImageData, cache_dir: Path) -> Subject:
    """A network by name with weights from outside."""
    network = read_network(name)
    check_params(network.name, lambda: network.build(len(data.classes), data.resolution))
    pretrained = read_pretrained(str(choice.init), network, cache_dir)
    model = network.build(len(data.classes), data.resolution)
    found = load_into(model, pretrained.tensors, pretrained.where)
    words = f"network {network.name}\n{fit_words(pretrained.where, found)}"
    return Subject(model, pretrained.normalise, words)


def choose_normalise(choice: Choice, known: Normalise | None, data: ImageData) -> Normalise:
    """By --mean and --std, else by the weights file, else by the training split."""
    mean, std = channels("mean", choice.mean), channels("std", choice.std)
    if mean is not None and std is not None:
        return Normalise(mean, std)
    return known or Normalise.of(to_tensors(data.train, "cpu")[0])


def show_answers(console: Console, answers: Answers, classes: tuple[str, ...]) -> None:
    """Top-1 and top-5, a row a class, the most frequent mistakes."""
    console.print(f"\ntop1 {share_words(answers.top1)}")
    if answers.top5 is not None:
        console.print(f"top5 {share_words(answers.top5)}")
    console.print(class_table(answers, classes), soft_wrap=False)
    if len(classes) > MOST_CLASSES:
        console.print(f"the worst {MOST_CLASSES} of {len(classes)} classes", style="dim")
    if answers.top1.right < answers.top1.n:
        console.print(mistake_table(answers, classes), soft_wrap=False)


def class_table(answers: Answers, classes: tuple[str, ...]) -> Table:
    """Top-1 by class; only the worst, where there are many."""
    made = table(
        class_column("class"), *map(number_column, ("pictures", "right", "top1 %", "95 %"))
    )
    rows = list(zip(classes, answers.by_class(), strict=True))
    if len(rows) > MOST_CLASSES:
        rows = sorted(rows, key=lambda row: row[1].value)[:MOST_CLASSES]
    for label, share in rows:
        low, high = (100 * bound for bound in share.interval)
        value = f"{100 * share.value:.1f}" if share.n else "-"
        cells = (f"{share.n:,}", f"{share.right:,}", value, f"{low:.1f} to {high:.1f}")
        add_row(made, (label, *cells))
    return made


def mistake_table(answers: Answers, classes: tuple[str, ...]) -> Table:
    """What is most often taken for what."""
    made = table(
        class_column("class"),
        number_column("pictures"),
        number_column("share %"),
        class_column("taken for"),
    )
    for label, answer, n in islice(answers.mistakes(), MOST_MISTAKES):
        share = 100 * n / answers.by_class()[label].n
        add_row(made, (classes[label], f"{n:,}", f"{share:.1f}", classes[answer]))
    return made


def class_column(header: str) -> Column:
    """A column of names of classes."""
    return Column(header, overflow="fold", max_width=30)


def plain(answers: Answers, classes: tuple[str, ...]) -> dict[str, Any]:
    """All that was measured, as plain data."""

    def share(found: Share) -> dict[str, Any]:
        value = found.value if found.n else None
        return {"n": found.n, "right": found.right, "share": value, "interval": found.interval}

    return {
        "top1": share(answers.top1),
        "top5": None if answers.top5 is None else share(answers.top5),
        "classes": [
            {"name": name} | share(found)
            for name, found in zip(classes, answers.by_class(), strict=True)
        ],
        "confusion": answers.confusion.tolist(),  # [class][answer]
    }


def confusion_csv(answers: Answers, classes: tuple[str, ...]) -> str:
    """A row a class, a column an answer."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("class", *classes))
    rows.writerows(
        (name, *row) for name, row in zip(classes, answers.confusion.tolist(), strict=True)
    )
    return text.getvalue()
