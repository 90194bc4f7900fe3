"""HINTS: how the modules that no library knows lose channels, and what that asks of the choice.

A `Gate` hands every channel on at its own place; a `Mixer` makes its channels of all that come in.
Both say in how many equal blocks the channels must lose the same number each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nasattn.attention.bam import BottleneckAttn
from nasattn.attention.cbam import ConvBlockAttn
from nasattn.attention.eca import EfficientChannelAttn
from nasattn.attention.global_context import GlobalContext
from nasattn.attention.lam import LightweightAttn, LightweightSpatialAttn
from nasattn.attention.lgam import LightGroupAttn
from nasattn.attention.non_local import NonLocalAttn
from nasattn.attention.sge import SpatialGroupEnhance
from nasattn.attention.spatial import SpatialAttn
from nasattn.attention.spatial_kernel import SpatialKernelAttn
from nasattn.attention.squeeze_excite import SqueezeExcite
from nasattn.blocks.residual import ZeroPad
from nasattn.blocks.selective_kernel import SelectiveKernel
from nasattn.blocks.shortcut import RunGate
from nasattn.blocks.split_attention import SplitAttention
from nasattn.layers import Blend

Side = Literal["in", "out"]
Shrink = Callable[[Any, Tensor], None]  # (module, indices of the channels that stay)


@dataclass(frozen=True)
class Gate:
    """A row for (N, C, H, W) -> (N, C, H, W), channel by channel."""

    shrink: Shrink
    blocks: Callable[[Any], int] = lambda module: 1


@dataclass(frozen=True)
class Mixer:
    """A row for (N, C_in, H, W) -> (N, C_out, H', W').

    `taps` brings every number that leads from an input to an output channel into one dense tensor
    (C_out, C_in, taps), for the weights as for their gradients: by it, importance is counted.
    """

    shrink_in: Shrink
    shrink_out: Shrink
    blocks_in: Callable[[Any], int]
    blocks_out: Callable[[Any], int]
    taps: Callable[[Any, Callable[[nn.Parameter], Tensor]], Tensor]
    stride: Callable[[Any], int]


@dataclass(frozen=True)
class Fixed:
    """A row for a module around which nothing may be pruned."""

    why: str


def shrink_conv_out(conv: nn.Conv2d | nn.Conv1d, kept: Tensor) -> None:
    """Leave these output channels; grouped convolutions lose the same number of each group."""
    _keep(conv, "weight", kept)
    _keep(conv, "bias", kept)
    conv.out_channels = len(kept)


def shrink_conv_in(conv: nn.Conv2d | nn.Conv1d, kept: Tensor) -> None:
    """Leave these input channels; grouped convolutions lose the same number of each group."""
    groups, width = conv.groups, conv.in_channels // conv.groups
    inner = kept.view(groups, -1) % width  # (groups, kept of a group)
    rows = conv.weight.detach().chunk(groups)  # each (O / groups, width, kh, kw)
    cut = [w.index_select(1, inner[g]) for g, w in enumerate(rows)]
    conv.weight = nn.Parameter(torch.cat(cut), conv.weight.requires_grad)
    conv.in_channels = len(kept)


def shrink_depthwise(conv: nn.Conv2d, kept: Tensor) -> None:
    """A kernel a channel: both sides and the groups."""
    shrink_conv_out(conv, kept)
    conv.in_channels = conv.groups = len(kept)


def shrink_norm(norm: nn.BatchNorm2d, kept: Tensor) -> None:
    """Batch norm: scale, shift and statistics."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        _keep(norm, name, kept)
    norm.num_features = len(kept)


def shrink_linear_out(linear: nn.Linear, kept: Tensor) -> None:
    """Leave these features."""
    _keep(linear, "weight", kept)
    _keep(linear, "bias", kept)
    linear.out_features = len(kept)


def shrink_linear_in(linear: nn.Linear, kept: Tensor) -> None:
    """Leave these features to read."""
    linear.weight = nn.Parameter(
        linear.weight.detach().index_select(1, kept), linear.weight.requires_grad
    )
    linear.in_features = len(kept)


