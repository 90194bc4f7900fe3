"""Spatial group-wise enhance: Li, Hu and Yang, "Spatial Group-wise Enhance", 2019."""

import torch
from torch import Tensor, nn


class SpatialGroupEnhance(nn.Module):
    """A spatial gate a group: how much each position agrees with the group's mean, normalised.

    Shapes: (N, C, H, W) -> (N, C, H, W); groups divides C. Parameters: 2 groups.
    """

    def __init__(self, channels: int, *, groups: int = 8) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(1, groups, 1, 1))
        self.bias = nn.Parameter(torch.ones(1, groups, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        v = x.reshape(n * self.groups, c // self.groups, h, w)  # (NG, C/G, H, W)
        t = (v * v.mean((2, 3), keepdim=True)).sum(1)  # (NG, H, W)
        t = t - t.mean((1, 2), keepdim=True)
        # A blank map or a single position has no spread: sqrt's gradient at 0 would be infinite.
        # Sums instead of max(h * w - 1, 1), on which an exporter's trace would have to branch.
        degrees = h * w - 1 + (h * w == 1)
        variance = t.square().sum((1, 2), keepdim=True) / degrees
        std = variance.clamp(min=1e-12).sqrt()
        t = (t / (std + 1e-5)).view(n, self.groups, h, w)  # (N, G, H, W)
        gate = torch.sigmoid(t * self.weight + self.bias)
        return (v * gate.view(n * self.groups, 1, h, w)).view(n, c, h, w)
