"""ShuffleNet version 1, which neither torchvision nor timm has."""

from typing import Literal

import torch
from torch import Tensor, nn

from nasattn.layers import conv_bn

Groups = Literal[1, 2, 3, 4, 8]

# Table 1 of the source: channels of the first stage at width 1.0; each further stage doubles them.
FIRST_WIDTH: dict[Groups, int] = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
DEPTHS = (4, 8, 4)


class ShuffleNetV1(nn.Module):
    """3x3 convolution and max-pooling, three stages of shuffle units, pooling, classifier.

    Shapes: (N, 3, H, W) -> (N, num_classes).
    Source: Zhang, Zhou, Lin, Sun, CVPR 2018, Table 1. `width` multiplies every number of channels,
    `groups` is the g of the grouped 1x1 convolutions. The classifier has no bias, as in the
    authors' own code.
    """

    def __init__(self, num_classes: int, *, width: float = 1.0, groups: Groups = 3) -> None:
        super().__init__()
        chs = round(24 * width)
        self.stem = nn.Sequential(
            conv_bn(3, chs, 3, stride=2, act="relu"), nn.MaxPool2d(3, stride=2, padding=1)
        )
        stages = []
        for i, depth in enumerate(DEPTHS):
            out_chs = round(FIRST_WIDTH[groups] * width) * 2**i
            # The very first 1x1 convolution is a whole one: its input has few channels.
            units = [ShuffleUnit(chs, out_chs, groups, stride=2, grouped_in=i > 0)]
            units += (ShuffleUnit(out_chs, out_chs, groups) for _ in range(depth - 1))
            stages.append(nn.Sequential(*units))
            chs = out_chs
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(chs, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))  # (N, C, H / 32, W / 32)
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


class ChannelShuffle(nn.Module):
    """Deal the channels of each group out over all groups.

    Shapes: (N, C, H, W) -> (N, C, H, W). Plain reshaping, which every runtime has.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n, self.groups, c // self.groups, h, w)  # (N, G, C/G, H, W)
        return x.transpose(1, 2).reshape(n, c, h, w)


class ShuffleUnit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; its result is added to the input.

    Shapes: (N, in_chs, H, W) -> (N, out_chs, ceil(H / stride), ceil(W / stride)). With stride 2
    the input is average-pooled and set beside the result instead, which has the channels that
    are left.
    """

    def __init__(
        self, in_chs: int, out_chs: int, groups: int, *, stride: int = 1, grouped_in: bool = True
    ) -> None:
        super().__init__()
        hidden = out_chs // 4
        branch = out_chs - in_chs if stride == 2 else out_chs
        self.body = nn.Sequential(
            conv_bn(in_chs, hidden, 1, groups=groups if grouped_in else 1, act="relu"),
            ChannelShuffle(groups),
            conv_bn(hidden, hidden, 3, stride=stride, groups=hidden),
            conv_bn(hidden, branch, 1, groups=groups),
        )
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        y = x + y if self.pool is None else torch.cat([self.pool(x), y], dim=1)
        return y.relu()
