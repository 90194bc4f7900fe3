"""What a network costs: parameters, multiply-adds, measured latency."""

from nasattn.cost.count import StaticCost, count_cost, count_macs, count_params
from nasattn.cost.latency import Latency, LatencyMeter
from nasattn.cost.pieces import PieceCounter

__all__ = [
    "Latency",
    "LatencyMeter",
    "PieceCounter",
    "StaticCost",
    "count_cost",
    "count_macs",
    "count_params",
]
