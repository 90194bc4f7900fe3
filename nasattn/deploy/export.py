"""Writing a network's files: each is converted, asked about real pictures, and marked."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nasattn.deploy.card import Card, read_card
from nasattn.deploy.fidelity import LIMITS, Fidelity, compare_answers
from nasattn.deploy.formats import FORMATS, PRECISIONS, Format
from nasattn.deploy.job import Job
from nasattn.deploy.session import ExportedSession
from nasattn.errors import EvaluationError, WeightsError
from nasattn.files import slug, write_bytes

PARITY = "parity.json"


@dataclass(frozen=True, eq=False)
class Exam:
    """Real pictures, as networks see them, and what eager torch answers."""

    pictures: Tensor  # (N, 3, R, R)
    labels: Tensor  # (N,)
    expected: Tensor  # (N, classes) logits
    about: Mapping[str, Any]  # which pictures they are

    @classmethod
    def of(cls, job: Job, pictures: Tensor, labels: Tensor, about: Mapping[str, Any]) -> "Exam":
        """Ask the network itself, a picture at a time. Raises EvaluationError."""
        pictures = pictures.contiguous()
        with torch.inference_mode():
            expected = torch.cat([job.model(x) for x in torch.split(pictures, 1)])
        if not expected.isfinite().all():
            raise EvaluationError("the network's outputs are not finite numbers")
        return cls(pictures, labels, expected, about)


@dataclass(frozen=True)
class Outcome:
    """What came of a format in a precision; without fidelity there is no file, but a reason."""

    format: str
    precision: str
    reason: str = ""
    files: Mapping[str, str] = field(default_factory=dict)  # name -> sha256
    size_bytes: int = 0
    ratio: float = 0.0  # how many times smaller than the network's tensors
    runtime: str = ""
    fidelity: Fidelity | None = None

    @property
    def verdict(self) -> Literal["good", "bad", "failed"]:
        if self.fidelity is None:
            return "failed"
        return "bad" if self.reason else "good"

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        fields = asdict(self)
        fields["fidelity"] = self.fidelity.plain() if self.fidelity else None
        return {"verdict": self.verdict} | fields


def check_place(folder: Path, card: Card) -> None:
    """WeightsError where a folder holds files of another network with the same name."""
    path = folder / f"{slug(card.name)}.json"
    if path.exists() and read_card(path).weights != card.weights:
        raise WeightsError(
            f"{path}: belongs to other weights called {card.name!r}; --out takes another folder, "
            "--overwrite replaces them"
        )


def clear_place(folder: Path, card: Card) -> None:
    """Remove every file of a network with this name. Raises WeightsError."""
    name = slug(card.name)
    files = [f"{name}.json", PARITY]
    for row in FORMATS.values():
        for precision in PRECISIONS:
            files += row.file_names(name, precision).values()
    for file in files:
        remove(folder / file)


def export_all(
    job: Job, orders: Iterable[tuple[Format, str]], exam: Exam, folder: Path
) -> Iterator[Outcome]:
    """Write NAME.json, then a format in a precision after the other, and parity.json with each.

    A file is written once its answers are known, and is marked in parity.json before it is there.
    Raises WeightsError where the folder cannot be written.
    """
    name = slug(job.card.name)
    put(folder / f"{name}.json", job.card.to_json().encode())
    tensors = sum(t.numel() * t.element_size() for t in job.model.state_dict().values())
    for form, precision in orders:
        names = form.file_names(name, precision)
        outcome, data = export_one(job, form, precision, exam, names, tensors)
        note(folder, job.card, exam, outcome)
        for own, file in names.items():
            if outcome.verdict == "failed":
                remove(folder / file)
            else:
                put(folder / file, data[own])
        yield outcome


def export_one(
    job: Job, form: Format, precision: str, exam: Exam, names: Mapping[str, str], tensors: int
) -> tuple[Outcome, Mapping[str, bytes]]:
    """Convert, load, ask; the files by the runtime's own names."""
    try:
        data = form.write(job, precision)
        with ExportedSession(form.runtime, data, job.card.shape) as session:
            found = session.logits(exam.pictures, len(job.card.classes))
            version = session.version
    except EvaluationError as e:
        return Outcome(form.name, precision, str(e)), {}
    fidelity = compare_answers(exam.expected, found, exam.labels)
    size = sum(map(len, data.values()))
    outcome = Outcome(
        form.name,
        precision,
        fidelity.fault(precision),
        {file: sha256(data[own]).hexdigest() for own, file in names.items()},
        size,
        tensors / size,
        version,
        fidelity,
    )
    return outcome, data


def note(folder: Path, card: Card, exam: Exam, outcome: Outcome) -> None:
    """Put an outcome into parity.json, beside those of earlier exports of the same weights."""
    path = folder / PARITY
    models: dict[str, Any] = {}
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if earlier["weights"] == card.weights:
            models = dict(earlier["models"])
    models[f"{outcome.format} {outcome.precision}"] = outcome.plain() | {"pictures": exam.about}
    limits = {name: asdict(limit) for name, limit in LIMITS.items()}
    found = {"network": card.name, "weights": card.weights, "limits": limits, "models": models}
    put(path, (json.dumps(found, indent=1) + "\n").encode())


def put(path: Path, data: bytes) -> None:
    try:
        write_bytes(path, data)
    except OSError as e:
        raise WeightsError(f"{path}: cannot be written ({e.strerror or e})") from e


def remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as e:
        raise WeightsError(f"{path}: cannot be removed ({e.strerror or e})") from e
