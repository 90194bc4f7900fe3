"""Card: what it takes to feed and understand exported files, as plain JSON beside them."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from nasattn.errors import WeightsError
from nasattn.spec import Line, Name, Resolution, Spec, parse
from nasattn.tensor_file import Mean, Std

INPUT = (
    "float32 (1, 3, resolution, resolution), RGB 0..1 less mean by std; the picture upright on"
    " white, its centre square resized bilinearly with antialiasing"
)


class Card(Spec):
    """A network's name, classes and pictures.

    `arch` is plain data; None for a reference, and for a pruned network, which no architecture
    describes: its `network_id` is that of what it was cut from, and a hash of the cuts.
    """

    format: Literal["nasattn-export-1"] = "nasattn-export-1"
    name: Name
    network_id: Line  # the arch_id, or a reference's name
    arch: dict[str, Any] | None
    classes: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=2)]
    resolution: Resolution
    mean: tuple[Mean, Mean, Mean]  # of pixels 0 .. 1, by channel
    std: tuple[Std, Std, Std]
    input: Line = INPUT
    output: Line = "float32 (1, classes), logits"
    weights: Line  # weights_id of the network
    versions: dict[Name, Name]

    @property
    def shape(self) -> list[int]:
        """Of what the network takes: one picture."""
        return [1, 3, self.resolution, self.resolution]

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"

    def to_metadata(self) -> dict[str, str]:
        """A text for each field, JSON where the field is no string."""
        fields = self.model_dump(mode="json")
        return {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}


def parse_card(data: object, where: str) -> Card:
    """A card from plain data; raises WeightsError."""
    return parse(Card, data, where, WeightsError)


def card_of_metadata(metadata: Mapping[str, str], where: str) -> Card:
    """A card from the texts of `to_metadata`; raises WeightsError."""
    fields: dict[str, Any] = {}
    for name, text in metadata.items():
        fields[name] = text
        if name in ("arch", "classes", "resolution", "mean", "std", "versions"):
            with suppress(ValueError, RecursionError):  # the text itself is then refused
                fields[name] = json.loads(text)
    return parse_card(fields, where)


def read_card(path: Path) -> Card:
    """The card in a JSON file. Raises WeightsError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise WeightsError(f"{path}: cannot be read ({e.strerror or e})") from e
    except (ValueError, RecursionError) as e:
        raise WeightsError(f"{path}: is not valid JSON ({e})") from e
    return parse_card(data, str(path))


def weights_id(model: nn.Module) -> str:
    """12 hex digits of the sha256 over names, kinds, shapes and values of a network's tensors."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]
