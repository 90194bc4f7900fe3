"""What a network costs: parameters, multiply-adds, measured latency."""

from nasattn.cost.count import count_macs, count_params
from nasattn.cost.latency import Latency, LatencyMeter

__all__ = ["Latency", "LatencyMeter", "count_macs", "count_params"]
