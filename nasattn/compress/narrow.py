"""narrow: a network of which some channels are gone. It needs the choice alone, no pruner."""

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from nasattn.compress.hints import (
    Gate,
    Mixer,
    hint_of,
    is_depthwise,
    shrink_conv_in,
    shrink_conv_out,
    shrink_depthwise,
    shrink_linear_in,
    shrink_linear_out,
    shrink_norm,
)
from nasattn.errors import WeightsError, shown
from nasattn.spec import Line, Spec

Index = Annotated[int, Field(ge=0)]


class Cut(Spec):
    """Channels that are one to all their members: those of `width` that were kept, in order.

    A member is "name of a module:side", with the sides in, out, and both where they are the same.
    """

    members: tuple[Line, ...]
    width: PositiveInt
    kept: tuple[Index, ...]


Cuts = tuple[Cut, ...]


def narrow(model: nn.Module, cuts: Iterable[Cut], where: str) -> None:
    """Make the cuts in a model, one after the other.

    Raises WeightsError where one does not fit the model, `where` being what it is called.
    """
    for cut in cuts:
        for member in cut.members:
            name, _, side = member.rpartition(":")
            try:
                module = model.get_submodule(name)
            except AttributeError:
                raise WeightsError(f"{where}: cuts {shown(name)}, which is not there") from None
            shrink, width, blocks = port(module, side, where, member)
            shrink(module, torch.tensor(_indices(cut, width, blocks, f"{where}: {member}")))


Port = tuple[Callable[[Any, Tensor], None], int | None, int]


def port(module: nn.Module, side: str, where: str = "", member: str = "") -> Port:
    """(how the channels of a side go, how many there are if the module knows, in blocks)."""
    hint = hint_of(module)
    if isinstance(hint, Gate) and side == "both":
        return hint.shrink, None, hint.blocks(module)
    if isinstance(hint, Mixer) and side == "in":
        return hint.shrink_in, None, hint.blocks_in(module)
    if isinstance(hint, Mixer) and side == "out":
        return hint.shrink_out, None, hint.blocks_out(module)
    if isinstance(module, nn.Conv2d) and hint is None:
        if is_depthwise(module) and side == "both":
            return shrink_depthwise, module.in_channels, 1
        if not is_depthwise(module) or module.groups == 1:
            if side == "in":
                return shrink_conv_in, module.in_channels, 1
            if side == "out":
                return shrink_conv_out, module.out_channels, 1
    if isinstance(module, nn.BatchNorm2d) and side == "both":
        return shrink_norm, module.num_features, 1
    if isinstance(module, nn.Linear) and side == "in":
        return shrink_linear_in, module.in_features, 1
    if isinstance(module, nn.Linear) and side == "out":
        return shrink_linear_out, module.out_features, 1
    raise WeightsError(f"{where}: cannot cut {shown(member)}, of a {type(module).__name__}")


def _indices(cut: Cut, width: int | None, blocks: int, where: str) -> list[int]:
    """What stays of a side: each index so many times as the side is wider than the cut."""
    kept = cut.kept
    if not kept or list(kept) != sorted(set(kept)) or kept[-1] >= cut.width:
        raise WeightsError(f"{where}: keeps channels that are no choice of {cut.width}")
    per_block, rest = divmod(cut.width, blocks)
    counts = [0] * blocks
    for index in kept if not rest else ():
        counts[index // per_block] += 1
    if rest or len(set(counts)) > 1:
        raise WeightsError(f"{where}: keeps unequal numbers in its {blocks} blocks")
    repeat, rest = divmod(cut.width if width is None else width, cut.width)
    if rest or not repeat:
        raise WeightsError(f"{where}: has {width} channels, the cut {cut.width}")
    return [index * repeat + i for index in kept for i in range(repeat)]
