"""Where a network's parameters and multiply-adds are: a row for each part that has some."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import add, sub
from typing import Any

from torch import Tensor, nn

from nasattn.cost.count import Counter, blank_picture

ROOT = "(root)"  # the name of the whole network as a part


@dataclass(frozen=True)
class Layer:
    """A part of a network with parameters or multiply-adds of its own, its children's aside."""

    name: str  # in the network: stages.0.1.body.0
    kind: str  # Conv2d 3x3 g=32
    shape: tuple[int, ...]  # of what it returns for one picture; () where it returns no tensor
    params: int
    macs: int  # for a picture for which everything runs


def count_layers(model: nn.Module, resolution: int, in_chs: int = 3) -> list[Layer]:
    """The layers of a network in their order; they add up to what `count_cost` gives.

    A parameter that two parts share counts where it first stands, and a product in the forward
    of a part that has children counts for that part.
    """
    counter = Counter()
    with watched(model, lambda: (counter.flops,)) as ran:
        counter.run(model, blank_picture(model, resolution, in_chs))
    layers: list[Layer] = []
    for name, part, params in own_params(model):
        run = ran.get(part, Run((0,)))
        if params or any(run.own):
            macs = run.own[0] // 2
            layers.append(Layer(name, kind_of(part), run.shape, params, macs))
    return layers


def own_params(model: nn.Module) -> Iterator[tuple[str, nn.Module, int]]:
    """Name, module and number of own parameters of each part; a shared one where it first is."""
    seen: set[int] = set()
    for name, part in model.named_modules():
        own = {id(p): p.numel() for p in part.parameters(recurse=False) if id(p) not in seen}
        seen.update(own)
        yield name or ROOT, part, sum(own.values())


def kind_of(part: nn.Module) -> str:
    """Class, and for a convolution its kernel and groups."""
    kind = type(part).__name__
    if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        kind += " " + "x".join(map(str, part.kernel_size))
        kind += f" g={part.groups}" * (part.groups > 1)
    return kind


@dataclass
class Run:
    """What a part did while the network was counted."""

    own: tuple[int, ...]  # without those of its children
    shape: tuple[int, ...] = ()


@contextmanager
def watched(
    model: nn.Module, counts: Callable[[], tuple[int, ...]]
) -> Iterator[dict[nn.Module, Run]]:
    """Take down what each part does, by what `counts` says before and after it."""
    ran: dict[nn.Module, Run] = {}
    none = tuple(0 for _ in counts())
    before: list[tuple[int, ...]] = []  # the counts when each part that now runs began
    inner = [none]  # what the children of each part that now runs have taken so far

    def enter(part: nn.Module, args: Any) -> None:
        before.append(counts())
        inner.append(none)

    def leave(part: nn.Module, args: Any, output: Any) -> None:
        whole = tuple(map(sub, counts(), before.pop()))
        run = ran.setdefault(part, Run(none))
        run.own = tuple(map(add, run.own, map(sub, whole, inner.pop())))
        inner[-1] = tuple(map(add, inner[-1], whole))
        run.shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()

    handles = [part.register_forward_pre_hook(enter) for part in model.modules()]
    handles += [part.register_forward_hook(leave) for part in model.modules()]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()
