"""Sweeps: one test over many cases, of which a few are quick and the others wait for the gate."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

# A network of each family.
FAMILIES = ("lam", "mobilenet_v2", "resnet18_lgam_cifar", "resneskt50", "alexnet_se")


def sweep(cases: Iterable[Any], quick: Collection[Any] = FAMILIES) -> list[Any]:
    """The cases, those that are not quick as slow."""
    return [pytest.param(c, marks=[pytest.mark.slow] * (c not in quick)) for c in cases]
