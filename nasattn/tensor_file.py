"""Tensor files: a model's tensors, with all that it takes to build, feed and repeat it.

A file is safetensors; its metadata hold the fields of a `FileFacts`, a text each, JSON where the
field is no string, and beside them `format`, `arch_id` and `num_classes`.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import torch
from pydantic import Field, PositiveInt
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from nasattn.arch import Architecture
from nasattn.data.augment import Normalise
from nasattn.errors import WeightsError, shown
from nasattn.files import write_bytes
from nasattn.fit import check_values, fit, load_into
from nasattn.spec import Line, Name, Spec, parse

Mean = Annotated[float, Field(allow_inf_nan=False)]
Std = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class FileFacts(Spec, ABC):
    """What a file says of itself: a kind of file is a subclass with its format and its model."""

    format: ClassVar[str]
    noun: ClassVar[str]  # what errors call such a file

    name: Name  # of the network
    arch: Architecture | None
    classes: tuple[Name, ...]
    resolution: PositiveInt  # pixels
    mean: tuple[Mean, Mean, Mean]  # of pixels 0 .. 1, by channel
    std: tuple[Std, Std, Std]
    data: Line  # as it was named to the command: a known name or a path
    seed: int
    init: Line = ""  # which weights training began with; none: fresh ones by the seed
    versions: dict[Name, Name]
    metrics: dict[Name, float] = Field(default_factory=dict)

    @abstractmethod
    def build(self) -> nn.Module:
        """The model without its weights: new ones come from torch's global generator."""

    @property
    @abstractmethod
    def run(self) -> dict[str, Any]:
        """All that decides on the weights, as plain data: equal for equal trainings."""

    @property
    def normalise(self) -> Normalise:
        return Normalise(self.mean, self.std)

    @property
    def network_id(self) -> str:
        """The arch_id, or a reference's name."""
        return self.arch.arch_id if self.arch else self.name

    @property
    def stated(self) -> dict[str, str]:
        """What the metadata say twice, for whoever reads them without nasattn."""
        return {
            "format": self.format,
            "arch_id": self.network_id,
            "num_classes": str(len(self.classes)),
        }

    def to_metadata(self) -> dict[str, str]:
        fields = self.model_dump(mode="json")
        fields |= {"arch": self.arch.to_json()} if self.arch else {}
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}
        return self.stated | texts


F = TypeVar("F", bound=FileFacts)


@dataclass(frozen=True, eq=False)
class TensorFile(Generic[F]):
    """A file that has been read, and whose tensors fit the model that it names."""

    facts: F
    tensors: dict[str, Tensor]
    path: Path

    def build(self) -> nn.Module:
        """The model with these weights."""
        with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, and lost
            model = self.facts.build()
        load_into(model, self.tensors, str(self.path))
        return model


def write_tensors(path: Path, model: nn.Module, facts: FileFacts) -> None:
    """Write a model's file atomically. Raises WeightsError where that cannot be done."""
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    try:
        write_bytes(path, save(tensors, facts.to_metadata()))
    except OSError as e:
        raise WeightsError(f"{path}: cannot be written ({e.strerror or e})") from e


def read_tensors(path: Path, kind: type[F]) -> TensorFile[F]:
    """Read a file that `write_tensors` wrote.

    Raises WeightsError for what is no safetensors file or one of another kind, facts that are not
    well-formed, tensors that do not fit, and values that no network can have.
    """
    metadata, tensors = read_safetensors(path)
    facts = parse_metadata(metadata, kind, str(path))
    check_values(tensors, str(path))
    # Shapes only, so that a model larger than its file is never allocated. A plug-in's module
    # need not know the meta device; its tensors are checked when it is built.
    with suppress(RuntimeError), torch.device("meta"):
        fit(facts.build(), tensors, str(path))
    return TensorFile(facts, tensors, path)


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of any safetensors file. Raises WeightsError."""
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as e:
        raise WeightsError(f"{path}: not a safetensors file, or a damaged one ({e})") from e
    except OSError as e:
        raise WeightsError(f"{path}: cannot be read ({e.strerror or e})") from e


def parse_metadata(metadata: Mapping[str, str], kind: type[F], where: str) -> F:
    """The facts in a safetensors file's metadata; raises WeightsError."""
    found = metadata.get("format")
    if found != kind.format:
        raise WeightsError(
            f"{where}: not a {kind.noun} of nasattn (format {shown(found)}, must be "
            f"{kind.format!r})"
        )
    texts = {k: v for k, v in metadata.items() if k not in ("format", "arch_id", "num_classes")}
    fields = {name: _value(kind, name, text, where) for name, text in texts.items()}
    facts = parse(kind, fields, where, WeightsError)
    for name, value in facts.stated.items():
        if metadata.get(name) != value:
            raise WeightsError(
                f"{where}: {name} is {shown(metadata.get(name))}, but by the rest it is {value!r}"
            )
    return facts


def _value(kind: type[FileFacts], name: str, text: str, where: str) -> Any:
    """A field's plain data from its text."""
    field = kind.model_fields.get(name)
    if field is None or field.annotation is str:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise WeightsError(f"{where}: {name}: not valid JSON, is {shown(text)}") from e
