"""Baseline: a named network with its source and its published figures."""

import math
from dataclasses import dataclass
from typing import Literal

from nasattn.arch import Architecture

Verdict = Literal["match", "fit", "no"]
COUNTED = ("params", "macs")  # the metrics of which counting alone can tell
UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "%": 1e-2, "ms": 1.0}


@dataclass(frozen=True)
class Pictures:
    """What a published figure was counted for."""

    resolution: int
    num_classes: int


PICTURES = {
    "ImageNet": Pictures(224, 1000),
    "ImageNet-20": Pictures(224, 20),  # 20 classes of it: paper 002
    "CIFAR-10": Pictures(32, 10),
    "CIFAR-100": Pictures(32, 100),
}


@dataclass(frozen=True)
class Published:
    """A figure as a paper prints it: a claim with a source, never our result.

    `printed` keeps its digits: "11.17 M", "93.5 %", "6.4 ms". What can be counted, and nothing
    else, has a `verdict` that says what came of counting it: "match" (the standard network has
    it), "fit" (a reading chosen because it has it: possible, no evidence) or "no" (no reading has
    it; `why` says more).
    """

    metric: str  # params, macs, top1, top1_error, map (fractions), latency_ms
    printed: str
    where: str  # a key of PICTURES, or a device
    source: str  # paper, table
    verdict: Verdict | None = None
    tolerance: float | None = None  # relative; None: to the printed digits
    why: str = ""

    def __post_init__(self) -> None:
        if (self.verdict is not None) != (self.metric in COUNTED):
            raise ValueError(f"{self.metric} {self.printed}: what is counted, only, has a verdict")

    @property
    def value(self) -> float:
        """The figure in the metric's own unit."""
        number, _, unit = self.printed.partition(" ")
        return float(number) * UNITS[unit]

    @property
    def paper(self) -> str:
        """The paper's number, such as 000."""
        return self.source.split(",")[0]

    def agrees(self, counted: float) -> bool:
        """Whether a count is the published one: within the tolerance, or rounded or cut to it."""
        if self.tolerance is not None:
            return abs(counted / self.value - 1) <= self.tolerance
        number, _, unit = self.printed.partition(" ")
        decimals = len(number.partition(".")[2])
        shifted = counted / UNITS[unit] * 10**decimals
        return round(float(number) * 10**decimals) in (
            math.floor(shifted),
            math.floor(shifted + 0.5),
        )


@dataclass(frozen=True)
class Baseline:
    """A network that somebody proposed, drawn for 224x224 pictures."""

    name: str
    architecture: Architecture
    source: str
    published: tuple[Published, ...] = ()
    note: str = ""  # how our reading differs from the text, where it does
    family: str = ""  # given by BASELINES
