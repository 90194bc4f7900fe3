"""What a LatencyPredictor is told of a network: where its work is, layer by layer."""

from math import prod

from torch import nn

from nasattn.arch import Architecture
from nasattn.cost.layers import Layer, count_layers
from nasattn.cost.pieces import PieceCounter


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


def arch_features(arch: Architecture, counter: PieceCounter) -> dict[str, float | str]:
    """What is known of an architecture without building it: for thousands of candidates.

    Multiply-adds, parameters and numbers returned of its stem, stages, fusion and head; of a stage
    also blocks, kernel and the attention, with how often it runs and on how many numbers.
    """
    found: dict[str, float | str] = {}
    for place, piece in counter.pieces(arch).items():
        found[f"{place}.macs"] = piece.tally.flops / 2
        found[f"{place}.params"] = float(piece.tally.params)
        found[f"{place}.numbers"] = float(prod(piece.shape))
    for i, stage in enumerate(arch.stages):
        place, kind = f"stages.{i}", stage.attention.kind
        numbers = float(found[f"{place}.numbers"])
        found[f"{place}.numbers"] = numbers * stage.depth * (1 + 2 * stage.expansion)
        found[f"{place}.blocks"] = float(stage.depth)
        found[f"{place}.kernel"] = f"{stage.kernel}"
        if kind != "none":
            calls = 1 if stage.attention.placement == "after_stage" else stage.depth
            inner = stage.attention.placement == "after_spatial"
            wide = numbers * (stage.expansion if inner else 1)
            found[f"{place}.{kind}"] = float(calls)
            found[f"{place}.numbers of {kind}"] = calls * wide
    return found


def kind_of(layer: Layer) -> str:
    """`Conv2d 3x3`, `Conv2d 3x3 depthwise` (as many groups as channels), `Linear`, ..."""
    kind, grouped, groups = layer.kind.partition(" g=")
    if not grouped:
        return kind
    depthwise = layer.shape and int(groups) == layer.shape[0]
    return f"{kind} {'depthwise' if depthwise else 'grouped'}"
