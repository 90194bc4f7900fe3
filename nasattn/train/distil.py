"""Distillation: a student learns from its teachers' answers as well as from the labels.

Source: Hinton, Vinyals, Dean 2015, Distilling the Knowledge in a Neural Network, section 2.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from nasattn.data.augment import Normalise
from nasattn.errors import StudyError

TEMPERATURE, WEIGHT = 4.0, 0.9


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network, and how its pictures are normalised; it is not trained any further."""

    model: nn.Module
    normalise: Normalise
    identity: str  # its name, and a hash of its tensors


@dataclass(frozen=True, eq=False)
class Distil:
    """How a student is taught: loss = (1 - weight) CE + weight T^2 KL(teacher_T || student_T).

    Several teachers are an ensemble: the mean of their probabilities at that temperature. Raises
    StudyError for a temperature or a weight with which nothing can be taught.
    """

    teachers: tuple[Teacher, ...]
    temperature: float = TEMPERATURE
    weight: float = WEIGHT

    def __post_init__(self) -> None:
        if not self.teachers:
            raise StudyError("distillation needs a teacher")
        if not (math.isfinite(self.temperature) and 0 < self.temperature <= 1000):
            raise StudyError(
                f"temperature: must be above 0 and at most 1000, is {self.temperature:g}"
            )
        if not 0 <= self.weight <= 1:
            raise StudyError(f"weight of distillation: must be from 0 to 1, is {self.weight:g}")

    @property
    def identity(self) -> str:
        """All of it that acts on the weights, in a line."""
        names = " + ".join(teacher.identity for teacher in self.teachers)
        return f"{names}, temperature {self.temperature:g}, weight {self.weight:g}"

    def start(self, device: str) -> None:
        """Put the teachers where the student is, to answer as they do after training."""
        for teacher in self.teachers:
            teacher.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            teacher.model.eval()

    @torch.no_grad()
    def answers(self, x: Tensor) -> Tensor:
        """Log-probabilities (N, classes) of the teachers for pictures 0 .. 1 (N, C, H, W)."""
        each = [
            log_softmax(teacher.model(teacher.normalise(x)) / self.temperature, dim=1)
            for teacher in self.teachers
        ]
        return torch.stack(each).logsumexp(0) - math.log(len(each))

    def mix(self, loss: Tensor, logits: Tensor, x: Tensor) -> Tensor:
        """The loss by the labels and that by the teachers, for the same augmented pictures.

        A weight of 0 gives `loss` itself: training is then what it is without a teacher.
        """
        if not self.weight:
            return loss
        student = log_softmax(logits / self.temperature, dim=1)
        taught = kl_div(student, self.answers(x), reduction="batchmean", log_target=True)
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * taught
