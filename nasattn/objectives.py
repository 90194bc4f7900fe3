"""What a network is judged by: OBJECTIVES, and limits on them."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Literal

from nasattn.errors import StudyError, UnknownNameError
from nasattn.runtimes.spec import RuntimeSpec, parse_runtime

Direction = Literal["minimize", "maximize"]


class Cost(IntEnum):
    """What it takes to know a value; cheaper ones are found, and judged, first."""

    STATIC = 0
    MEASURED = 1
    TRAINED = 2


@dataclass(frozen=True)
class Objective:
    """A row of OBJECTIVES: a figure of a network, and which way is better.

    One that is measured may say on what: `latency_ms@onnxruntime:threads=2`.
    """

    name: str
    direction: Direction
    cost: Cost
    measure: Callable[[Any], float]  # of evaluate's Candidate; a static one of its Sketch, too
    unit: str  # of a value times `scale`, for people
    scale: float = 1.0
    digits: int = 2
    runtime: RuntimeSpec | None = None

    def __reduce__(self) -> tuple[Callable[[str], "Objective"], tuple[str]]:
        """A row travels to another process by its name."""
        return get_objective, (self.name,)

    @property
    def heading(self) -> str:
        """Name and unit for the head of a column: `macs M`, `latency_ms`, `ms@onnxruntime`."""
        if self.runtime:
            return f"{self.unit}@{self.runtime}"
        return self.name if self.name.endswith(self.unit) else f"{self.name} {self.unit}"

    @property
    def sign(self) -> int:
        """1 where smaller is better, -1 where larger is."""
        return 1 if self.direction == "minimize" else -1

    def say(self, value: float) -> str:
        """A value in a sentence: `top1 93.5 %`, `latency_ms 4.49`."""
        unit = "" if self.cost == Cost.MEASURED else f" {self.unit}"
        return f"{self.name} {self.show(value)}{unit}"

    def show(self, value: float) -> str:
        """A value in a column whose head is `heading`."""
        return f"{value * self.scale:.{self.digits}f}"


@dataclass(frozen=True)
class LatencyOn:
    """Measures the latency objective of that name."""

    objective: str

    def __call__(self, candidate: Any) -> float:
        found: float = candidate.latency_ms(self.objective)
        return found


OBJECTIVES: dict[str, Objective] = {
    row.name: row
    for row in (
        Objective("top1", "maximize", Cost.TRAINED, lambda c: c.curve[-1].top1, "%", 100, 1),
        Objective("macs", "minimize", Cost.STATIC, lambda c: float(c.static.macs), "M", 1e-6),
        Objective("params", "minimize", Cost.STATIC, lambda c: float(c.static.params), "M", 1e-6),
        Objective("latency_ms", "minimize", Cost.MEASURED, LatencyOn("latency_ms"), "ms"),
    )
}


def get_objective(name: str) -> Objective:
    """A row of OBJECTIVES, or of a measured one `NAME@RUNTIME[:OPTION=VALUE,...]`.

    Raises UnknownNameError, or StudyError for options that do not fit.
    """
    base, at, place = name.partition("@")
    if base not in OBJECTIVES:
        raise UnknownNameError("objective", base, known=OBJECTIVES)
    row = OBJECTIVES[base]
    if not at:
        return row
    if row.cost != Cost.MEASURED:
        raise StudyError(f"objective {name!r}: {base} is the same on every runtime")
    runtime = parse_runtime(place)
    full = f"{base}@{runtime}"
    return replace(row, name=full, measure=LatencyOn(full), runtime=runtime)


@dataclass(frozen=True)
class Constraint:
    """A limit on an objective: `macs<=120e6`."""

    objective: Objective
    at_most: bool
    bound: float

    def violation(self, value: float) -> float:
        """How far a value breaks the limit, as a share of it; zero or less where it holds."""
        excess = value - self.bound if self.at_most else self.bound - value
        return excess / abs(self.bound) if self.bound else excess

    def __str__(self) -> str:
        return f"{self.objective.name}{'<=' if self.at_most else '>='}{self.bound:.15g}"


def parse_constraint(text: str) -> Constraint:
    """`NAME<=NUMBER` or `NAME>=NUMBER`; raises StudyError or UnknownNameError."""
    match = re.fullmatch(r"\s*(\w+(?:@\S+?)?)\s*(<=|>=)\s*(\S+)\s*", text)
    if not match:
        raise StudyError(f"constraint {text!r}: must be like 'macs<=120e6' or 'top1>=0.9'")
    name, sign, number = match.groups()
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise StudyError(f"constraint {text!r}: {number!r} is not a number")
    return Constraint(get_objective(name), sign == "<=", bound)
