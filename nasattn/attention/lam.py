"""The attention of paper 000 (LAM): a light spatial gate, alone or after ECA."""

import torch
from torch import Tensor, nn

from nasattn.attention.eca import EfficientChannelAttn


class LightweightSpatialAttn(nn.Module):
    """Spatial gate from max- and mean-pooled channels: x * sigmoid(pw(dw([max; mean]))).

    Shapes: (N, C, H, W) -> (N, C, H, W). Parameters: 2 k^2 + 2.
    Source: paper 000, section 3.2.2. The text omits the sigmoid and the merge of the two maps;
    we merge them with a 1x1 convolution after the depthwise one.
    """

    def __init__(self, channels: int, *, kernel: int = 7) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(2, 2, kernel, padding=kernel // 2, groups=2, bias=False)
        self.pointwise = nn.Conv2d(2, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.cat((x.amax(1, keepdim=True), x.mean(1, keepdim=True)), 1)  # (N, 2, H, W)
        return x * torch.sigmoid(self.pointwise(self.depthwise(maps)))


class LightweightAttn(nn.Sequential):
    """LAM: efficient channel attention, then the light spatial gate.

    Shapes: (N, C, H, W) -> (N, C, H, W). Source: paper 000, section 3.2.
    """

    def __init__(self, channels: int, *, dense: bool = False, kernel: int = 7) -> None:
        super().__init__(
            EfficientChannelAttn(channels, dense=dense),
            LightweightSpatialAttn(channels, kernel=kernel),
        )
