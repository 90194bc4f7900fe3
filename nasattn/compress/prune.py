"""prune: a network without the channels that matter least."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nasattn.compress.graph import ChannelGroup, channel_groups
from nasattn.compress.narrow import Cut, Cuts, narrow
from nasattn.cost import StaticCost, count_cost
from nasattn.data import Split
from nasattn.data.augment import Normalise, to_float
from nasattn.errors import StudyError, UnknownNameError
from nasattn.train.loop import to_tensors

LEAST = 0.1  # of a group's channels stay, where groups compete
MOST_RATIO = 0.95
BATCH = 128
STEPS = 12  # of halving, towards a target


@dataclass(frozen=True, eq=False)
class Pruned:
    """A network after pruning, and the channels that were kept of the one before."""

    model: nn.Module
    record: Cuts
    ratio: float


def prune(
    model: nn.Module,
    example: Tensor,
    *,
    ratio: float | None = None,
    target_macs: int | None = None,
    target_params: int | None = None,
    importance: str = "l2",
    global_: bool = False,
    ignore: Sequence[str] = (),
    multiple: int = 1,
    seed: int = 0,
) -> Pruned:
    """A copy of a network without a share of the channels of each group.

    Of `ratio`, `target_macs` and `target_params` one is given; to a target the lowest ratio is
    sought that reaches it. `global_` lets all channels compete by their score instead of those of
    a group, of which a tenth stays at least. Groups of which a layer of `ignore`, or one inside
    it, makes channels stay whole. Of every other one so many stay that they are a `multiple`, which
    kernels want. `taylor` reads the gradients that the parameters hold, `random` the seed.
    example: (N, in_chs, H, W). Raises StudyError where a target cannot be reached, or nothing goes.
    """
    check_ignored(model, ignore)
    groups = [
        group
        for group in channel_groups(model, example, importance=importance, seed=seed)
        if not is_in(group.makers, ignore)
    ]
    if not groups:
        raise StudyError("prune: there is no layer whose channels can go")
    choose = partial(global_cuts if global_ else local_cuts, groups, multiple=multiple)
    pruned = prune_by(
        choose,
        model,
        example,
        ratio=ratio,
        target_macs=target_macs,
        target_params=target_params,
    )
    if not pruned.record:
        raise StudyError(
            f"ratio: {pruned.ratio:g} takes no channel; what stays must be a multiple of {multiple}"
        )
    return pruned


def prune_by(
    choose: Callable[[float], Cuts],
    model: nn.Module,
    example: Tensor,
    *,
    ratio: float | None,
    target_macs: int | None,
    target_params: int | None,
) -> Pruned:
    """What `prune` does, with the cuts that are chosen for a ratio."""
    if sum(value is not None for value in (ratio, target_macs, target_params)) != 1:
        raise StudyError("prune: give one of ratio, target_macs and target_params")
    if ratio is None:
        ratio = ratio_for(model, example, choose, target_macs, target_params)
    cuts = choose(checked_ratio(ratio))
    return Pruned(narrowed(model, cuts), cuts, ratio)


def check_ignored(model: nn.Module, ignore: Sequence[str]) -> None:
    """UnknownNameError for a layer that is not there."""
    names = dict(model.named_modules()).keys() - {""}
    for name in ignore:
        if name not in names:
            raise UnknownNameError("layer", name, known=names)


def is_in(names: Iterable[str], layers: Sequence[str]) -> bool:
    """Whether one of the names is one of the layers, or inside one."""
    return any(name == one or name.startswith(f"{one}.") for name in names for one in layers)


def checked_ratio(ratio: float) -> float:
    """A share of channels to prune; raises StudyError."""
    if not 0 < ratio <= MOST_RATIO:
        raise StudyError(f"ratio: must be above 0, at most {MOST_RATIO}, is {ratio}")
    return ratio


def narrowed(model: nn.Module, cuts: Cuts) -> nn.Module:
    """A copy of a network after some cuts."""
    made = copy.deepcopy(model)
    narrow(made, cuts, "the network")
    made.zero_grad()
    return made


def local_cuts(groups: Sequence[ChannelGroup], ratio: float, *, multiple: int = 1) -> Cuts:
    """Of each group the same share goes, as near as its blocks and the multiple allow."""
    gone = [round(ratio * g.width / g.blocks) for g in groups]
    return cuts_of(groups, gone, multiple=multiple)


def global_cuts(groups: Sequence[ChannelGroup], ratio: float, *, multiple: int = 1) -> Cuts:
    """The share of all channels that scores lowest goes, wherever it is."""
    rows = [row_scores(group) for group in groups]
    sizes = torch.cat([torch.full((len(r),), g.blocks) for r, g in zip(rows, groups, strict=True)])
    values, order = torch.cat(rows).sort()
    gone = sizes[order].cumsum(0) <= ratio * sizes.sum()
    threshold = values[gone].max() if gone.any() else -math.inf
    lowest = [int((r <= threshold).sum()) for r in rows]
    return cuts_of(groups, lowest, least=LEAST, multiple=multiple)


def row_scores(group: ChannelGroup) -> Tensor:
    """Scores in rising order; where blocks lose the same number, the mean over them."""
    return group.scores.view(group.blocks, -1).sort(1).values.mean(0)


def cuts_of(
    groups: Sequence[ChannelGroup], gone: Sequence[int], *, least: float = 0.0, multiple: int = 1
) -> Cuts:
    """The cuts by which every block of a group loses so many channels; one at least stays.

    Less goes where what stays of the group would be no multiple.
    """
    cuts = []
    for group, n in zip(groups, gone, strict=True):
        scores = group.scores.view(group.blocks, -1)  # (blocks, width of a block)
        width = scores.shape[1]
        stay = max(width - n, 1, math.ceil(least * width))
        stay = next((k for k in range(stay, width) if k * group.blocks % multiple == 0), width)
        n = width - stay
        if n <= 0:
            continue
        inner = scores.argsort(dim=1, stable=True)[:, n:].sort(1).values  # (blocks, kept)
        kept = inner + torch.arange(group.blocks).unsqueeze(1) * width
        cuts.append(
            Cut(members=group.members, width=group.width, kept=tuple(kept.flatten().tolist()))
        )
    return tuple(cuts)


def ratio_for(
    model: nn.Module,
    example: Tensor,
    cuts: Callable[[float], Cuts],
    target_macs: int | None,
    target_params: int | None,
) -> float:
    """The lowest ratio, to a 4,000th, that brings a cost down to its target."""
    shapes = copy.deepcopy(model).to("meta")
    name, target = ("macs", target_macs) if target_macs is not None else ("params", target_params)
    assert target is not None

    def cost(ratio: float) -> int:
        value: int = getattr(cost_of(narrowed(shapes, cuts(ratio)), example), name)
        return value

    if (whole := cost_of(shapes, example)) and target >= getattr(whole, name):
        raise StudyError(
            f"target_{name}: the network has {getattr(whole, name):,}; must be lower, is {target:,}"
        )
    low, high = 0.0, MOST_RATIO
    if (least := cost(high)) > target:
        raise StudyError(
            f"target_{name}: {least:,} are left where {high:.0%} of the channels go; is {target:,}"
        )
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) <= target else (middle, high)
    return high


def cost_of(model: nn.Module, example: Tensor) -> StaticCost:
    """What a network costs for a picture of the example's size."""
    return count_cost(model, example.shape[2], example.shape[1])


def add_gradients(
    model: nn.Module, split: Split, normalise: Normalise, *, device: str = "cpu"
) -> None:
    """Leave the gradients of the mean loss over a split in the parameters, for `taylor`."""
    model.zero_grad()
    for loss in losses(model, split, normalise, device=device):
        loss.backward()  # type: ignore[no-untyped-call]
    model.cpu()


def losses(
    model: nn.Module, split: Split, normalise: Normalise, *, device: str = "cpu"
) -> Iterator[Tensor]:
    """The terms, a batch each, whose sum is the mean loss over a split."""
    model.to(device).eval()
    images, labels = to_tensors(split, device)
    for x, y in zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True):
        yield cross_entropy(model(normalise(to_float(x))), y, reduction="sum") / len(images)
