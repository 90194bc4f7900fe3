"""Sensitivity: what a network answers when one group of channels alone is pruned."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from nasattn.compress.graph import ChannelGroup
from nasattn.compress.prune import local_cuts, narrowed
from nasattn.cost import count_params
from nasattn.train.metrics import Share

RATIOS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Response:
    """Top-1 after a group lost each share of its channels, and the parameters that are left."""

    name: str  # the layer that makes the channels
    width: int
    top1: tuple[Share, ...]
    params: tuple[int, ...]


def sensitivity(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    measure: Callable[[nn.Module], Share],
    ratios: Sequence[float] = RATIOS,
) -> Iterator[Response]:
    """Prune each group by itself at each ratio, and measure what is left; nothing is trained."""
    for group in groups:
        shares, params = [], []
        for ratio in ratios:
            pruned = narrowed(model, local_cuts([group], ratio))
            shares.append(measure(pruned))
            params.append(count_params(pruned))
        yield Response(group.name, group.width, tuple(shares), tuple(params))
