"""Spatial attention: the listing of paper 004, which is CBAM's second half with a bias."""

import torch
from torch import Tensor, nn


class SpatialAttn(nn.Module):
    """Spatial gate from mean- and max-pooled channels: x * sigmoid(conv([mean; max])).

    Shapes: (N, C, H, W) -> (N, C, H, W). Parameters: 2 k^2, and 1 with bias.
    Source: paper 004, listing of the spatial attention (k = 7).
    """

    def __init__(self, channels: int, *, kernel: int = 7, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)  # (N, 2, H, W)
        return x * torch.sigmoid(self.conv(maps))
