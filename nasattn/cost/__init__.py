"""What a network costs: parameters, multiply-adds, latency measured and predicted."""

from typing import TYPE_CHECKING, Any

from nasattn.cost.bench import Bench
from nasattn.cost.count import StaticCost, count_cost, count_macs, count_params
from nasattn.cost.latency import Latency, LatencyMeter
from nasattn.cost.pieces import PieceCounter
from nasattn.cost.row_counter import Costs, RowCounter

if TYPE_CHECKING:
    from nasattn.cost.predictor import LatencyPredictor

__all__ = [
    "Bench",
    "Costs",
    "Latency",
    "LatencyMeter",
    "LatencyPredictor",
    "PieceCounter",
    "RowCounter",
    "StaticCost",
    "count_cost",
    "count_macs",
    "count_params",
]


def __getattr__(name: str) -> Any:
    """The predictor, imported on use: it brings scipy."""
    if name != "LatencyPredictor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nasattn.cost import predictor

    return predictor.LatencyPredictor
