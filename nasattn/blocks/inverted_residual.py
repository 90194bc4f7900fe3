"""Inverted residuals: Sandler et al., "MobileNetV2", CVPR 2018."""

from torch import nn

from nasattn.blocks.shortcut import ShortcutBlock
from nasattn.layers import attention_at, chain, conv_bn
from nasattn.parts import StageSpec


class InvertedResidual(ShortcutBlock):
    """Expand 1x1, depthwise k x k, project 1x1 without activation, shortcut where shapes allow.

    Shapes: (N, in_chs, H, W) -> (N, width, ceil(H / stride), ceil(W / stride)).
    No expansion layer where expansion is 1.
    """

    def __init__(self, in_chs: int, stage: StageSpec, *, act: str, strength: float = 1.0) -> None:
        hidden = stage.inner_width(in_chs)
        body = chain(
            expand=conv_bn(in_chs, hidden, 1, act=act) if stage.expansion != 1 else None,
            depthwise=conv_bn(
                hidden, hidden, stage.kernel, stride=stage.stride, groups=hidden, act=act
            ),
            inner_attention=attention_at("after_spatial", stage.attention, hidden, strength),
            project=conv_bn(hidden, stage.width, 1),
            attention=attention_at("before_add", stage.attention, stage.width, strength),
        )
        shortcut = nn.Identity() if stage.keeps_shape(in_chs) else None
        super().__init__(body, shortcut, in_chs=in_chs, run_share=stage.run_share)
