"""Residual blocks: He et al., "Deep Residual Learning", CVPR 2016, and their descendants."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

from nasattn.blocks.selective_kernel import SelectiveKernel
from nasattn.blocks.shortcut import ShortcutBlock
from nasattn.blocks.split_attention import SplitAttention
from nasattn.layers import ACTIVATIONS, attention_at, chain, conv_bn, he_conv
from nasattn.parts import StageSpec


class BasicBlock(ShortcutBlock):
    """k x k, k x k, add, activation. `after_spatial` attention stands between the two.

    Shapes: (N, in_chs, H, W) -> (N, width, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_chs: int, stage: StageSpec, *, act: str, strength: float = 1.0) -> None:
        width, k = stage.width, stage.kernel
        body = chain(
            conv1=conv_bn(in_chs, width, k, stride=stage.stride, act=act),
            inner_attention=attention_at("after_spatial", stage.attention, width, strength),
            conv2=conv_bn(width, width, k),
            attention=attention_at("before_add", stage.attention, width, strength),
        )
        shortcut = projection(in_chs, stage)
        super().__init__(body, shortcut, in_chs=in_chs, run_share=stage.run_share, act=act)


class Bottleneck(ShortcutBlock):
    """1x1, spatial convolution (plain or grouped, selective kernel, split-attention), 1x1, add.

    Shapes: (N, in_chs, H, W) -> (N, width, ceil(H / stride), ceil(W / stride)).
    Sources: He et al., 2016 (stride in the spatial convolution, as torchvision has it); Xie et
    al., "ResNeXt", CVPR 2017; Li et al., "SKNet", CVPR 2019; Zhang et al., "ResNeSt", 2020: its
    average pooling takes the stride.
    """

    def __init__(self, in_chs: int, stage: StageSpec, *, act: str, strength: float = 1.0) -> None:
        inner = stage.inner_width(in_chs)
        average = nn.AvgPool2d(3, stage.stride, padding=1)
        stride = stage.stride if stage.pool == "none" else 1
        spatial = SPATIAL_CONVS[stage.conv](inner, stage, stride, act)
        body = chain(
            reduce=conv_bn(in_chs, inner, 1, act=act),
            pool_before=average if stage.pool == "before" else None,
            spatial=spatial,
            pool_after=average if stage.pool == "after" else None,
            inner_attention=attention_at("after_spatial", stage.attention, inner, strength),
            expand=conv_bn(inner, stage.width, 1),
            attention=attention_at("before_add", stage.attention, stage.width, strength),
        )
        shortcut = projection(in_chs, stage)
        super().__init__(body, shortcut, in_chs=in_chs, run_share=stage.run_share, act=act)


class PreactBasicBlock(ShortcutBlock):
    """Norm and activation before each of two k x k convolutions, add.

    Shapes: (N, in_chs, H, W) -> (N, width, ceil(H / stride), ceil(W / stride)).
    Sources: He et al., "Identity Mappings", ECCV 2016; Zagoruyko and Komodakis, "Wide Residual
    Networks", BMVC 2016: a projection sees the normalised input.
    """

    body: nn.Sequential

    def __init__(self, in_chs: int, stage: StageSpec, *, act: str, strength: float = 1.0) -> None:
        width, k = stage.width, stage.kernel
        body = chain(
            norm=nn.Sequential(nn.BatchNorm2d(in_chs), ACTIVATIONS[act]()),
            conv1=conv_bn(in_chs, width, k, stride=stage.stride, act=act),
            inner_attention=attention_at("after_spatial", stage.attention, width, strength),
            conv2=he_conv(width, width, k),
            attention=attention_at("before_add", stage.attention, width, strength),
        )
        shortcut = (
            nn.Identity()
            if stage.keeps_shape(in_chs)
            else he_conv(in_chs, width, 1, stride=stage.stride)
        )
        super().__init__(body, shortcut, in_chs=in_chs, run_share=stage.run_share)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.shortcut, nn.Conv2d):
            x = self.body[0](x)  # (N, in_chs, H, W)
            y: Tensor = self.shortcut(x) + self.body[1:](x)
            return y
        return super().forward(x)


SPATIAL_CONVS: dict[str, Callable[[int, StageSpec, int, str], nn.Module]] = {
    "plain": lambda inner, stage, stride, act: conv_bn(
        inner, inner, stage.kernel, stride=stride, groups=stage.groups, act=act
    ),
    "sk": lambda inner, stage, stride, act: SelectiveKernel(
        inner, stage.kernel, stride=stride, groups=stage.groups, act=act
    ),
    "splat": lambda inner, stage, stride, act: SplitAttention(
        inner, stage.kernel, stride=stride, groups=stage.groups, radix=stage.radix, act=act
    ),
}


def projection(in_chs: int, stage: StageSpec) -> nn.Module:
    """The shortcut: the identity where shapes are equal, else a row of PROJECTIONS."""
    if stage.keeps_shape(in_chs):
        return nn.Identity()
    return PROJECTIONS[stage.shortcut](in_chs, stage.width, stage.stride)


PROJECTIONS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "conv": lambda in_chs, out_chs, stride: conv_bn(in_chs, out_chs, 1, stride=stride),
    "avg": lambda in_chs, out_chs, stride: nn.Sequential(
        nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False),
        *conv_bn(in_chs, out_chs, 1),
    ),
    "pad": lambda in_chs, out_chs, stride: ZeroPad(out_chs - in_chs, stride),
}


class ZeroPad(nn.Module):
    """Every `stride`-th pixel, with zero channels on both sides: He et al., 2016, option A.

    Shapes: (N, C, H, W) -> (N, C + more, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.before, self.after = more // 2, more - more // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        # A mean of one pixel is that pixel; ncnn has no slice with a step.
        x = avg_pool2d(x, 1, self.stride)
        return pad(x, (0, 0, 0, 0, self.before, self.after))
