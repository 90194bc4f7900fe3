"""Forecast: a measured objective of networks that nobody has measured yet."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from nasattn.arch import Architecture, parse_architecture
from nasattn.cost import LatencyPredictor, PieceCounter
from nasattn.cost.features import arch_features
from nasattn.cost.measurements import Measurements, read_measurements
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
    return Forecast(objective, learn(measured, counter, path), counter)


def learn(measured: Measurements, counter: PieceCounter, path: Path) -> LatencyPredictor:
    """What a search can foretell: from what is known of an architecture without building it."""
    rows = [row for row in measured.networks if row.architecture is not None]
    features = [
        arch_features(parse_architecture(row.architecture, str(path)), counter) for row in rows
    ]
    return LatencyPredictor().fit(features, [row.latency_ms for row in rows])
