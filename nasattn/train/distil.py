"""Distillation: a student learns from its teachers' answers as well as from the labels.

Source: Hinton, Vinyals, Dean 2015, Distilling the Knowledge in a Neural Network, section 2.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from nasattn.data.augment import Normalise
from nasattn.errors import StudyError
from nasattn.train.attention_transfer import Maps, attention_loss, common, watched

TEMPERATURE, WEIGHT = 4.0, 0.9
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]  # (loss by labels, logits, pictures 0 .. 1)


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network, and how its pictures are normalised; it is not trained any further."""

    model: nn.Module
    normalise: Normalise
    identity: str  # its name, and a hash of its tensors


@dataclass(frozen=True, eq=False)
class Distil:
    """How a student is taught: loss = (1 - weight) CE + weight T^2 KL(teacher_T || student_T).

    Several teachers are an ensemble: the mean of their probabilities at that temperature. With
    `features` that many times attention transfer is added, the teachers' mean. Raises StudyError
    for a temperature or a weight with which nothing can be taught.
    """

    teachers: tuple[Teacher, ...]
    temperature: float = TEMPERATURE
    weight: float = WEIGHT
    features: float = 0.0

    def __post_init__(self) -> None:
        if not self.teachers:
            raise StudyError("distillation needs a teacher")
        if not (math.isfinite(self.temperature) and 0 < self.temperature <= 1000):
            raise StudyError(
                f"temperature: must be above 0 and at most 1000, is {self.temperature:g}"
            )
        if not 0 <= self.weight <= 1:
            raise StudyError(f"weight of distillation: must be from 0 to 1, is {self.weight:g}")
        if not (math.isfinite(self.features) and self.features >= 0):
            raise StudyError(f"weight of features: must be 0 or more, is {self.features:g}")

    @property
    def identity(self) -> str:
        """All of it that acts on the weights, in a line."""
        names = " + ".join(teacher.identity for teacher in self.teachers)
        more = f", features {self.features:g}" if self.features else ""
        return f"{names}, temperature {self.temperature:g}, weight {self.weight:g}{more}"

    @contextmanager
    def teaching(self, student: nn.Module, x: Tensor) -> Iterator[Mix]:
        """Gives the loss that mixes in the teachers'; x: a picture of the training, on its device.

        The teachers answer as they do after training. Raises StudyError as `check` does.
        """
        for teacher in self.teachers:
            teacher.model.to(x.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            teacher.model.eval()
        self.check(student, x)
        with self._watching(student) as seen:
            yield lambda loss, logits, x: self.mix(loss, logits, x, seen)

    @torch.no_grad()
    def check(self, student: nn.Module, x: Tensor) -> None:
        """StudyError where maps are to be followed, and a teacher has none of a student's size.

        x: a picture (1, C, H, W). The student is left in eval mode.
        """
        with self._watching(student) as seen:
            if seen:
                student.eval()(x)
                self.answers(x)
            for maps in seen[1:]:
                common(seen[0], maps)

    @contextmanager
    def _watching(self, student: nn.Module) -> Iterator[list[Maps]]:
        """The maps that the student, then each teacher, make; none where nothing follows them."""
        models = [student, *(teacher.model for teacher in self.teachers)] if self.features else []
        with ExitStack() as stack:
            yield [stack.enter_context(watched(model)) for model in models]

    @torch.no_grad()
    def answers(self, x: Tensor) -> Tensor:
        """Log-probabilities (N, classes) of the teachers for pictures 0 .. 1 (N, C, H, W)."""
        each = [
            log_softmax(teacher.model(teacher.normalise(x)) / self.temperature, dim=1)
            for teacher in self.teachers
        ]
        return torch.stack(each).logsumexp(0) - math.log(len(each))

    def mix(self, loss: Tensor, logits: Tensor, x: Tensor, seen: Sequence[Maps] = ()) -> Tensor:
        """The loss by the labels and that by the teachers, for the same augmented pictures.

        `seen`: what maps the student, then each teacher, made last. Without any weight it is `loss`
        itself: training is then what it is without a teacher.
        """
        if not (self.weight or self.features):
            return loss
        answers = self.answers(x)
        if self.weight:
            student = log_softmax(logits / self.temperature, dim=1)
            taught = kl_div(student, answers, reduction="batchmean", log_target=True)
            loss = (1 - self.weight) * loss + self.weight * self.temperature**2 * taught
        if self.features:
            gaps = [attention_loss(seen[0], maps) for maps in seen[1:]]
            loss = loss + self.features * torch.stack(gaps).mean()
        return loss