def _keep(module: nn.Module, name: str, kept: Tensor) -> None:
    """A parameter or buffer of a module, of which these rows stay."""
    tensor = getattr(module, name)
    if tensor is None:
        return
    rows = tensor.detach().index_select(0, kept)
    trains = isinstance(tensor, nn.Parameter)
    setattr(module, name, nn.Parameter(rows, tensor.requires_grad) if trains else rows)


def _nothing(module: nn.Module, kept: Tensor) -> None:
    """Whatever the channels are, the module is the same."""


def _groups(module: Any) -> int:
    return int(module.groups)


def _se(module: SqueezeExcite | ConvBlockAttn, kept: Tensor) -> None:
    shrink_conv_in(module.reduce, kept)
    shrink_conv_out(module.expand, kept)


def _eca(module: EfficientChannelAttn, kept: Tensor) -> None:
    if module.dense:
        shrink_conv_in(module.conv, kept)
        shrink_conv_out(module.conv, kept)


def _lam(module: LightweightAttn, kept: Tensor) -> None:
    _eca(module[0], kept)  # type: ignore[arg-type]  # a Sequential's parts are Modules to mypy


def _lgam(module: LightGroupAttn, kept: Tensor) -> None:
    mlps: list[Any] = list(module.mlps)
    width = mlps[0][0].in_channels  # of a group
    for own, (reduce, _, expand, norm) in zip(kept.view(module.groups, -1), mlps, strict=True):
        shrink_conv_in(reduce, own % width)
        shrink_conv_out(expand, own % width)
        if isinstance(norm, nn.BatchNorm2d):
            shrink_norm(norm, own % width)


def _bam(module: BottleneckAttn, kept: Tensor) -> None:
    shrink_conv_in(module.channel[0], kept)  # type: ignore[arg-type]
    shrink_conv_out(module.channel[-1], kept)  # type: ignore[arg-type]
    shrink_conv_in(module.spatial[0], kept)  # type: ignore[arg-type]


def _gc(module: GlobalContext, kept: Tensor) -> None:
    shrink_conv_in(module.key, kept)
    shrink_linear_in(module.reduce, kept)
    shrink_linear_out(module.expand, kept)


def _nl(module: NonLocalAttn, kept: Tensor) -> None:
    for conv in (module.theta, module.phi, module.g):
        shrink_conv_in(conv, kept)
    shrink_conv_out(module.expand, kept)


def _blend(module: Blend, kept: Tensor) -> None:
    shrink_gate(module.attention, kept)


def _blend_blocks(module: Blend) -> int:
    row = HINTS.get(type(module.attention))
    return row.blocks(module.attention) if isinstance(row, Gate) else 1


def shrink_gate(module: nn.Module, kept: Tensor) -> None:
    """Leave these channels of a module that has a Gate's row."""
    row = HINTS[type(module)]
    assert isinstance(row, Gate)
    row.shrink(module, kept)


def _sk_in(module: SelectiveKernel, kept: Tensor) -> None:
    for branch in module.branches:
        shrink_conv_in(branch[0], kept)  # type: ignore[index]


def _sk_out(module: SelectiveKernel, kept: Tensor) -> None:
    channels = module.reduce[0].in_channels
    for branch in module.branches:
        shrink_conv_out(branch[0], kept)  # type: ignore[index]
        shrink_norm(branch[1], kept)  # type: ignore[index]
    shrink_conv_in(module.reduce[0], kept)  # type: ignore[arg-type]
    shrink_conv_out(module.select, torch.cat([kept, kept + channels]))  # type: ignore[operator]


def _splat_in(module: SplitAttention, kept: Tensor) -> None:
    shrink_conv_in(module.conv[0], kept)  # type: ignore[arg-type]


def _splat_out(module: SplitAttention, kept: Tensor) -> None:
    """The convolution has split by split; the logits lie group by group, and in it by split."""
    groups, radix = module.groups, module.radix
    channels = int(module.reduce[0].in_channels)  # type: ignore[arg-type]
    splits = torch.cat([kept + r * channels for r in range(radix)])
    shrink_conv_out(module.conv[0], splits)  # type: ignore[arg-type]
    shrink_norm(module.conv[1], splits)  # type: ignore[arg-type]
    shrink_conv_in(module.reduce[0], kept)  # type: ignore[arg-type]
    width = channels // groups
    inner = kept.view(groups, 1, -1) % width  # (groups, 1, kept of a group)
    starts = torch.arange(groups * radix).view(groups, radix, 1) * width
    shrink_conv_out(module.select, (starts + inner).flatten())


