"""What pruning commands are given: options, a trained network, pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveInt
from rich.console import Console
from torch import nn

from nasattn.arch import Architecture
from nasattn.cli.data import load_with_progress
from nasattn.cli.evaluate import (
    Choice,
    check,
    choose_normalise,
    outside,
    pictures,
    read_own,
    restored,
)
from nasattn.cli.train import TrainOptions, check_unfolded
from nasattn.compress.graph import IMPORTANCES, library
from nasattn.compress.narrow import Cuts
from nasattn.compress.nni_pruners import NNI_PRUNERS
from nasattn.compress.prune import add_gradients
from nasattn.data import ImageData, Split
from nasattn.data.augment import Normalise
from nasattn.errors import StudyError, UnknownNameError
from nasattn.exchange.nni_library import load_nni
from nasattn.pretrained import read_pretrained
from nasattn.spec import Name, parse
from nasattn.train.loop import subset
from nasattn.train.metrics import Share, measure_answers
from nasattn.train.recipe import Recipe, changed
from nasattn.zoo import NamedNetwork, read_network

TORCH_PRUNING = "torch-pruning"
MULTIPLE = 4  # runtimes take channels by fours and more: 19 of 24 were slower than all of them


class PruneOptions(TrainOptions):
    """What `nasattn prune` takes away, and how it trains what is left."""

    recipe: Annotated[Recipe, changed("finetune")] = Field(
        default="finetune", validate_default=True
    )
    ratio: float | None = None
    target_macs: PositiveInt | None = None
    target_params: PositiveInt | None = None
    pruner: Name = TORCH_PRUNING
    importance: Name | None = None  # of torch-pruning; l2 where nothing is said
    compete: Literal["group", "global"] = "group"
    ignore: tuple[Name, ...] = ()
    multiple: PositiveInt | None = None  # of channels that stay; of torch-pruning, MULTIPLE
    calibration: PositiveInt = 512  # training pictures whose loss `taylor` differentiates


@dataclass(frozen=True, eq=False)
class Original:
    """A trained network, and what it is to be called, built and fed by."""

    model: nn.Module
    name: str
    arch: Architecture
    earlier: Cuts  # that had been made before
    identity: str
    normalise: Normalise


def read_options(changes: Mapping[str, Any], choice: Choice) -> PruneOptions:
    """The options checked; nothing has been read or written yet."""
    options = parse(PruneOptions, dict(changes), "prune", StudyError)
    if options.pruner in NNI_PRUNERS:
        if options.importance or options.multiple or options.compete == "global":
            raise StudyError(
                f"--importance, --multiple, --global: only with --pruner {TORCH_PRUNING}; "
                f"{options.pruner} says itself how channels are ranked"
            )
        load_nni("nni.compression", options.pruner)  # or say that it is absent, now
    elif options.pruner == TORCH_PRUNING:
        library()
        usual = {"importance": options.importance or "l2", "multiple": options.multiple or MULTIPLE}
        options = options.model_copy(update=usual)
        if options.importance not in IMPORTANCES:
            raise UnknownNameError("importance", options.importance, known=IMPORTANCES)
    else:
        raise UnknownNameError("pruner", options.pruner, known=(TORCH_PRUNING, *NNI_PRUNERS))
    check(choice)
    options.use()
    return options


def load(
    console: Console, target: str, choice: Choice, options: PruneOptions, cache_dir: Path
) -> tuple[Original, ImageData, PruneOptions]:
    """The network with its weights, and the pictures to train and to judge it on."""
    weights = read_own(target, choice)
    if weights:
        check_unfolded(weights)
        if choice.resolution not in (None, weights.facts.resolution):
            raise StudyError(f"--resolution: {target} is for {weights.facts.resolution} pixels")
    source, resolution = pictures(target, choice, weights)
    options = options.model_copy(update={"data": source})
    if weights:
        name, arch, file = weights.facts.name, weights.facts.arch, str(weights.path)
    else:
        named = read_network(target)
        name, arch, file = named.name, named.architecture, str(choice.init)
    if arch is None:
        raise StudyError(f"{target}: is a library's network; those of nasattn can be pruned")
    data = load_with_progress(console, source, resolution, cache_dir)
    subject = restored(weights, data) if weights else outside(target, choice, data, cache_dir)
    arch = arch if weights else arch.at_resolution(data.resolution)
    console.print(subject.words)
    original = Original(
        subject.model,
        name,
        arch,
        weights.facts.pruned if weights else (),
        read_pretrained(file, NamedNetwork(name, arch), cache_dir).identity,
        choose_normalise(choice, subject.normalise, data),
    )
    return original, data, options


def prepare(original: Original, data: ImageData, options: PruneOptions) -> None:
    """The gradients that `taylor` reads."""
    if options.importance == "taylor":
        split = subset(data.train, options.calibration)
        add_gradients(original.model, split, original.normalise, device=options.device)


def example(data: ImageData) -> torch.Tensor:
    return torch.zeros(1, 3, data.resolution, data.resolution)


def top1(
    model: nn.Module, split: Split, normalise: Normalise, data: ImageData, options: TrainOptions
) -> Share:
    n_classes = len(data.classes)
    return measure_answers(model, split, normalise, n_classes, device=options.device).top1
