"""How well a trained network answers: accuracy, by class, and what it takes for what."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nasattn.data import Split
from nasattn.data.augment import Normalise
from nasattn.train.loop import predict

TOP = 5
Z = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class Share:
    """How many of n pictures are right."""

    right: int
    n: int

    @property
    def value(self) -> float:
        """A fraction; not a number where there are no pictures."""
        return self.right / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval. It speaks of the pictures alone, not of other training seeds."""
        if not self.n:
            return 0.0, 1.0
        p, n = self.value, self.n
        middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * float(np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)))
        return max(middle - half, 0.0), min(middle + half, 1.0)


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network answered on a split."""

    confusion: NDArray[np.int64]  # (classes, classes): [true class, answer] -> pictures
    top5: Share | None  # the class is among the five highest logits; None up to five classes

    @property
    def top1(self) -> Share:
        return Share(int(self.confusion.trace()), int(self.confusion.sum()))

    def by_class(self) -> list[Share]:
        """Top-1 of each class, in their order."""
        pairs = zip(self.confusion.diagonal(), self.confusion.sum(1), strict=True)
        return [Share(int(right), int(n)) for right, n in pairs]

    def mistakes(self) -> Iterator[tuple[int, int, int]]:
        """(true class, answer, pictures), the most frequent first."""
        wrong = self.confusion * (1 - np.eye(len(self.confusion), dtype=np.int64))
        for place in np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]:
            label, answer = divmod(int(place), len(wrong))
            yield label, answer, int(wrong[label, answer])


def measure_answers(
    model: nn.Module, split: Split, normalise: Normalise, n_classes: int, *, device: str = "cpu"
) -> Answers:
    """Ask a network about every picture of a split.

    The answer is the class of the highest logit. Raises EvaluationError when a logit is not a
    number.
    """
    confusion = torch.zeros(n_classes**2, dtype=torch.int64, device=device)
    in_top = 0
    for logits, labels in predict(model, split, normalise, device=device):
        places = labels * n_classes + logits.argmax(1)  # (B,)
        confusion += torch.bincount(places, minlength=n_classes**2)
        if n_classes > TOP:
            highest = logits.topk(TOP, dim=1).indices  # (B, 5)
            in_top += int((highest == labels[:, None]).sum())
    top5 = Share(in_top, len(split)) if n_classes > TOP else None
    return Answers(confusion.reshape(n_classes, n_classes).cpu().numpy(), top5)
