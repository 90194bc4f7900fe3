"""What a LatencyPredictor is told of a network: where its work is, layer by layer."""

from math import prod

from torch import nn

from nasattn.cost.layers import Layer, count_layers


def latency_features(model: nn.Module, resolution: int, in_chs: int = 3) -> dict[str, float | str]:
    """`LAYER.macs of KIND`, `LAYER.numbers of KIND` and `LAYER.KIND` (1: it is there).

    Multiply-adds, and the numbers that a layer returns for one picture, of every layer that has
    parameters or products; its kind tells kernels and depthwise convolutions apart.
    """
    found: dict[str, float | str] = {}
    for layer in count_layers(model, resolution, in_chs):
        place, kind = layer.name, kind_of(layer)
        found[f"{place}.macs of {kind}"] = float(layer.macs)
        found[f"{place}.numbers of {kind}"] = float(prod(layer.shape))
        found[f"{place}.{kind}"] = 1.0
    return found


def kind_of(layer: Layer) -> str:
    """`Conv2d 3x3`, `Conv2d 3x3 depthwise` (as many groups as channels), `Linear`, ..."""
    kind, grouped, groups = layer.kind.partition(" g=")
    if not grouped:
        return kind
    depthwise = layer.shape and int(groups) == layer.shape[0]
    return f"{kind} {'depthwise' if depthwise else 'grouped'}"
