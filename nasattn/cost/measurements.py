"""Measurements: a file of measured networks, from which the latency of others is predicted."""

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from nasattn.errors import EvaluationError
from nasattn.spec import Name, Spec, parse

if TYPE_CHECKING:
    from nasattn.cost.predictor import LatencyPredictor

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class MeasuredNetwork(Spec):
    """What a predictor learns of a network."""

    name: Name
    features: dict[str, float | str]  # see `arch_features`
    latency_ms: Positive  # by its ratio to the reference


class Measurements(Spec):
    """Networks measured on one runtime of one machine, on pictures of one size."""

    runtime: Name
    reference: Name
    reference_ms: Positive
    resolution: Annotated[int, Field(gt=0)]
    num_classes: Annotated[int, Field(gt=0)]
    networks: tuple[MeasuredNetwork, ...]

    @cached_property
    def predictor(self) -> "LatencyPredictor":
        """Learned from all networks; raises EvaluationError for too few."""
        from nasattn.cost.predictor import LatencyPredictor

        features = [network.features for network in self.networks]
        return LatencyPredictor().fit(features, [n.latency_ms for n in self.networks])

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"


def read_measurements(path: Path) -> Measurements:
    """What `nasattn latency --fit` wrote; raises EvaluationError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        reason = getattr(e, "strerror", None) or e
        raise EvaluationError(f"{path}: cannot be read as JSON ({reason})") from e
    return parse(Measurements, data, str(path), EvaluationError)
