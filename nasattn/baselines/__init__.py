"""The papers' networks as values, each with its source and what was published about it."""

from nasattn.baselines.baseline import Baseline, Published
from nasattn.baselines.table import BASELINES, get_baseline

__all__ = ["BASELINES", "Baseline", "Published", "get_baseline"]