def dense(conv: nn.Conv2d, values: Tensor) -> Tensor:
    """What a grouped convolution's (O, I / groups, kh, kw) is as a whole one's: (O, I, kh kw)."""
    out_width, in_width = conv.out_channels // conv.groups, conv.in_channels // conv.groups
    whole = values.new_zeros(conv.out_channels, conv.in_channels, values[0, 0].numel())
    for g in range(conv.groups):
        rows = slice(g * out_width, (g + 1) * out_width)
        whole[rows, g * in_width : (g + 1) * in_width] = values[rows].flatten(2)
    return whole


def _sk_taps(module: SelectiveKernel, of: Callable[[nn.Parameter], Tensor]) -> Tensor:
    return torch.cat([dense(b[0], of(b[0].weight)) for b in module.branches], 2)  # type: ignore[index]


def _splat_taps(module: SplitAttention, of: Callable[[nn.Parameter], Tensor]) -> Tensor:
    conv: Any = module.conv[0]
    whole = dense(conv, of(conv.weight))  # (R C, C, taps)
    return torch.cat(whole.chunk(module.radix), 2)  # (C, C, R taps)


def _stride(conv: Any) -> int:
    return int(conv.stride[0])


GROUPED = Mixer(  # of ResNeXt, AlexNet; torch-pruning prunes both sides of it as one
    shrink_conv_in,
    shrink_conv_out,
    _groups,
    _groups,
    lambda conv, of: dense(conv, of(conv.weight)),
    _stride,
)

HINTS: dict[type[nn.Module], Gate | Mixer | Fixed] = {
    # The hidden width of an attention stays as it is: it is small, and the channels' bottleneck.
    SqueezeExcite: Gate(_se),
    ConvBlockAttn: Gate(_se),  # the spatial half sees a mean and a maximum of whatever is left
    EfficientChannelAttn: Gate(_eca),  # neighbours move together; dense: a matrix loses both sides
    LightweightSpatialAttn: Gate(_nothing),  # reads two maps, whatever they are pooled from
    SpatialAttn: Gate(_nothing),
    LightweightAttn: Gate(_lam),
    LightGroupAttn: Gate(_lgam, _groups),  # the ladder adds group to group: equal widths
    SpatialGroupEnhance: Gate(_nothing, _groups),  # a view as groups of equal width
    SpatialKernelAttn: Gate(_nothing, _groups),
    BottleneckAttn: Gate(_bam),
    GlobalContext: Gate(_gc),
    NonLocalAttn: Gate(_nl),  # products of matrices, which a tracer takes for element-wise ones
    Blend: Gate(_blend, _blend_blocks),  # attention of some strength: as what it blends
    RunGate: Gate(lambda gate, kept: shrink_linear_in(gate.score, kept)),  # a score a picture
    nn.LocalResponseNorm: Gate(_nothing),  # over five neighbours: those that are left
    # Two branches, and logits that lie branch by branch: one number of channels for all.
    SelectiveKernel: Mixer(
        _sk_in,
        _sk_out,
        lambda sk: _groups(sk.branches[0][0]),
        lambda sk: _groups(sk.branches[0][0]),
        _sk_taps,
        lambda sk: _stride(sk.branches[0][0]),
    ),
    # groups x radix convolutions side by side; what leaves is a sum over the radix splits.
    SplitAttention: Mixer(
        _splat_in,
        _splat_out,
        lambda splat: splat.groups * splat.radix,
        _groups,
        _splat_taps,
        lambda splat: _stride(splat.conv[0]),
    ),
    ZeroPad: Fixed("puts channels at fixed places of a wider map"),  # option A shortcuts
}


def hint_of(module: nn.Module) -> Gate | Mixer | Fixed | None:
    """A module's row; None for what torch-pruning knows by itself."""
    if type(module) is nn.Conv2d and module.groups > 1 and not is_depthwise(module):
        return GROUPED
    return HINTS.get(type(module))


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether each channel has a kernel of its own."""
    return conv.groups == conv.in_channels == conv.out_channels
