"""The networks that `nasattn explain` looks through, and how it is told to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from nasattn.cli.machine import check_params
from nasattn.cli.options import channels
from nasattn.data import ImageData
from nasattn.data.augment import Normalise
from nasattn.errors import StudyError, UnknownNameError
from nasattn.fit import last_layer, load_into
from nasattn.pretrained import Pretrained, read_pretrained
from nasattn.tensor_file import read_tensors
from nasattn.train.loop import to_tensors
from nasattn.weights import Facts
from nasattn.zoo import NamedNetwork, read_network


@dataclass(frozen=True)
class Choice:
    """The options of the command."""

    pictures: tuple[str, ...]
    data: str | None
    n: int
    seed: int
    resolution: int | None
    init: tuple[str, ...]
    mean: str | None
    std: str | None
    class_name: str | None
    attention: bool
    device: str
    threads: int


@dataclass(frozen=True, eq=False)
class Subject:
    """A network to explain; `classes` is None where its weights do not tell their names."""

    name: str
    model: nn.Module
    normalise: Normalise | None
    classes: tuple[str, ...] | None
    n_classes: int
    resolution: int


def is_own(target: str) -> bool:
    """Whether a network comes with its weights."""
    return Path(target).suffix.lower() == ".safetensors"


def own_subject(target: str, choice: Choice) -> Subject:
    """The network of a weights file, as it was trained."""
    weights = read_tensors(Path(target), Facts)
    facts = weights.facts
    n, resolution = len(facts.classes), choice.resolution or facts.resolution
    return Subject(facts.name, weights.build(), facts.normalise, facts.classes, n, resolution)


def named_subject(
    target: str, init: str, choice: Choice, data: ImageData | None, cache_dir: Path
) -> Subject:
    """A network by name with weights from outside."""
    network = read_network(target)
    pretrained = read_pretrained(init, network, cache_dir)
    resolution = choice.resolution or (data.resolution if data else network.pictures.resolution)
    n_classes = count_classes(network, resolution, pretrained)
    check_params(network.name, lambda: network.build(n_classes, resolution))
    model = network.build(n_classes, resolution)
    load_into(model, pretrained.tensors, pretrained.where)
    return Subject(network.name, model, pretrained.normalise, None, n_classes, resolution)


def count_classes(network: NamedNetwork, resolution: int, pretrained: Pretrained) -> int:
    """How many classes weights are for: by their last layer, or where names differ, their end."""
    check_params(network.name, lambda: network.build(2, resolution))
    with torch.device("meta"):
        last = list(last_layer(network.build(2, resolution)))
    tensors = [t for name, t in pretrained.tensors.items() if t.dim() and name in last]
    tensors = tensors or [t for t in pretrained.tensors.values() if t.dim()]
    return max(len(tensors[-1]), 1) if tensors else 1


def choose_normalise(choice: Choice, one: Subject, data: ImageData | None) -> Normalise:
    """By --mean and --std, else by the weights, else by the data's training split."""
    mean, std = channels("mean", choice.mean), channels("std", choice.std)
    if mean is not None and std is not None:
        return Normalise(mean, std)
    if one.normalise is not None:
        return one.normalise
    if data is None:
        raise StudyError(
            f"{one.name}: its weights do not say how pictures are normalised; give --mean and"
            " --std, or --data for those of its training split"
        )
    return Normalise.of(to_tensors(data.train, "cpu")[0])


def class_index(name: str | None, classes: tuple[str, ...], network: str) -> int | None:
    if name is None:
        return None
    if name not in classes:
        raise UnknownNameError("class", name, classes, f"--class, network {network}")
    return classes.index(name)


def labels(subjects: Sequence[Subject], networks: Sequence[str]) -> list[str]:
    """The networks' names; where two are the same, what was typed."""
    names = [one.name for one in subjects]
    return [
        typed if names.count(name) > 1 else name
        for name, typed in zip(names, networks, strict=True)
    ]
