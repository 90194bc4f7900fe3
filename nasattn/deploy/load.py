"""Loading: an exported file with its card, found by its ending and what lies beside it."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from nasattn.deploy.card import Card, read_card
from nasattn.deploy.export import PARITY
from nasattn.deploy.formats import FORMATS, PRECISIONS, Format
from nasattn.deploy.onnx_model import card_inside
from nasattn.deploy.session import ExportedSession
from nasattn.errors import EvaluationError, RuntimeMissingError, WeightsError
from nasattn.runtimes.table import installed, is_installed


@dataclass(frozen=True, eq=False)
class Exported:
    """An exported network: its files by the runtime's own names."""

    path: Path
    form: Format
    card: Card
    files: dict[str, bytes]
    fault: str = ""  # what parity.json has against it

    def session(self, threads: int = 1) -> ExportedSession:
        """The network, loaded. Raises EvaluationError or RuntimeMissingError."""
        try:
            return ExportedSession(self.form.runtime, self.files, self.card.shape, threads)
        except EvaluationError as e:
            raise EvaluationError(f"{self.path}: cannot be run ({e})") from e


def read_exported(path: Path) -> Exported:
    """Read what `nasattn export` wrote: any one of a model's files.

    An ONNX file brings its own card; others have it beside them. Raises WeightsError, or
    RuntimeMissingError where an ONNX file cannot be looked into.
    """
    form, stem = format_of(path)
    files = {}
    for own, ending in form.endings.items():
        file = path.with_name(stem + ending)
        try:
            files[own] = file.read_bytes()
        except OSError as e:
            raise WeightsError(f"{file}: cannot be read ({e.strerror or e})") from e
    fault = fault_of(path, {stem + ending: files[own] for own, ending in form.endings.items()})
    return Exported(path, form, card_of(path, form, stem), files, fault)


def format_of(path: Path) -> tuple[Format, str]:
    """The format of a file, and its name without the ending. Raises WeightsError."""
    endings = {ending: form for form in FORMATS.values() for ending in form.endings.values()}
    for ending in sorted(endings, key=len, reverse=True):
        if path.name.endswith(ending) and path.name != ending:
            return endings[ending], path.name.removesuffix(ending)
    known = ", ".join(sorted([*endings, ".safetensors"]))
    raise WeightsError(f"{path}: must be a model: {known}")


def card_of(path: Path, form: Format, stem: str) -> Card:
    """The card inside an ONNX file, else that beside the file."""
    if form.name == "onnx":
        if not is_installed("onnx"):
            raise RuntimeMissingError(form.runtime, ["onnx"], form.row.install, installed())
        inside = card_inside(path)
        if inside is not None:
            return inside
    names = [stem, *(stem.removesuffix(f".{p}") for p in PRECISIONS if stem.endswith(f".{p}"))]
    for name in names:
        beside = path.with_name(f"{name}.json")
        if beside.is_file():
            return read_card(beside)
    raise WeightsError(
        f"{path}: has no {names[-1]}.json beside it, which `nasattn export` writes: classes, "
        "normalisation and resolution are not known"
    )


def fault_of(path: Path, files: Mapping[str, bytes]) -> str:
    """What parity.json beside a model has against its files; "" where it has nothing."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        found = json.loads(path.with_name(PARITY).read_text(encoding="utf-8"))
        for model in found["models"].values():
            if path.name not in model["files"]:
                continue
            for name, data in files.items():
                if model["files"][name] != sha256(data).hexdigest():
                    return f"{name} has changed since its answers were checked"
            if model["verdict"] != "good":
                return f"parity.json calls this model bad: {model['reason']}"
    return ""
