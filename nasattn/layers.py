"""The layers that networks are made of, but for attention."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from nasattn.attention import build_attention
from nasattn.parts import AttentionSpec, BareAttention, Placement

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "hard_swish": lambda: nn.Hardswish(inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
}


def chain(**parts: nn.Module | None) -> nn.Sequential:
    """The parts that there are, one after the other, under their names.

    A part more or less does not rename the others: networks that differ in it share their weights.
    """
    return nn.Sequential(OrderedDict((k, part) for k, part in parts.items() if part is not None))


def he_conv(
    in_chs: int,
    out_chs: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    dilation: int = 1,
    bias: bool = False,
) -> nn.Conv2d:
    """Convolution of He initialisation that, without a stride, keeps the size of the map.

    Shapes: (N, in_chs, H, W) -> (N, out_chs, ceil(H / stride), ceil(W / stride)).
    """
    padding = dilation * (kernel // 2) if padding is None else padding
    conv = nn.Conv2d(
        in_chs, out_chs, kernel, stride, padding, dilation=dilation, groups=groups, bias=bias
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def conv_bn(
    in_chs: int,
    out_chs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    act: str | None = None,
) -> nn.Sequential:
    """Convolution without bias, batch norm and, if named, an activation.

    Shapes: (N, in_chs, H, W) -> (N, out_chs, ceil(H / stride), ceil(W / stride)).
    """
    conv = he_conv(in_chs, out_chs, kernel, stride=stride, groups=groups, dilation=dilation)
    return nn.Sequential(conv, nn.BatchNorm2d(out_chs), *([ACTIVATIONS[act]()] if act else []))


def conv_norm_act(
    in_chs: int,
    out_chs: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    norm: str = "batch",
    act: str,
    attention: nn.Module | None = None,
) -> nn.Sequential:
    """Convolution, batch norm (or a bias), activation, attention, and LRN if it is the norm.

    Shapes: (N, in_chs, H, W) -> (N, out_chs, H', W'). Local response normalisation has the
    constants of Krizhevsky et al., NIPS 2012, section 3.3, whose alpha is over a sum: torch
    divides its own by the five channels.
    """
    bias = norm != "batch"
    conv = he_conv(
        in_chs, out_chs, kernel, stride=stride, padding=padding, groups=groups, bias=bias
    )
    return chain(
        conv=conv,
        norm=nn.BatchNorm2d(out_chs) if norm == "batch" else None,
        act=ACTIVATIONS[act](),
        attention=attention,
        lrn=nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2) if norm == "lrn" else None,
    )


def round_width(width: float, divisor: int, least: int) -> int:
    """The nearest multiple of `divisor` from `least` on, and no less than nine tenths of `width`.

    The rule of MobileNet's authors, which timm's networks follow.
    """
    nearest = max(least, int(width + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * width else nearest


def attention_of(spec: BareAttention, channels: int) -> nn.Module | None:
    """The attention module that `spec` asks for, if any."""
    return None if spec.kind == "none" else build_attention(spec.kind, channels, **spec.options)


def attention_at(
    place: Placement, spec: AttentionSpec, channels: int, strength: float = 1.0
) -> nn.Module | None:
    """The attention module where `spec` puts one at `place`."""
    module = attention_of(spec, channels) if spec.placement == place else None
    return Blend(module, strength) if module is not None and strength != 1 else module


class Blend(nn.Module):
    """Attention of some strength s: x + s (attention(x) - x). Shapes: as those of the module."""

    def __init__(self, attention: nn.Module, strength: float) -> None:
        super().__init__()
        self.attention = attention
        self.strength = strength

    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(x, self.attention(x), self.strength)


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
        # The bounds change nothing here; in int8 a faint map has a top of 0, or one above it.
        share = (x / top.clamp(min=self.eps)).clamp(max=2)
        mean = share.pow(self.p).mean((2, 3)).clamp(min=self.eps)
        return mean.pow(1 / self.p) * top.flatten(1)


class MeanPool(nn.Module):
    """Global average pooling: (N, C, H, W) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class GridPool(nn.Module):
    """AlexNet's end: 3x3 max pooling with stride 2, then all of a map of `side` x `side` pixels.

    Shapes: (N, C, H, W) -> (N, C side^2). Maps of another size are averaged to the grid, cell by
    cell as adaptive average pooling does it, but in operators that ONNX has.
    Source: Krizhevsky et al., NIPS 2012; torchvision's AlexNet has the same grid.
    """

    def __init__(self, side: int = 6) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) > 1:
            x = max_pool2d(x, 3, stride=2, ceil_mode=True)
        if tuple(x.shape[2:]) != (self.side, self.side):
            rows, columns = (self._cells(n) for n in x.shape[2:])
            cells = [x[:, :, r, c].mean((2, 3)) for r in rows for c in columns]  # each (N, C)
            return torch.stack(cells, 2).flatten(1)  # (N, C side^2)
        return x.flatten(1)

    def _cells(self, n: int) -> list[slice]:
        """The pixels that each cell of the grid covers, of `n` in a row."""
        side = self.side  # no negative numbers: ONNX rounds their quotients towards zero
        return [slice(i * n // side, ((i + 1) * n + side - 1) // side) for i in range(side)]


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

    def forward(self, lows: Sequence[Tensor], high: Tensor) -> Tensor:
        (low,) = lows
        low = self.low(pooled_to(high, self.pool(low)))  # (N, high_chs, H, W)
        high = self.high(high)
        fused: Tensor = self.weights[0] * low + self.weights[1] * high
        return fused if self.both is None else fused + self.weights[2] * self.both(low + high)


class MultiScaleFusion(nn.Module):
    """Attention in parallel on maps of several strides, added up at the last one's size.

    y = a_0(high) + sum_i P_i(pool(a_i(low_i))), with an attention a of its own for each map and
    P_i a 1x1 convolution with batch norm.

    Shapes: lows (N, C_i, s_i H, s_i W), high (N, high_chs, H, W) -> (N, high_chs, H, W).
    Source: paper 004's outlook ("parallel multi-scale attention fusion"); the design is ours.
    """

    def __init__(
        self, low_chs: Sequence[int], strides: Sequence[int], high_chs: int, spec: BareAttention
    ) -> None:
        super().__init__()
        self.high = chain(attention=attention_of(spec, high_chs))
        self.lows = nn.ModuleList(
            chain(
                attention=attention_of(spec, chs),
                pool=nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False),
                project=conv_bn(chs, high_chs, 1),
            )
            for chs, stride in zip(low_chs, strides, strict=True)
        )

    def forward(self, lows: Sequence[Tensor], high: Tensor) -> Tensor:
        y: Tensor = self.high(high)
        for low, branch in zip(lows, self.lows, strict=True):
            y = y + pooled_to(y, branch(low))
        return y


def pooled_to(high: Tensor, low: Tensor) -> Tensor:
    """A pooled map cut to the size of another: where strides round down it is a pixel larger."""
    return low[:, :, : high.shape[2], : high.shape[3]]
