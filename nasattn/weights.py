"""Weights files: a network's tensors, with all that it takes to build, feed and repeat it.

A file is safetensors; its metadata hold the fields of `Facts`, a text each, JSON where the field is
no string, and beside them `format`, `arch_id` and `num_classes`.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from nasattn.arch import Architecture
from nasattn.data.augment import Normalise
from nasattn.errors import WeightsError, shown
from nasattn.files import write_bytes
from nasattn.model import build_model
from nasattn.spec import Spec, parse
from nasattn.train.recipe import Recipe
from nasattn.zoo import get_network

FORMAT = "nasattn-1"

Mean = Annotated[float, Field(allow_inf_nan=False)]
Std = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Facts(Spec):
    """What a weights file says of itself."""

    name: str  # of the network
    arch: Architecture | None  # its strides are those for `resolution`; None: the reference `name`
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    resolution: PositiveInt  # pixels
    mean: tuple[Mean, Mean, Mean]  # of pixels 0 .. 1, by channel
    std: tuple[Std, Std, Std]
    recipe: Recipe
    recipe_id: str
    data: str  # as it was named to the command: a known name or a path
    content_hash: str  # of the data
    seed: int
    init: str = ""  # which weights training began with; none: fresh ones by the seed
    versions: dict[str, str]
    metrics: dict[str, float]

    @property
    def normalise(self) -> Normalise:
        return Normalise(self.mean, self.std)

    @property
    def network_id(self) -> str:
        """The arch_id, or a reference's name."""
        return self.arch.arch_id if self.arch else self.name

    @property
    def run(self) -> dict[str, Any]:
        """All that decides on the weights, as plain data: equal for equal trainings."""
        return {
            "network": self.network_id,
            "resolution": self.resolution,
            "data": self.content_hash,
            "recipe": self.recipe.model_dump(mode="json", exclude={"name"}),
            "seed": self.seed,
            "init": self.init,
        }

    @property
    def stated(self) -> dict[str, str]:
        """What the metadata say twice, for whoever reads them without nasattn."""
        return {"arch_id": self.network_id, "num_classes": str(len(self.classes))}

    def to_metadata(self) -> dict[str, str]:
        fields = self.model_dump(mode="json")
        fields |= {"arch": self.arch.to_json()} if self.arch else {}
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}
        return {"format": FORMAT} | self.stated | texts


@dataclass(frozen=True, eq=False)
class Weights:
    """A weights file that has been read, and whose tensors fit its architecture."""

    facts: Facts
    tensors: dict[str, Tensor]
    path: Path

    def build(self) -> nn.Module:
        """The network with these weights."""
        with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, and lost
            model = build(self.facts)
        load_into(model, self.tensors, str(self.path))
        return model


def build(facts: Facts) -> nn.Module:
    """The network that the facts name, with new weights. Raises UnknownNameError."""
    if facts.arch is None:
        return get_network(facts.name).build(len(facts.classes), facts.resolution)
    return build_model(facts.arch, len(facts.classes))


def save_weights(path: Path, model: nn.Module, facts: Facts) -> None:
    """Write a weights file atomically. Raises WeightsError where that cannot be done."""
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    try:
        write_bytes(path, save(tensors, facts.to_metadata()))
    except OSError as e:
        raise WeightsError(f"{path}: cannot be written ({e.strerror or e})") from e


def read_weights(path: Path) -> Weights:
    """Read a file that `save_weights` wrote.

    Raises WeightsError for what is no safetensors file, one of somebody else, facts that are not
    well-formed, and tensors that do not fit the architecture.
    """
    metadata, tensors = read_safetensors(path)
    facts = parse_facts(metadata, str(path))
    # Shapes only, so that a network larger than its file is never allocated. A plug-in's module
    # need not know the meta device; its tensors are checked when it is built.
    with suppress(RuntimeError), torch.device("meta"):
        fit(build(facts), tensors, str(path))
    return Weights(facts, tensors, path)


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


