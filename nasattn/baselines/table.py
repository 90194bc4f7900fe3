"""BASELINES: every network of the papers by name."""

from nasattn.baselines.baseline import Baseline
from nasattn.baselines.mobile import MOBILE_BASELINES
from nasattn.errors import UnknownNameError

BASELINES: dict[str, Baseline] = {baseline.name: baseline for baseline in MOBILE_BASELINES}


def get_baseline(name: str) -> Baseline:
    """A baseline by name; raises UnknownNameError."""
    if name not in BASELINES:
        raise UnknownNameError("network", name, known=BASELINES)
    return BASELINES[name]
