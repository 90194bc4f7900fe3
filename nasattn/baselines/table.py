"""BASELINES: every network of the papers by name."""

from dataclasses import replace

from nasattn.baselines.alexnet import ALEXNET_BASELINES
from nasattn.baselines.baseline import Baseline
from nasattn.baselines.mobile import MOBILE_BASELINES
from nasattn.baselines.resnest import RESNEST_BASELINES
from nasattn.baselines.resnet import RESNET_BASELINES
from nasattn.errors import UnknownNameError

FAMILIES = {
    "mobile": MOBILE_BASELINES,
    "resnet": RESNET_BASELINES,
    "resnest": RESNEST_BASELINES,
    "alexnet": ALEXNET_BASELINES,
}
BASELINES: dict[str, Baseline] = {
    row.name: replace(row, family=family) for family, rows in FAMILIES.items() for row in rows
}


def get_baseline(name: str) -> Baseline:
    """A baseline by name; raises UnknownNameError."""
    if name not in BASELINES:
        raise UnknownNameError("network", name, known=BASELINES)
    return BASELINES[name]
