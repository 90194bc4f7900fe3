"""What every part of a network computes and moves: its multiply-adds beside its bytes."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nasattn.cost.count import Counter, blank_picture
from nasattn.cost.layers import Layer, Run, kind_of, own_params, watched

# Operators that move nothing beside the views: they return a tensor as it lies, or an empty one.
STILL = frozenset(("_unsafe_view", "lift", "empty", "empty_like", "empty_strided", "new_empty"))
# Kinds of layers that cost alike; a convolution's is found by `sort_of`.
NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
SORTS = ("1x1 conv", "depthwise conv", "other conv", "linear", "norm", "activation", "rest")


@dataclass(frozen=True)
class Work(Layer):
    """What a part of a network does for one picture, its children aside."""

    sort: str  # one of SORTS
    bytes: int  # read and written by its operators


def count_work(model: nn.Module, resolution: int, in_chs: int = 3) -> list[Work]:
    """Every part of a network in its order, also one that only calls its children.

    An operator reads each tensor that it is given once, weights and statistics too, and writes
    what it returns, as eager torch does; a view moves nothing. A part's own operators are those
    that no child runs: the sum behind a shortcut counts for the block. Multiply-adds and
    parameters are those of `count_layers`; all parts run, as there.
    """
    counter = TrafficCounter()
    with watched(model, lambda: (counter.flops, counter.bytes)) as ran:
        counter.run(model, blank_picture(model, resolution, in_chs))
    found = []
    for name, part, params in own_params(model):
        run = ran.get(part, Run((0, 0)))
        flops, moved = run.own
        kind, sort = kind_of(part), sort_of(part)
        found.append(Work(name, kind, run.shape, params, flops // 2, sort, moved))
    return found


def sort_of(part: nn.Module) -> str:
    """Which of SORTS a part is; one that has children is of the rest."""
    if isinstance(part, nn.modules.conv._ConvNd):
        if 1 < part.groups == part.in_channels:
            return "depthwise conv"
        return "1x1 conv" if {*part.kernel_size, part.groups} == {1} else "other conv"
    if isinstance(part, nn.Linear):
        return "linear"
    if isinstance(part, NORMS):
        return "norm"
    if "activation" in type(part).__module__ and not isinstance(part, nn.MultiheadAttention):
        return "activation"
    return "rest"


class TrafficCounter(Counter):  # type: ignore[no-untyped-call]
    """Adds up the bytes that operators read and write, too."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def result(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = super().result(operator, args, kwargs)
        name = getattr(getattr(operator, "_overloadpacket", None), "__name__", "")
        if not getattr(operator, "is_view", False) and name not in STILL:
            self.bytes += size_bytes((args, kwargs)) + size_bytes(out)
        return out


def size_bytes(values: Any) -> int:
    """Of all tensors in a nest of values, each once."""
    tensors = {id(t): t.nbytes for t in tree_leaves(values) if isinstance(t, Tensor)}
    return sum(tensors.values())
