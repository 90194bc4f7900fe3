"""Baseline: a named network with its source and its published figures."""

from dataclasses import dataclass

from nasattn.arch import Architecture


@dataclass(frozen=True)
class Published:
    """A figure as a paper prints it: a claim with a source, never our result."""

    metric: str  # params, macs, top1 (a fraction), latency_ms
    value: float
    where: str  # data set or device
    source: str


@dataclass(frozen=True)
class Baseline:
    """A network that somebody proposed, drawn for 224x224 pictures."""

    name: str
    architecture: Architecture
    source: str
    published: tuple[Published, ...] = ()
    note: str = ""  # how our reading differs from the text, where it does
