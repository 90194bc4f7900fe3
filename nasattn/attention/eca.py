"""Efficient channel attention: Wang et al., "ECA-Net", CVPR 2020."""

import math

import torch
from torch import Tensor, nn


def eca_kernel(channels: int) -> int:
    """ECA-Net's kernel for a width: the whole part of log2(C) / 2 + 1 / 2, or one more if even."""
    t = int(abs(math.log2(channels) / 2 + 0.5))
    return t if t % 2 else t + 1


class EfficientChannelAttn(nn.Module):
    """Channel gate from neighbouring channels: x * sigmoid(conv1d_k(mean_hw(x))).

    Shapes: (N, C, H, W) -> (N, C, H, W). Parameters: k, or C^2 when dense.
    `dense` replaces the convolution along the channels by a full C x C one: the only reading of
    paper 000's text whose parameter counts reproduce its Table 3, though it is no longer ECA.
    """

    def __init__(self, channels: int, *, dense: bool = False) -> None:
        super().__init__()
        self.dense = dense
        k = eca_kernel(channels)
        self.conv = (
            nn.Conv1d(channels, channels, 1, bias=False)
            if dense
            else nn.Conv1d(1, 1, k, padding=k // 2, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        s = x.mean((2, 3))  # (N, C)
        s = s.unsqueeze(2) if self.dense else s.unsqueeze(1)  # (N, C, 1) or (N, 1, C)
        return x * torch.sigmoid(self.conv(s)).view(x.shape[0], -1, 1, 1)
