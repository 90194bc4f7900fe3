"""Convolutional block attention: Woo et al., "CBAM", ECCV 2018."""

import torch
from torch import Tensor, nn

from nasattn.attention.widths import hidden_width


class ConvBlockAttn(nn.Module):
    """Channel gate sigmoid(mlp(mean) + mlp(max)), then spatial gate sigmoid(conv([max; mean])).

    Shapes: (N, C, H, W) -> (N, C, H, W). Parameters: 2 C h + 2 k^2 (h = C / rd_ratio); biases
    add C + h, batch norm of the spatial map adds 2. The defaults are paper 002's reading (no bias,
    no batch norm); the authors' own code has both.
    """

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: int = 16,
        kernel: int = 7,
        bias: bool = False,
        bn: bool = False,
    ) -> None:
        super().__init__()
        hidden = hidden_width(channels, rd_ratio)
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.expand = nn.Conv2d(hidden, channels, 1, bias=bias)
        self.spatial = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(1) if bn else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        mean = self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True))))  # (N, C, 1, 1)
        top = self.expand(torch.relu(self.reduce(x.amax((2, 3), keepdim=True))))  # (N, C, 1, 1)
        x = x * torch.sigmoid(mean + top)
        maps = torch.cat((x.amax(1, keepdim=True), x.mean(1, keepdim=True)), 1)  # (N, 2, H, W)
        return x * torch.sigmoid(self.bn(self.spatial(maps)))
