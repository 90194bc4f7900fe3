"""A plain convolution block, as AlexNet is made of: Krizhevsky et al., NIPS 2012."""

from torch import nn

from nasattn.layers import attention_at, conv_norm_act
from nasattn.parts import StageSpec


class ConvBlock(nn.Sequential):
    """[3x3 max pooling, stride 2], k x k convolution, activation, [attention], [LRN].

    Shapes: (N, in_chs, H, W) -> (N, width, floor(H / stride), floor(W / stride)).
    Source: Krizhevsky et al., 2012, where a pooling belongs to the block before; attention stands
    as in paper 004, behind the activation and before LRN.
    """

    def __init__(self, in_chs: int, stage: StageSpec, *, act: str, strength: float = 1.0) -> None:
        pool = [nn.MaxPool2d(3, stage.stride, ceil_mode=True)] if stage.stride > 1 else []
        conv = conv_norm_act(
            in_chs,
            stage.width,
            stage.kernel,
            groups=stage.groups,
            norm=stage.norm,
            act=act,
            attention=attention_at("before_add", stage.attention, stage.width, strength),
        )
        super().__init__(*pool, conv)
