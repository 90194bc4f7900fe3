"""Squeeze and excitation: Hu, Shen and Sun, "Squeeze-and-Excitation Networks", CVPR 2018."""

import torch
from torch import Tensor, nn

from nasattn.attention.widths import hidden_width


class SqueezeExcite(nn.Module):
    """Channel gate from pooled channels: x * sigmoid(W2 relu(W1 mean_hw(x))).

    Shapes: (N, C, H, W) -> (N, C, H, W). Parameters: 2 C h, and C + h with bias; h = C / rd_ratio.
    """

    def __init__(self, channels: int, *, rd_ratio: int = 16, bias: bool = True) -> None:
        super().__init__()
        hidden = hidden_width(channels, rd_ratio)
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.expand = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        s = x.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
        return x * torch.sigmoid(self.expand(torch.relu(self.reduce(s))))
