"""Selective kernel convolution: Li et al., "Selective Kernel Networks", CVPR 2019."""

import torch
from torch import Tensor, nn

from nasattn.layers import ACTIVATIONS, conv_bn, round_width

RD_RATIO = 16


class SelectiveKernel(nn.Module):
    """Two convolutions of different reach, and a softmax a channel that chooses between them.

    U1 = conv_k(x), U2 = conv_k(x) with dilation 2; z = act(BN(W mean_hw(U1 + U2)));
    a1, a2 = softmax(A1 z, A2 z); output a1 U1 + a2 U2.

    Shapes: (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)); groups divides C. The
    hidden width is C / 16 as a multiple of 32, and 32 at least, as timm has it.
    """

    def __init__(self, channels: int, kernel: int, *, stride: int, groups: int, act: str) -> None:
        super().__init__()
        hidden = round_width(channels / RD_RATIO, divisor=32, least=32)
        self.branches = nn.ModuleList(
            conv_bn(channels, channels, kernel, stride=stride, groups=groups, dilation=d, act=act)
            for d in (1, 2)
        )
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            ACTIVATIONS[act](),
        )
        self.select = nn.Conv2d(hidden, 2 * channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        u = torch.stack([branch(x) for branch in self.branches], 1)  # (N, 2, C, H, W)
        z = self.reduce(u.sum(1).mean((2, 3), keepdim=True))  # (N, hidden, 1, 1)
        a = self.select(z).view(x.shape[0], 2, -1, 1, 1).softmax(1)  # (N, 2, C, 1, 1)
        y: Tensor = (a * u).sum(1)
        return y