def parse_facts(metadata: Mapping[str, str], where: str) -> Facts:
    """The facts in a safetensors file's metadata; raises WeightsError."""
    found = metadata.get("format")
    if found != FORMAT:
        raise WeightsError(
            f"{where}: not a weights file of nasattn (format {shown(found)}, must be {FORMAT!r})"
        )
    texts = {k: v for k, v in metadata.items() if k not in ("format", "arch_id", "num_classes")}
    fields = {name: _value(name, text, where) for name, text in texts.items()}
    facts = parse(Facts, fields, where, WeightsError)
    for name, value in facts.stated.items():
        if metadata.get(name) != value:
            raise WeightsError(
                f"{where}: {name} is {shown(metadata.get(name))}, but by the rest it is {value!r}"
            )
    return facts


def _value(name: str, text: str, where: str) -> Any:
    """A field's plain data from its text."""
    field = Facts.model_fields.get(name)
    if field is None or field.annotation is str:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise WeightsError(f"{where}: {name}: not valid JSON, is {shown(text)}") from e


@dataclass(frozen=True)
class Fit:
    """Which tensor goes where."""

    sources: dict[str, str]  # name in the network -> name in the file
    by_name: bool  # else by order
    fresh: tuple[str, ...] = ()  # left as they are, for they are of another number of classes


def load_into(
    model: nn.Module, tensors: Mapping[str, Tensor], where: str, *, transfer: bool = False
) -> Fit:
    """Copy tensors into a model's parameters and statistics, as `fit` pairs them."""
    found = fit(model, tensors, where, transfer=transfer)
    state = model.state_dict()
    counters = {name: name for name in tensors if is_counter(name) and name in state}
    with torch.no_grad():
        for name, source in (found.sources | counters).items():
            state[name].copy_(tensors[source])
    return found


def fit(
    model: nn.Module, tensors: Mapping[str, Tensor], where: str, *, transfer: bool = False
) -> Fit:
    """Pair a model's parameters and statistics with tensors; `where` is what errors call these.

    By name, where the names are the same; else by order, where the kinds (the last part of a name)
    and the shapes are the same one by one. Counts of batches may be absent, and single numbers of
    a kind that the model has not (an accuracy, an epoch) are no weights. With `transfer`, the last
    layer stays fresh where it alone differs, and only in its number of classes.
    Raises WeightsError naming the first tensor that does not fit.
    """
    wanted = {n: t.shape for n, t in model.state_dict().items() if not is_counter(n)}
    kinds = {kind(n) for n in wanted}
    given = {
        n: t.shape
        for n, t in tensors.items()
        if not is_counter(n) and (len(t.shape) > 0 or kind(n) in kinds)
    }
    by_name = given.keys() == wanted.keys()
    last = set(last_layer(model)) if transfer else set()
    sources: dict[str, str] = {}
    fresh = []
    for name, source in zip_longest(wanted, wanted if by_name else given):
        if name and source and kind(name) == kind(source):
            if wanted[name] == given[source]:
                sources[name] = source
                continue
            if name in last and wanted[name][1:] == given[source][1:]:
                fresh.append(name)
                continue
        if not by_name and wanted.keys() & given.keys():  # then names were meant
            name = next((n for n in wanted if n not in given), None)
            source = None if name else next(n for n in given if n not in wanted)
        raise WeightsError(
            f"{where}: does not fit the network: wanted {_describe(name, wanted)}, found "
            f"{_describe(source, given)}; it has {len(given)} tensors, the network {len(wanted)}"
        )
    return Fit(sources, by_name, tuple(fresh))


def is_counter(name: str) -> bool:
    """Whether a tensor counts the batches that a batch norm has seen, which nothing reads."""
    return kind(name) == "num_batches_tracked"


def kind(name: str) -> str:
    """The last part of a tensor's name: weight, bias, running_mean, ..."""
    return name.rpartition(".")[2]


def last_layer(model: nn.Module) -> Iterator[str]:
    """Names of the parameters of the last layer (SqueezeNet's is a convolution): the classes'."""
    kinds = (nn.Linear, nn.Conv2d)
    layers = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    for parameter, _ in model.get_submodule(layers[-1]).named_parameters() if layers else ():
        yield f"{layers[-1]}.{parameter}"


def _describe(name: str | None, shapes: Mapping[str, torch.Size]) -> str:
    if name is None:
        return "nothing"
    return f"{shown(name)} ({'x'.join(map(str, shapes[name])) or 'one number'})"
