"""Bottleneck attention: Park et al., "BAM: Bottleneck Attention Module", BMVC 2018."""

import torch
from torch import Tensor, nn

from nasattn.attention.widths import hidden_width


class BottleneckAttn(nn.Module):
    """A channel and a dilated spatial branch, joined to one gate: x * (1 + sigmoid(Mc + Ms)).

    Shapes: (N, C, H, W) -> (N, C, H, W). Parameters: 3 C h + C + 18 h^2 + 13 h + 1, with
    h = C / rd_ratio; depthwise=True makes the two 3x3 convolutions depthwise: 18 h, not 18 h^2.
    The paper adds the branches, the authors' code multiplies them (combine="multiply"). Biases
    and batch norms stand where the code has them: the paper ends both branches with a norm.
    Depthwise is the reading of BAM with which paper 002's Table 1 comes out.
    Batch norm of the pooled map needs more than one picture in training mode.
    """

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: int = 16,
        dilation: int = 4,
        combine: str = "add",
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.multiplies = combine == "multiply"
        hidden = hidden_width(channels, rd_ratio)
        groups = hidden if depthwise else 1
        self.channel = nn.Sequential(
            *_conv_bn_relu(channels, hidden), nn.Conv2d(hidden, channels, 1)
        )
        self.spatial = nn.Sequential(
            *_conv_bn_relu(channels, hidden),
            *_conv_bn_relu(hidden, hidden, kernel=3, dilation=dilation, groups=groups),
            *_conv_bn_relu(hidden, hidden, kernel=3, dilation=dilation, groups=groups),
            nn.Conv2d(hidden, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        channel = self.channel(x.mean((2, 3), keepdim=True))  # (N, C, 1, 1)
        spatial = self.spatial(x)  # (N, 1, H, W)
        both = channel * spatial if self.multiplies else channel + spatial  # (N, C, H, W)
        return x * (1 + torch.sigmoid(both))


def _conv_bn_relu(
    in_chs: int, out_chs: int, *, kernel: int = 1, dilation: int = 1, groups: int = 1
) -> list[nn.Module]:
    """The authors' own: the convolution keeps its bias beside the batch norm."""
    border = kernel // 2 * dilation
    conv = nn.Conv2d(in_chs, out_chs, kernel, padding=border, dilation=dilation, groups=groups)
    return [conv, nn.BatchNorm2d(out_chs), nn.ReLU()]
