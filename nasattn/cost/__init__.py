"""What a network costs: parameters, multiply-adds, measured latency."""

from nasattn.cost.count import StaticCost, count_cost, count_macs, count_params
from nasattn.cost.latency import Latency, LatencyMeter

__all__ = ["Latency", "LatencyMeter", "StaticCost", "count_cost", "count_macs", "count_params"]
