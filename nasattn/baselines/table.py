"""BASELINES: every network of the papers by name."""

from nasattn.baselines.alexnet import ALEXNET_BASELINES
from nasattn.baselines.baseline import Baseline
from nasattn.baselines.mobile import MOBILE_BASELINES
from nasattn.baselines.resnest import RESNEST_BASELINES
from nasattn.baselines.resnet import RESNET_BASELINES
from nasattn.errors import UnknownNameError

BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for family in (MOBILE_BASELINES, RESNET_BASELINES, RESNEST_BASELINES, ALEXNET_BASELINES)
    for baseline in family
}


def get_baseline(name: str) -> Baseline:
    """A baseline by name; raises UnknownNameError."""
    if name not in BASELINES:
        raise UnknownNameError("network", name, known=BASELINES)
    return BASELINES[name]
