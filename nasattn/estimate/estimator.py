"""Estimate: how good a network is said to be, and what it took to say so."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasattn.arch import Architecture
from nasattn.data.augment import Normalise, to_float
from nasattn.errors import EvaluationError, StudyError, TransientError, shown
from nasattn.evaluate import OnEpoch, Setting, evaluate, is_out_of_memory, one_line
from nasattn.objectives import get_objective
from nasattn.space import SearchSpace
from nasattn.train.loop import Epoch, subset, to_tensors
from nasattn.train.recipe import Recipe

N_PICTURES = 128  # that a score at initialisation sees: the batch of those papers


@dataclass(frozen=True)
class Estimate:
    """What an estimator says of a network; higher is better."""

    value: float | None  # None where it failed
    cpu_seconds: float  # of the process, all its threads together; building the network included
    seconds: float = 0.0  # by the clock
    reason: str = ""  # why it failed
    curve: tuple[Epoch, ...] = ()
    transient: bool = False  # whether it failed of what another attempt may not meet


@dataclass(frozen=True)
class Length:
    """How long a training is: so many epochs or, within the first one, steps; or as its recipe."""

    n: int = 1
    unit: str = "epochs"

    def of(self, setting: Setting) -> Recipe:
        """The setting's recipe at this length; a schedule that knows its length ends there.

        So many steps are one epoch over so many batches. Raises StudyError for more than there are,
        and for pictures too few to be of every class.
        """
        recipe, n_classes = setting.recipe, len(setting.data.classes)
        if self.unit == "recipes":
            return recipe
        if self.unit == "epochs":
            return recipe.shortened(self.n)
        n_pictures = min(recipe.train_size or len(setting.data.train), len(setting.data.train))
        batch = min(recipe.batch_size, n_pictures)
        most, least = n_pictures // batch, -(-n_classes // batch)  # a picture a class
        if not least <= self.n <= most:
            allowed = f"must be {least} to {most} at batches of {batch}, {n_classes} classes"
            raise StudyError(f"estimator for {self.n}steps: {allowed}")
        return recipe.shortened(1, train_size=self.n * batch)


WHOLE = Length(1, "recipes")


@dataclass(frozen=True)
class Ground:
    """What the estimators of a bench have in common: the space, a folder for what they prepare."""

    space: SearchSpace
    folder: Path


@dataclass
class Subject:
    """A network that is to be estimated; each thing about it is made when first asked for."""

    arch: Architecture
    setting: Setting
    length: Length = Length()
    on_epoch: OnEpoch = lambda epoch: None
    curve: list[Epoch] = field(default_factory=list)  # as far as a training came
    ground: Ground | None = None  # for what is prepared

    @cached_property
    def model(self) -> nn.Module:
        """The network, untrained."""
        return self.setting.build(self.arch).to(self.setting.device)

    @cached_property
    def batch(self) -> tuple[Tensor, Tensor]:
        """Training pictures (N, 3, H, W), normalised, and their labels: the same share of
        each class."""
        setting = self.setting
        images, labels = to_tensors(subset(setting.data.train, N_PICTURES), setting.device)
        return Normalise.of(images)(to_float(images)), labels

    @property
    def images(self) -> Tensor:
        return self.batch[0]

    @property
    def halves(self) -> list[tuple[Tensor, Tensor]]:
        """The batch in two; every other picture, for a source may have them by class."""
        images, labels = self.batch
        return [(images[i::2], labels[i::2]) for i in range(2)]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a picture."""
        return 3, self.setting.data.resolution, self.setting.data.resolution

    @property
    def seed(self) -> int:
        return self.setting.seed

    def train(self, recipe: Recipe, *, judged: bool = True) -> Epoch:
        """The last epoch of a training, as `evaluate` has it; EvaluationError where it fails.

        Where only its loss is asked for it is not `judged`, but by a picture a class.
        """
        data = self.setting.data
        if not judged:
            data = replace(data, val_search=subset(data.val_search, len(data.classes)))
        top1 = (get_objective("top1"),)
        only: dict[str, Any] = {"constraints": (), "illustrate": None, "estimates": None}
        setting = replace(self.setting, data=data, recipe=recipe, objectives=top1, **only)
        found = evaluate(self.arch, setting, self.keep_epoch)
        if found.state != "complete":
            raise (TransientError if found.transient else EvaluationError)(found.reason)
        return found.curve[-1]

    def keep_epoch(self, epoch: Epoch) -> None:
        self.curve.append(epoch)
        self.on_epoch(epoch)


@dataclass(frozen=True)
class Estimator:
    """A row of ESTIMATORS."""

    name: str
    measure: Callable[[Subject], float]
    trains: bool = False  # each network; then it takes its turns by itself
    has_length: bool = False  # whether it may be told how long to train: NAME:2, NAME:40steps
    usual: Length = Length()  # where it is not told
    # what is to be done once for all networks of a space; gives what that came to
    prepare: Callable[[Subject], float] | None = None
    needs: str = ""  # the estimator that is to be prepared, where it is another one

    def length(self, text: str) -> Length:
        """The Length that `text` is; StudyError where it is none."""
        match = re.fullmatch(r"([1-9]\d{0,5})(steps)?", text)
        if not self.has_length:
            raise StudyError(f"estimator {self.name!r}: takes no option, is {shown(text)}")
        if not match:
            raise StudyError(
                f"estimator {self.name!r}: must be {self.name}:EPOCHS or {self.name}:Nsteps, is "
                f"{shown(text)}"
            )
        return Length(int(match[1]), match[2] or "epochs")


def measure(estimator: Estimator, subject: Subject) -> Estimate:
    """Estimate a network. One that cannot be built or trained here has no value but a reason.

    Where a training was gone on with that a process had begun which died, its processor time is
    that of the epochs made here, scaled to all of them.
    """
    value, reason, transient = None, "", False
    start, began = time.perf_counter(), time.process_time()
    try:
        value = estimator.measure(subject)
        if not torch.isfinite(torch.tensor(value)):
            value, reason = None, f"{estimator.name} is {value}"
    except (RuntimeError, ValueError, MemoryError) as e:  # as in `evaluate`
        reason = one_line(e)
        transient = is_out_of_memory(e) or isinstance(e, TransientError)
    cpu_seconds, seconds = time.process_time() - began, time.perf_counter() - start
    before = sum(epoch.seconds for epoch in subject.curve) / seconds  # above 1: of another process
    return Estimate(
        value,
        cpu_seconds * max(before, 1),
        seconds * max(before, 1),
        reason,
        tuple(subject.curve),
        transient,
    )
