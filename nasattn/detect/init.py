"""The weights of a network that was trained elsewhere, as a detector's start."""

import torch

from nasattn.arch import Architecture
from nasattn.fit import load_into
from nasattn.model import Network, build_model
from nasattn.pretrained import Pretrained


def init_backbone(backbone: Network, arch: Architecture, pretrained: Pretrained) -> None:
    """Copy what `build_backbone(arch)` has of the weights of the whole network, in place.

    The head's are left behind, so that the number of classes does not matter. Raises WeightsError
    where the weights do not fit the network.
    """
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, and lost
        whole = build_model(arch, 1)
    load_into(whole, pretrained.tensors, pretrained.where, transfer=True)
    trained = whole.state_dict()
    backbone.load_state_dict({name: trained[name] for name in backbone.state_dict()})
