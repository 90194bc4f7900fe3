"""Split-attention convolution: Zhang et al., "ResNeSt: Split-Attention Networks", 2020."""

from math import lcm

from torch import Tensor, nn

from nasattn.layers import ACTIVATIONS, conv_bn, round_width

RD_RATIO = 4


class SplitAttention(nn.Module):
    """`radix` splits of every cardinal group from one convolution, weighed by a softmax over them.

    Shapes: (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)); groups x radix divides C.
    The hidden width is C radix / 4 as a multiple of 8, and 32 at least. With one split the
    softmax is a sigmoid.
    """

    def __init__(
        self, channels: int, kernel: int, *, stride: int, groups: int, radix: int, act: str
    ) -> None:
        super().__init__()
        step = lcm(8, groups)  # the groups divide the hidden width too
        hidden = round_width(channels * radix / RD_RATIO, step, least=-(-32 // step) * step)
        self.groups, self.radix = groups, radix
        self.conv = conv_bn(
            channels, channels * radix, kernel, stride=stride, groups=groups * radix, act=act
        )
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, groups=groups),
            nn.BatchNorm2d(hidden),
            ACTIVATIONS[act](),
        )
        self.select = nn.Conv2d(hidden, channels * radix, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        u = self.conv(x)  # (N, RC, H, W)
        n, _, h, w = u.shape
        u = u.view(n, self.radix, -1, h, w)  # (N, R, C, H, W)
        s = self.select(self.reduce(u.sum(1).mean((2, 3), keepdim=True)))  # (N, RC, 1, 1)
        # The logits lie group by group, the splits split by split.
        s = s.view(n, self.groups, self.radix, -1).transpose(1, 2)  # (N, R, groups, C / groups)
        a = s.softmax(1) if self.radix > 1 else s.sigmoid()
        y: Tensor = (a.reshape(n, self.radix, -1, 1, 1) * u).sum(1)
        return y
