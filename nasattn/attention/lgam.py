"""Light group-wise attention: paper 002 (LGAM)."""

import torch
from torch import Tensor, nn

from nasattn.attention.widths import hidden_width


class LightGroupAttn(nn.Module):
    """Channel attention up a ladder of groups, then a spatial gate without parameters.

    The channels are split into G groups of C' = C / G. With y_0 = 0, for k = 1 .. G
        u_k = carry(x_k, y_{k-1});  y_k = u_k + u_k * sigmoid(relu(mlp_k(mean_hw(u_k))))
    and, with A' = [y_1 .. y_G], the output is A' * sigmoid(relu(reduce_c(A'))) + x.

    Shapes: (N, C, H, W) -> (N, C, H, W); groups divides C.
    Parameters: 2 C h with h = max(C' / rd_ratio, hidden_min); biases add G (C' + h), bn adds none
    (batch norm without scale and shift, which keeps the counts of paper 002's Table 1).
    Source: paper 002, equations (2) to (7), where carry and the spatial reduce are sums. With a
    sum the ladder grows by 1.5 to 2 a group (from unit noise, an output spread of 13 for G = 8 and
    over 1e5 for G = 32 where every gate is at its lowest), and the summed spatial gate is 1 nearly
    everywhere. Our default is `mean`: the ladder grows with G at most, and the gate informs.
    carry="sum", spatial_reduce="sum" is the paper's text.
    Neither of the paper's gates can fall below one half; relu_before_sigmoid=False lifts that.
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int = 4,
        rd_ratio: int = 16,
        hidden_min: int = 8,
        bias: bool = False,
        bn: bool = False,
        carry: str = "mean",
        spatial_reduce: str = "mean",
        relu_before_sigmoid: bool = True,
    ) -> None:
        super().__init__()
        self.groups = groups
        self.carry_scale = 0.5 if carry == "mean" else 1.0
        self.mean_over_channels = spatial_reduce == "mean"
        self.relu_before_sigmoid = relu_before_sigmoid
        width = channels // groups
        hidden = hidden_width(width, rd_ratio, hidden_min)
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, hidden, 1, bias=bias),
                nn.ReLU(),
                nn.Conv2d(hidden, width, 1, bias=bias),
                nn.BatchNorm2d(width, affine=False) if bn else nn.Identity(),
            )
            for _ in range(groups)
        )

    def forward(self, x: Tensor) -> Tensor:
        rungs: list[Tensor] = []
        for x_k, mlp in zip(x.chunk(self.groups, 1), self.mlps, strict=True):
            u = (x_k + rungs[-1]) * self.carry_scale if rungs else x_k  # (N, C/G, H, W)
            rungs.append(u + u * self._gate(mlp(u.mean((2, 3), keepdim=True))))
        a = torch.cat(rungs, 1)  # (N, C, H, W)
        s = a.mean(1, keepdim=True) if self.mean_over_channels else a.sum(1, keepdim=True)
        return a * self._gate(s) + x

    def _gate(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(torch.relu(logits) if self.relu_before_sigmoid else logits)
