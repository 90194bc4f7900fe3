"""`nasattn predict`: what a network says of pictures, on the runtime that its file is for."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor

from nasattn.cli.data import show_skipped
from nasattn.cli.explain_pictures import PictureFile, decode, list_pictures
from nasattn.cli.machine import check_threads
from nasattn.cli.tables import add_row, number_column, table
from nasattn.data.augment import Normalise, to_float
from nasattn.deploy.load import read_exported
from nasattn.errors import EvaluationError, StudyError
from nasattn.tensor_file import read_tensors
from nasattn.weights import Facts
from nasattn.words import printable

Ask = Callable[[Tensor], Tensor]  # (1, 3, R, R) -> (1, classes) logits


@dataclass(frozen=True, eq=False)
class Subject:
    """A network that answers, and what it says of itself."""

    ask: Ask
    classes: tuple[str, ...]
    resolution: int
    normalise: Normalise
    words: str
    fault: str = ""


def predict_command(
    model: str, places: Sequence[str], *, top: int, as_json: bool, threads: int
) -> None:
    """The best classes of each picture."""
    console = Console(highlight=False)
    if top < 1:
        raise StudyError(f"--top: must be 1 or more, is {top}")
    torch.set_num_threads(check_threads(threads))
    with opened(Path(model), threads) as subject:
        files, pixels, skipped = decode(list_pictures(places), [subject.resolution])
        answers = [rank(subject, x, top) for x in torch.split(pixels[subject.resolution], 1)]
    if as_json:
        rows = [
            {"picture": file.name, "path": str(file.path), "classes": found}
            for file, found in zip(files, answers, strict=True)
        ]
        left_out = [{"picture": one.path, "reason": one.reason} for one in skipped]
        found = {"model": model, "note": subject.fault, "pictures": rows, "skipped": left_out}
        console.print(json.dumps(found, indent=1), markup=False, soft_wrap=True)
        return
    show_skipped(console, skipped)
    console.print(answer_table(files, answers))
    console.print(printable(subject.words), style="dim", markup=False, soft_wrap=True)
    if subject.fault:
        line = printable(f"note: {subject.fault}")
        console.print(line, style="yellow", markup=False, soft_wrap=True)


@contextmanager
def opened(path: Path, threads: int) -> Iterator[Subject]:
    """A network ready to answer: a weights file through torch, others through their runtime."""
    if path.suffix.lower() == ".safetensors":
        yield own(path)
        return
    found = read_exported(path)
    card = found.card
    with found.session(threads) as session:

        def ask(x: Tensor) -> Tensor:
            try:
                return session.logits(x, len(card.classes))
            except EvaluationError as e:
                raise EvaluationError(f"{path}: {e}") from e

        words = f"{card.name} on {session.version}, {card.resolution}x{card.resolution} pixels"
        normalise = Normalise(card.mean, card.std)
        yield Subject(ask, card.classes, card.resolution, normalise, words, found.fault)


def own(path: Path) -> Subject:
    """A weights file of ours."""
    weights = read_tensors(path, Facts)
    facts, model = weights.facts, weights.build().eval()

    def ask(x: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(x)
        if not logits.isfinite().all():
            raise EvaluationError(f"{path}: the network's outputs are not finite numbers")
        return logits

    words = f"{facts.name} on torch, {facts.resolution}x{facts.resolution} pixels"
    return Subject(ask, facts.classes, facts.resolution, facts.normalise, words)


def rank(subject: Subject, image: Tensor, top: int) -> list[dict[str, Any]]:
    """The best classes of a picture, uint8 (1, 3, R, R), with their share by softmax."""
    (logits,) = subject.ask(subject.normalise(to_float(image)).contiguous())
    shares = logits.double().softmax(0)
    best = shares.topk(min(top, len(shares)))
    return [
        {"class": subject.classes[i], "index": i, "share": share}
        for share, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def answer_table(files: Sequence[PictureFile], answers: Sequence[list[dict[str, Any]]]) -> Table:
    """A row a class, the best first, below its picture."""
    made = table("picture", Column("class", overflow="fold"), number_column("softmax %"))
    for file, found in zip(files, answers, strict=True):
        for place, one in enumerate(found):
            name = "" if place else file.name
            add_row(made, (name, one["class"], f"{100 * one['share']:.1f}"))
    return made
