"""--teacher: trained networks that a student learns from, read and checked."""

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from nasattn.cli.machine import check_params
from nasattn.cli.options import channels
from nasattn.data import ImageData
from nasattn.data.augment import Normalise
from nasattn.errors import EvaluationError, StudyError, WeightsError
from nasattn.evaluate import one_line
from nasattn.fit import load_into
from nasattn.pretrained import Pretrained, from_safetensors, read_pretrained
from nasattn.tensor_file import read_tensors
from nasattn.train.distil import TEMPERATURE, WEIGHT, Distil, Teacher
from nasattn.train.loop import to_tensors
from nasattn.weights import Facts
from nasattn.zoo import read_network

OPTIONS = {  # of a Lesson, which mean nothing without a teacher
    "temperature": "--temperature",
    "weight": "--distil-weight",
    "mean": "--teacher-mean",
    "std": "--teacher-std",
    "features": "--teacher-features",
}


@dataclass(frozen=True)
class Lesson:
    """The options of distillation; None where they were not given."""

    teachers: tuple[str, ...] = ()  # weights files, or NAME=FILE
    temperature: float | None = None
    weight: float | None = None
    mean: str | None = None  # of pixels 0 .. 1, for teachers whose file does not say it
    std: str | None = None
    features: float | None = None


def read_distil(lesson: Lesson, data: ImageData, cache_dir: Path) -> Distil | None:
    """The teachers of a lesson, ready to teach on these pictures; None without any.

    Raises StudyError, WeightsError, UnknownNameError or EvaluationError in one line for a teacher
    that cannot be read, or that knows other classes or another resolution.
    """
    if not lesson.teachers:
        for name, option in OPTIONS.items():
            if getattr(lesson, name) is not None:
                raise StudyError(f"{option}: means nothing without --teacher")
        return None
    usual = given_normalise(lesson)
    teachers = tuple(read_teacher(text, usual, data, cache_dir) for text in lesson.teachers)
    temperature = TEMPERATURE if lesson.temperature is None else lesson.temperature
    weight = WEIGHT if lesson.weight is None else lesson.weight
    return Distil(teachers, temperature, weight, lesson.features or 0.0)


def given_normalise(lesson: Lesson) -> Normalise | None:
    """By --teacher-mean and --teacher-std."""
    mean, std = channels("teacher-mean", lesson.mean), channels("teacher-std", lesson.std)
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise StudyError("--teacher-mean and --teacher-std: are given together or not at all")
    return Normalise(mean, std)


def read_teacher(text: str, usual: Normalise | None, data: ImageData, cache_dir: Path) -> Teacher:
    """A weights file of nasattn, or `NAME=FILE`: a network by name with weights from outside.

    The latter normalises as its file says, else by `usual`, else by the training split.
    """
    name, equals, init = text.partition("=")
    if equals:
        model, found = from_outside(name, init, data, cache_dir)
        normalise = found.normalise or usual or Normalise.of(to_tensors(data.train, "cpu")[0])
        means, stds = (",".join(f"{x:g}" for x in y) for y in (normalise.mean, normalise.std))
        identity = f"{name}={found.identity} normalised by {means}; {stds}"
    elif Path(text).suffix.lower() == ".safetensors":
        model, normalise = from_own(text, data)
        identity = from_safetensors(Path(text)).identity
    else:
        raise StudyError(
            f"--teacher: {text} is neither a weights file (.safetensors) nor NAME=FILE, as"
            " resnet56_cifar=resnet56.npz"
        )
    check_answers(model, text, data)
    return Teacher(model, normalise, identity)


def from_own(text: str, data: ImageData) -> tuple[nn.Module, Normalise]:
    """The network of a weights file that was trained for such pictures."""
    file = read_tensors(Path(text), Facts)
    facts = file.facts
    if len(facts.classes) != len(data.classes):
        raise EvaluationError(
            f"--teacher: {text} knows {len(facts.classes)} classes, {data.name} has "
            f"{len(data.classes)}"
        )
    if facts.resolution != data.resolution:
        raise EvaluationError(
            f"--teacher: {text} was trained on pictures of {facts.resolution}x{facts.resolution},"
            f" these are {data.resolution}x{data.resolution}; --resolution changes them"
        )
    return file.build(), facts.normalise


def from_outside(
    name: str, init: str, data: ImageData, cache_dir: Path
) -> tuple[nn.Module, Pretrained]:
    """A network by name with weights from outside, for the classes of the data."""
    network = read_network(name)
    n_classes = len(data.classes)
    check_params(network.name, lambda: network.build(n_classes, data.resolution))
    pretrained = read_pretrained(init, network, cache_dir)
    with torch.random.fork_rng(devices=[]):  # its initial weights are drawn, and lost
        model = network.build(n_classes, data.resolution)
    try:
        load_into(model, pretrained.tensors, pretrained.where)
    except WeightsError as e:
        raise WeightsError(f"--teacher: {name} for {n_classes} classes: {e}") from e
    return model, pretrained


def check_answers(model: nn.Module, text: str, data: ImageData) -> None:
    """EvaluationError unless a teacher can look at such pictures."""
    side = data.resolution
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, side, side))
    except (RuntimeError, ValueError, MemoryError) as e:
        raise EvaluationError(
            f"--teacher: {text} cannot be run on pictures of {side}x{side} ({one_line(e)})"
        ) from e


def say_lesson(console: Console, distil: Distil | None) -> None:
    """Who teaches, and how."""
    if distil:
        console.print(f"taught by {distil.identity}", style="dim")
