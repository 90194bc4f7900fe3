"""Non-local self-attention: Wang et al., "Non-local Neural Networks", CVPR 2018."""

import torch
from torch import Tensor, nn

from nasattn.attention.widths import hidden_width


class NonLocalAttn(nn.Module):
    """Every position asks all positions: x_i + W sum_j softmax_j(theta_i . phi_j / sqrt(d)) g_j.

    theta, phi and g are 1x1 convolutions to d = C / rd_ratio channels, W one back to C.

    Shapes: (N, C, H, W) -> (N, C, H, W). Parameters: 4 C d, and 3 d + C with bias. The weights
    are (N, HW, HW): 12,544 squared, or 600 MB a picture, for a map of 112x112.
    W starts at zero, and with it the module as the identity. The scale by sqrt(d) is that of
    paper 004's formula; the non-local paper has none.
    Source: paper 004, self-attention.
    """

    def __init__(self, channels: int, *, rd_ratio: int = 2, bias: bool = True) -> None:
        super().__init__()
        hidden = hidden_width(channels, rd_ratio)
        self.theta = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.phi = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.g = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.expand = nn.Conv2d(hidden, channels, 1, bias=bias)
        self.scale = hidden**-0.5
        nn.init.zeros_(self.expand.weight)
        if self.expand.bias is not None:
            nn.init.zeros_(self.expand.bias)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        query = self.theta(x).flatten(2).transpose(1, 2) * self.scale  # (N, HW, d)
        weights = torch.softmax(query @ self.phi(x).flatten(2), 2)  # (N, HW, HW)
        y = weights @ self.g(x).flatten(2).transpose(1, 2)  # (N, HW, d)
        y = y.transpose(1, 2).reshape(n, -1, h, w)  # (N, d, H, W)
        added: Tensor = self.expand(y)
        return x + added
