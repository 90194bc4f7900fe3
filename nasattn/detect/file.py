"""Detector files: a detector's tensors, with all that it takes to build and feed it again.

A file is safetensors; its metadata hold the fields of `DetectorFacts`, a text each, JSON where the
field is no string, and beside them `format` and `arch_id`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from safetensors.torch import save
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from nasattn.arch import Architecture
from nasattn.detect.loop import DetectRecipe
from nasattn.detect.model import build_backbone, build_detector
from nasattn.errors import WeightsError, shown
from nasattn.files import write_bytes
from nasattn.spec import Spec, parse
from nasattn.weights import Mean, Std, fit, load_into, read_safetensors

FORMAT = "nasattn-detector-1"


class DetectorFacts(Spec):
    """What a detector file says of itself."""

    name: str  # of the network
    arch: Architecture  # whole, its own head included, which a detector does without
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    strides: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    out_chs: Annotated[int, Field(gt=0, le=4096)]
    resolution: PositiveInt  # pixels, of a picture's short side
    mean: tuple[Mean, Mean, Mean]  # of pixels 0 .. 1, by channel
    std: tuple[Std, Std, Std]
    recipe: DetectRecipe
    data: str  # the folder, as it was named to the command
    annotations: dict[str, str]  # sha256 of each split's, 12 hex digits
    seed: int
    init: str = ""  # which weights the network began with; none: fresh ones by the seed
    epoch: Annotated[int, Field(ge=0)] = 0  # after which the tensors were kept
    versions: dict[str, str]
    metrics: dict[str, float] = Field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        fields = self.model_dump(mode="json") | {"arch": self.arch.to_json()}
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}
        return {"format": FORMAT, "arch_id": self.arch.arch_id} | texts

    def build(self) -> FasterRCNN:
        """A detector of this form; its weights come from torch's global generator."""
        return build_detector(
            build_backbone(self.arch),
            len(self.classes),
            self.strides,
            resolution=self.resolution,
            out_chs=self.out_chs,
            mean=self.mean,
            std=self.std,
        )


@dataclass(frozen=True, eq=False)
class DetectorFile:
    """A detector file that has been read, and whose tensors fit."""

    facts: DetectorFacts
    tensors: dict[str, Tensor]
    path: Path

    def build(self) -> FasterRCNN:
        """The detector with these weights."""
        with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, and lost
            model = self.facts.build()
        load_into(model, self.tensors, str(self.path))
        return model


def save_detector(path: Path, model: FasterRCNN, facts: DetectorFacts) -> None:
    """Write a detector file atomically. Raises WeightsError where that cannot be done."""
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    try:
        write_bytes(path, save(tensors, facts.to_metadata()))
    except OSError as e:
        raise WeightsError(f"{path}: cannot be written ({e.strerror or e})") from e


def read_detector(path: Path) -> DetectorFile:
    """Read a file that `save_detector` wrote.

    Raises WeightsError for what is no safetensors file or no detector, facts that are not
    well-formed, and tensors that do not fit.
    """
    metadata, tensors = read_safetensors(path)
    facts = parse_detector_facts(metadata, str(path))
    with torch.device("meta"):  # shapes only: a network larger than the file is never allocated
        model = facts.build()
    fit(model, tensors, str(path))
    return DetectorFile(facts, tensors, path)


def parse_detector_facts(metadata: Mapping[str, str], where: str) -> DetectorFacts:
    """The facts in a safetensors file's metadata; raises WeightsError."""
    found = metadata.get("format")
    if found != FORMAT:
        raise WeightsError(
            f"{where}: not a detector of nasattn (format {shown(found)}, must be {FORMAT!r})"
        )
    texts = {k: v for k, v in metadata.items() if k not in ("format", "arch_id")}
    fields = {name: _value(name, text, where) for name, text in texts.items()}
    return parse(DetectorFacts, fields, where, WeightsError)


def _value(name: str, text: str, where: str) -> Any:
    """A field's plain data from its text."""
    field = DetectorFacts.model_fields.get(name)
    if field is None or field.annotation is str:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise WeightsError(f"{where}: {name}: not valid JSON, is {shown(text)}") from e
