"""`nasattn export`: a trained network as files for other runtimes, checked on real pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from nasattn.cli.data import load_with_progress
from nasattn.cli.evaluate import (
    Choice,
    choose_normalise,
    outside,
    pictures,
    read_own,
    restored,
)
from nasattn.cli.folders import check_folder, one_writer
from nasattn.cli.machine import plain_memory_errors
from nasattn.cli.tables import add_row, name_column, number_column, table
from nasattn.cli.train import check_here
from nasattn.data import ImageData, Split
from nasattn.data.augment import Normalise, to_float
from nasattn.deploy.card import Card, weights_id
from nasattn.deploy.export import PARITY, Exam, Outcome, check_place, clear_place, export_all
from nasattn.deploy.fidelity import LIMITS
from nasattn.deploy.formats import PRECISIONS, Format, get_format
from nasattn.deploy.job import Job
from nasattn.errors import StudyError, UnknownNameError
from nasattn.files import slug
from nasattn.tensor_file import TensorFile
from nasattn.train.loop import subset, to_tensors
from nasattn.train.metrics import Share
from nasattn.weights import Facts
from nasattn.words import plural, printable
from nasattn.zoo import read_network

N_CALIBRATION = 256  # training pictures: half of them set ranges, half choose how
UNITS = ((2**20, "M"), (2**10, "k"))


@dataclass(frozen=True)
class Wanted:
    """The options of the command."""

    to: str
    precision: str
    init: str | None
    data: str | None
    resolution: int | None
    mean: str | None
    std: str | None
    n: int
    out: Path | None
    overwrite: bool

    @property
    def choice(self) -> Choice:
        """As `nasattn evaluate` has it."""
        return Choice(
            self.init, self.data, self.resolution, "val_select", self.mean, self.std, "cpu", 1
        )

    def orders(self) -> tuple[list[tuple[Format, str]], list[str]]:
        """The formats, each in every precision that it has of those that are wanted; the others.

        A format that has none of them is an error, and so is a package that is not here.
        """
        precisions = words("--precision", self.precision)
        for name in precisions:
            if name not in PRECISIONS:
                raise UnknownNameError("precision", name, known=PRECISIONS)
        found, skipped = [], []
        for name in words("--to", self.to):
            form = get_format(name)
            having = [p for p in precisions if p in form.writers]
            for precision in having or precisions:
                form.check(precision)
                found.append((form, precision))
            skipped += [f"{name} {p}" for p in precisions if p not in having]
        return found, skipped


def words(option: str, text: str) -> list[str]:
    """A list as it is typed, each once. Raises StudyError."""
    found = list(dict.fromkeys(word for word in text.split(",") if word))
    if not found:
        raise StudyError(f"{option}: names nothing")
    return found


@plain_memory_errors("choose fewer --pictures or a smaller network")
def export_command(target: str, wanted: Wanted, *, cache_dir: Path) -> int:
    """Export a weights file, or a network with --init; 1 where a model is not good."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    choice, (orders, skipped) = wanted.choice, wanted.orders()
    if wanted.n < 1:
        raise StudyError(f"--pictures: must be 1 or more, is {wanted.n}")
    weights = read_own(target, choice)
    if wanted.out:
        check_folder(wanted.out)
    if weights and wanted.resolution not in (None, weights.facts.resolution):
        raise StudyError(f"--resolution: {target} is for {weights.facts.resolution} pixels")
    source, resolution = pictures(target, choice, weights)
    if weights and wanted.data is None:
        check_here(target, source, resolution, cache_dir)
    data = load_with_progress(console, source, resolution, cache_dir)
    subject = restored(weights, data) if weights else outside(target, choice, data, cache_dir)
    normalise = choose_normalise(choice, subject.normalise, data)
    card = card_of(target, weights, subject.model, data, normalise)
    folder = wanted.out or Path("runs") / f"{slug(card.name)}-export"
    console.print(subject.words)
    if skipped:
        console.print(f"not written, there is no such thing: {', '.join(skipped)}", style="yellow")
    with one_writer(folder):
        if wanted.overwrite:
            clear_place(folder, card)
        check_place(folder, card)
        job = job_of(subject.model, card, data, normalise)
        exam = exam_of(job, data, normalise, wanted.n)
        outcomes = []
        for outcome in export_all(job, orders, exam, folder):
            outcomes.append(outcome)
            if outcome.reason:
                line = (
                    f"{outcome.format} {outcome.precision} is {outcome.verdict}: {outcome.reason}"
                )
                console.print(printable(line), style="red")
    console.print(outcome_table(outcomes), soft_wrap=False)
    console.print(notes(exam, orders), style="dim")
    written = [slug(card.name) + ".json", PARITY, *(file for one in outcomes for file in one.files)]
    console.print(f"written to {folder}: {', '.join(written)}")
    return int(any(one.verdict != "good" for one in outcomes))


