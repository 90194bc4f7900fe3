"""The control arm: as large as the base, without what the base has more."""

from collections.abc import Callable

import torch

from nasattn.arch import Architecture, parse_architecture
from nasattn.blocks.table import BLOCKS
from nasattn.cost import StaticCost, count_cost
from nasattn.errors import AblationError
from nasattn.model import build_model

N_STEPS = 16  # of a bisection: the multiply-adds then hang on the rounding of widths alone
WIDEST = 8.0


def widen_to(
    plain: Architecture, base: Architecture, resolution: int, classes: int
) -> Architecture:
    """`plain` with wider convolutions, until its multiply-adds are those of `base`.

    A gain may be only size: this arm has the size without the mechanism. The channels inside the
    blocks grow (of basic and plain convolution blocks: those between stages); what parameters are
    still missing goes into the hidden layer of the head where there is one. Both are as near as
    whole channels allow; the result is to be shown with its own counts. Raises AblationError
    where `plain` is the larger one.
    """

    def cost(arch: Architecture) -> StaticCost:
        with torch.device("meta"):
            model = build_model(arch.at_resolution(resolution), classes)
        return count_cost(model, resolution)

    wanted = cost(base)
    if cost(plain).macs >= wanted.macs:
        raise AblationError("control: the network without the parts is no smaller than the base")
    low, high = 1.0, WIDEST
    for _ in range(N_STEPS):
        middle = (low + high) / 2
        low, high = (
            (low, middle) if cost(_wider(plain, middle)).macs > wanted.macs else (middle, high)
        )
    wide = _fill_hidden(_wider(plain, low), wanted.params, cost)
    if wide == plain:
        raise AblationError("control: the parts cost less than one channel more would")
    return wide


def _wider(arch: Architecture, factor: float) -> Architecture:
    """Every block with `factor` times its channels; one without an expansion gets none."""
    tree = arch.model_dump()
    for stage in tree["stages"]:
        groups = stage["groups"] * (stage["radix"] if stage["conv"] == "splat" else 1)
        if stage["block"] == "inverted_residual":
            stage["expansion"] *= factor if stage["expansion"] > 1 else 1
        elif "expansion" in BLOCKS[stage["block"]].fields:
            inner = stage["width"] / stage["expansion"] * factor
            stage["expansion"] = max(stage["width"] / (round(inner / groups) * groups), 1.0)
        else:
            stage["width"] = round(stage["width"] * factor / groups) * groups
    return parse_architecture(tree)


def _fill_hidden(
    arch: Architecture, params: int, cost: Callable[[Architecture], StaticCost]
) -> Architecture:
    """A hidden layer of the width that brings the parameters to `params`."""
    hidden = arch.head.hidden
    if not hidden:
        return arch

    def with_hidden(width: int) -> Architecture:
        head = arch.head.model_copy(update={"hidden": width})
        return arch.model_copy(update={"head": head})

    now = cost(arch).params
    per_channel = cost(with_hidden(hidden + 1)).params - now
    return with_hidden(max(round(hidden + (params - now) / per_channel), 1))
