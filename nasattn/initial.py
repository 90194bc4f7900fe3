"""Initial weights that networks have in common, so that only what differs between them differs."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nasattn.arch import Architecture
from nasattn.attention.lam import LightweightAttn
from nasattn.layers import Blend
from nasattn.model import Network, build_model

Layer = tuple[str, str, str]  # its place in the network, its class, the name of a weight
WRAPPERS = (LightweightAttn, Blend)  # what is in them stands where it stands alone


def build_alike(kin: Sequence[Architecture], num_classes: int, seed: int) -> Network:
    """The last network of `kin`, whose layers begin as in the ones before where those have them.

    Of several the nearest counts, and each of them begins like those before it. A layer is the
    same where place, class and shapes are. The same seed gives the same weights; torch's global
    generator is left as it was.
    """
    known: dict[Layer, Tensor] = {}
    with torch.random.fork_rng(), torch.no_grad():
        for arch in kin:
            torch.manual_seed(seed)
            model = build_model(arch, num_classes)
            own = layers(model)
            for layer, tensor in own.items():
                if layer in known and known[layer].shape == tensor.shape:
                    tensor.copy_(known[layer])
            known |= own
    return model


def layers(model: nn.Module, place: str = "") -> dict[Layer, Tensor]:
    """The model's parameters and buffers, by place, class and name."""
    tensors = dict(model.named_parameters(recurse=False)) | dict(model.named_buffers(recurse=False))
    found = {(place, type(model).__name__, name): tensor for name, tensor in tensors.items()}
    seen = Counter[str]()
    for name, child in model.named_children():
        kind = type(child).__name__
        if isinstance(model, WRAPPERS):
            own = place
        elif name.isdigit():  # dropout before it does not make a layer another one
            own = f"{place}.{kind}{seen[kind]}"
        else:
            own = f"{place}.{name}"
        seen[kind] += 1
        found |= layers(child, own)
    return found
