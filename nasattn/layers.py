"""The layers that networks are made of, but for attention."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nasattn.arch import AttentionSpec, Placement, StageSpec
from nasattn.attention import build_attention

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "hard_swish": lambda: nn.Hardswish(inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
}


def conv_bn(
    in_chs: int,
    out_chs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    act: str | None = None,
) -> nn.Sequential:
    """Convolution (He initialisation, no bias), batch norm and, if named, an activation.

    Shapes: (N, in_chs, H, W) -> (N, out_chs, ceil(H / stride), ceil(W / stride)).
    """
    conv = nn.Conv2d(
        in_chs, out_chs, kernel, stride, padding=kernel // 2, groups=groups, bias=False
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return nn.Sequential(conv, nn.BatchNorm2d(out_chs), *([ACTIVATIONS[act]()] if act else []))


def attention_at(place: Placement, spec: AttentionSpec, channels: int) -> list[nn.Module]:
    """The attention module in a list where `spec` puts one at `place`, else no module."""
    if spec.kind == "none" or spec.placement != place:
        return []
    return [build_attention(spec.kind, channels, **spec.options)]


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise k x k, project 1x1 without activation, shortcut where shapes allow.

    Shapes: (N, in_chs, H, W) -> (N, width, ceil(H / stride), ceil(W / stride)).
    Source: Sandler et al., CVPR 2018. No expansion layer where expansion is 1.
    """

    def __init__(self, in_chs: int, stage: StageSpec, *, stride: int, act: str) -> None:
        super().__init__()
        hidden = stage.hidden_width(in_chs)
        self.body = nn.Sequential(
            *([conv_bn(in_chs, hidden, 1, act=act)] if stage.expansion != 1 else []),
            conv_bn(hidden, hidden, stage.kernel, stride=stride, groups=hidden, act=act),
            *attention_at("after_spatial", stage.attention, hidden),
            conv_bn(hidden, stage.width, 1),
            *attention_at("before_add", stage.attention, stage.width),
        )
        self.has_shortcut = stride == 1 and in_chs == stage.width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.has_shortcut else y


class GeM(nn.Module):
    """Generalised mean pooling: (mean_hw(max(x, eps)^p))^(1/p).

    Shapes: (N, C, H, W) -> (N, C). p = 1 is the mean, a growing p comes near the maximum.
    Source: Radenovic et al., TPAMI 2019; paper 003, equation (4).
    """

    def __init__(self, p: float = 3.0, *, learnable: bool = False, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(float(p))) if learnable else float(p)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.clamp(min=self.eps)
        # eps^p leaves float32 from p = 7 on. The mean is homogeneous: scale each map by its top
        # (a constant to the gradient, which stays exact) and the mean is never below 1 / HW.
        top = x.amax((2, 3), keepdim=True).detach()  # (N, C, 1, 1)
        return (x / top).pow(self.p).mean((2, 3)).pow(1 / self.p) * top.flatten(1)


class MeanPool(nn.Module):
    """Global average pooling: (N, C, H, W) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class AdaptiveFeatureFusion(nn.Module):
    """Fusion of two maps: alpha P_l(pool(low)) + beta P_h(high) [+ gamma W(P_l + P_h)].

    Shapes: low (N, low_chs, sH, sW), high (N, high_chs, H, W) -> (N, high_chs, H, W).
    Source: paper 000, section 3.3. P_l, P_h and W are 1x1 convolutions with batch norm; the
    scalars start at 1. The paper's Table 3 counts two terms for "+AFF" and three for "full". It
    names no activation: the result has both signs, of which GeM keeps the positive one.
    """

    def __init__(self, low_chs: int, high_chs: int, *, stride: int = 2, terms: int = 3) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
        self.low = conv_bn(low_chs, high_chs, 1)
        self.high = conv_bn(high_chs, high_chs, 1)
        self.both = conv_bn(high_chs, high_chs, 1) if terms == 3 else None
        self.weights = nn.Parameter(torch.ones(terms))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        low = self.low(self.pool(low))  # (N, high_chs, H, W)
        high = self.high(high)
        fused: Tensor = self.weights[0] * low + self.weights[1] * high
        return fused if self.both is None else fused + self.weights[2] * self.both(low + high)