def card_of(
    target: str,
    weights: TensorFile[Facts] | None,
    model: nn.Module,
    data: ImageData,
    normalise: Normalise,
) -> Card:
    """Which network it is, by its weights file, else by its name."""
    if weights:
        facts = weights.facts
        name, network_id, classes = facts.name, facts.network_id, facts.classes
        arch = None if facts.pruned else facts.arch
    else:
        network = read_network(target)
        plan = network.architecture
        arch = plan.at_resolution(data.resolution) if plan else None  # as it was built
        name, classes = network.name, data.classes
        network_id = arch.arch_id if arch else name
    packages = ("nasattn", "torch")
    return Card(
        name=name,
        network_id=network_id,
        arch=arch.model_dump(mode="json") if arch else None,
        classes=classes,
        resolution=data.resolution,
        mean=normalise.mean,
        std=normalise.std,
        weights=weights_id(model),
        versions={package: version(package) for package in packages},
    )


def job_of(model: nn.Module, card: Card, data: ImageData, normalise: Normalise) -> Job:
    """The network, and training pictures that calibrate it."""
    model = model.cpu().eval()
    x, _ = shown(subset(data.train, N_CALIBRATION), normalise)
    return Job(model, x[:1], x, card)


def shown(split: Split, normalise: Normalise) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures as networks see them, and their classes."""
    images, labels = to_tensors(split, "cpu")
    return normalise(to_float(images)).contiguous(), labels


def exam_of(job: Job, data: ImageData, normalise: Normalise, n: int) -> Exam:
    """Validation pictures, of every class alike, and what torch answers."""
    chosen = subset(data.val_select, n)
    about = {"data": data.name, "content_hash": data.content_hash, "split": "val-select"}
    return Exam.of(job, *shown(chosen, normalise), about | {"n": len(chosen)})


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """A row a model."""
    made = table(
        name_column("model"),
        *map(number_column, ("diff %", "same %", "top1 %", "95 %", "size", "less")),
        name_column("is"),
        tight=True,
    )
    for one in outcomes:
        add_row(made, (f"{one.format} {one.precision}", *figures(one), one.verdict))
    return made


def figures(one: Outcome) -> tuple[str, ...]:
    """An outcome's numbers."""
    found = one.fidelity
    if found is None:
        return ("-",) * 6
    return (
        f"{100 * found.max_diff:.2g}",
        f"{100 * found.agree.value:.1f}",
        *share_cells(found.top1),
        size_words(one.size_bytes),
        f"{one.ratio:.2f}x",
    )


def share_cells(share: Share) -> tuple[str, str]:
    low, high = (100 * bound for bound in share.interval)
    return f"{100 * share.value:.1f}", f"{low:.1f}-{high:.1f}"


def size_words(n: int) -> str:
    """`1.05 M`, `286 k`: bytes."""
    unit, sign = next((pair for pair in UNITS if n >= pair[0]), UNITS[-1])
    return f"{n / unit:.3g} {sign}"


def notes(exam: Exam, orders: Sequence[tuple[Format, str]]) -> str:
    """How the table is to be read."""
    n, used = len(exam.labels), dict.fromkeys(precision for _, precision in orders)
    eager = Share(int((exam.expected.argmax(1) == exam.labels).sum()), n)
    top1, interval = share_cells(eager)
    limits = [
        f"{name} differs by {100 * LIMITS[name].max_diff:g} % at most, same on "
        f"{100 * LIMITS[name].agree:g} %"
        for name in used
    ]
    return "\n".join(
        (
            f"{plural(n, 'val-select picture')}; eager torch: top1 {top1} % ({interval})",
            "diff: between two logits at most, of their range; same: as eager torch's class",
            "less: than the network's tensors in torch; 95 %: Wilson's interval of top1",
            *(f"good: {words}" for words in limits),
        )
    )
