"""Forecast: a measured objective of networks that nobody has measured yet."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from nasattn.arch import Architecture
from nasattn.cost import LatencyPredictor, PieceCounter
from nasattn.cost.features import arch_features
from nasattn.cost.measurements import read_measurements
from nasattn.errors import StudyError


@dataclass(frozen=True)
class Forecast:
    """Foretells an objective of networks, from some that were measured."""

    objective: str
    predictor: LatencyPredictor
    counter: PieceCounter

    def __call__(self, arch: Architecture) -> tuple[float, float, float]:
        """The objective's likely value, and between what it lies in 90 of 100 cases."""
        found = self.predictor.predict([arch_features(arch, self.counter)])
        value, low, high = (float(column[0]) for column in found)
        return value, low, high


def read_forecast(
    path: Path, objectives: Collection[str], resolution: int, num_classes: int
) -> Forecast:
    """A forecast from a file of `nasattn latency --fit`.

    Raises EvaluationError for a file that is none, StudyError where it is of another runtime than
    the study's objectives, or of other pictures.
    """
    measured = read_measurements(path)
    objective = f"latency_ms@{measured.runtime}"
    if objective not in objectives:
        raise StudyError(
            f"{path}: is of {objective}, which is no objective or limit of this study; there is "
            f"{', '.join(sorted(objectives))}"
        )
    own, wanted = (measured.resolution, measured.num_classes), (resolution, num_classes)
    if own != wanted:
        raise StudyError(
            f"{path}: is of {own[0]}x{own[0]} pictures of {own[1]} classes, the study's are of "
            f"{resolution}x{resolution} and {num_classes}"
        )
    counter = PieceCounter(num_classes, resolution)
    return Forecast(objective, measured.predictor, counter)
