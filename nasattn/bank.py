"""Bank: weights that the networks of a space share; each network runs on a part of them.

A network's parameter is found in the bank by its place (the same as in `initial.layers`) and by
what is chosen there that is no size: another attention, another kind of convolution, another kind
of head has weights of its own. Sizes share: of a tensor a smaller network has the first rows and
columns, and the centre of the kernel. So blocks are shared by their position in the stage, and a
3x3 kernel is the middle of the 5x5 one (Cai et al., "Once-for-All", ICLR 2020, without its learned
transform). Convolutions of several groups share channels, which lie in other groups at other
widths.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nasattn.arch import Architecture
from nasattn.initial import layers
from nasattn.model import build_model

# By the first step of a parameter's name, the fields of its part that are choices and no sizes;
# what the names of modules tell apart (block, placement) need not be here.
CHOICES = {
    "stages": ("conv", "groups", "radix"),
    "fusion": ("kind", "scales"),
    "classifier": ("pooling", "n_hidden"),
}
ATTENTION = frozenset({"attention", "inner_attention"})
SIZES = frozenset({"placement", "rd_ratio", "hidden", "hidden_min", "kernel", "gem_p"})


@dataclass(frozen=True, eq=False)
class Bank:
    """Tensors by key, and what they are called."""

    tensors: Mapping[str, Tensor]
    identity: str

    @torch.no_grad()
    def fill(self, arch: Architecture, model: nn.Module) -> None:
        """Copy into a network what the bank has of it; the rest stays as it is."""
        own = dict(model.named_parameters())
        for name, key in keys(arch, model).items():
            if key in self.tensors:
                shared = self.tensors[key].to(own[name].device)
                cut(own[name], shared.shape).copy_(cut(shared, own[name].shape))


@dataclass(frozen=True, eq=False)
class Subnet:
    """A plain network whose parameters are parts of a bank's tensors."""

    model: nn.Module
    keys: Mapping[str, str]  # by parameter

    @classmethod
    def of(cls, arch: Architecture, num_classes: int, device: str = "cpu") -> "Subnet":
        model = build_model(arch, num_classes).to(device)
        return cls(model.train(), keys(arch, model))

    def __call__(self, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, classes), from which gradients flow into the tensors."""
        own = dict(self.model.named_parameters())
        parts = {name: cut(tensors[key], own[name].shape) for name, key in self.keys.items()}
        logits: Tensor = functional_call(self.model, parts, (x,))
        return logits


def keys(arch: Architecture, model: nn.Module) -> dict[str, str]:
    """The bank's key of each parameter of a network, by its name."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(tensor)]: " ".join((*layer, choice(arch, names[id(tensor)])))
        for layer, tensor in layers(model).items()
        if id(tensor) in names
    }


def choice(arch: Architecture, name: str) -> str:
    """What is chosen at the place of a parameter, sizes left out."""
    first, *rest = name.split(".")
    part: Any = arch.stages[int(rest[0])] if first == "stages" else getattr(arch, first, arch.head)
    if ATTENTION & set(rest):
        options = part.attention.model_dump()
        return json.dumps({k: v for k, v in options.items() if k not in SIZES}, sort_keys=True)
    return json.dumps([getattr(part, field) for field in CHOICES.get(first, ())])


def cut(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The part of a tensor that one of another shape shares with it: no copy.

    Of the first two dimensions the first rows and columns, of others (a kernel) the centre.
    """
    for dim, (have, wanted) in enumerate(zip(tensor.shape, shape, strict=True)):
        size = min(have, wanted)
        tensor = tensor.narrow(dim, (have - size) // 2 if dim > 1 else 0, size)
    return tensor


def open_bank(archs: Iterable[Architecture], num_classes: int, seed: int) -> dict[str, Tensor]:
    """Initial tensors that hold every one of the networks.

    The first network that has a place begins it with its own initial weights; where a later one is
    larger, the new weights are drawn among the old ones, and so are as large, whatever their
    module's rule. The same seed and networks give the same weights; torch's global generator is
    left as it was.
    """
    found: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for arch in archs:
            model = build_model(arch, num_classes)
            own = dict(model.named_parameters())
            for name, key in keys(arch, model).items():
                old = found.get(key, own[name].detach())
                found[key] = grown(old, [*map(max, old.shape, own[name].shape)])
    return found


def grown(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of a larger shape with the given one as its shared part."""
    if tensor.shape == torch.Size(shape):
        return tensor
    larger = tensor.flatten()[torch.randint(tensor.numel(), tuple(shape))]
    cut(larger, tensor.shape).copy_(tensor)
    return larger
