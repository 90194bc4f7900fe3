"""Operators with own gradients, most of them on own kernels: layers' and attention's."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import conv2d

from nasattn.train.fast.library import Kernels

ACTS: dict[type[nn.Module], int] = {nn.Identity: 0, nn.ReLU: 1, nn.ReLU6: 2, nn.Hardswish: 3}
KERNELS = (5, 7)  # of depthwise convolutions: torch's gradients of 3x3 ones are as fast
# Channels of 3x3 convolutions: multiples of what a register holds, up to what stays in the cache.
WIDTHS = range(16, 128 + 1, 16)


def suits(x: Tensor, order: torch.memory_format = torch.channels_last) -> bool:
    """Whether kernels take a map: float32 on the processor, in this order in memory.

    None under autocast, by which torch's part of an operator may come out in another type.
    """
    return (
        not torch.is_autocast_enabled("cpu")
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.dim() == 4
        and x.numel() > 0
        and x.is_contiguous(memory_format=order)
    )


def _once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuses a second derivative; torch's once_differentiable can take it for zero in silence."""

    @wraps(backward)
    def checked(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("own kernels have no second derivatives (create_graph=True)")
        return backward(ctx, *grads)

    return checked


def last(x: Tensor) -> Tensor:
    """Channels last in memory, for kernels."""
    return x.contiguous(memory_format=torch.channels_last)


class NormAct(Function):
    """act(batch norm(x)) by the batch's own mean and variance, which are given as well.

    Shapes: (N, C, H, W) -> (N, C, H, W), mean (C,), biased variance (C,) in float64.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, act: int, kernels: Kernels
    ) -> tuple[Tensor, Tensor, Tensor]:
        chs = x.shape[1]
        y, mean, invstd = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        variance = torch.empty(chs, dtype=torch.float64)
        kernels.norm_forward(
            *(x.data_ptr(), x.numel() // chs, chs, weight.data_ptr(), bias.data_ptr(), eps, act),
            *(y.data_ptr(), mean.data_ptr(), invstd.data_ptr(), variance.data_ptr()),
        )
        ctx.save_for_backward(x, weight, bias, mean, invstd)
        ctx.act, ctx.kernels = act, kernels
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @_once
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, invstd = ctx.saved_tensors
        chs, dy = x.shape[1], last(dy)
        dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        ctx.kernels.norm_backward(
            *(dy.data_ptr(), x.data_ptr(), x.numel() // chs, chs, weight.data_ptr()),
            *(bias.data_ptr(), mean.data_ptr(), invstd.data_ptr(), ctx.act),
            *(dx.data_ptr(), dweight.data_ptr(), dbias.data_ptr()),
        )
        return dx, dweight, dbias, None, None, None


class Mean(Function):
    """The mean over some dimensions, kept; its gradient is channels last as the map is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dims: tuple[int, ...]) -> Tensor:
        y = x.mean(dims, keepdim=True)
        ctx.shape, ctx.share = x.shape, y.numel() / x.numel()
        return y

    @staticmethod
    @_once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        dx = torch.empty(ctx.shape, dtype=dy.dtype, memory_format=torch.channels_last)
        return dx.copy_(dy * ctx.share), None


class Top(Function):
    """The highest channel of each pixel; those that are as high share the gradient.

    Shapes: (N, C, H, W) -> (N, 1, H, W).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Kernels) -> Tensor:
        n, chs, h, w = x.shape
        top = x.new_empty((n, 1, h, w))
        kernels.top_forward(x.data_ptr(), top.numel(), chs, top.data_ptr())
        ctx.save_for_backward(x, top)
        ctx.kernels = kernels
        return top

    @staticmethod
    @_once
    def backward(ctx: Any, dtop: Tensor) -> tuple[Tensor, None]:
        (x, top), dtop = ctx.saved_tensors, dtop.contiguous()
        dx = torch.empty_like(x)
        ctx.kernels.top_backward(
            *(dtop.data_ptr(), top.data_ptr(), x.data_ptr(), top.numel(), x.shape[1]),
            dx.data_ptr(),
        )
        return dx, None


class Gate(Function):
    """A map times a gate for each channel (N, C, 1, 1) or each pixel (N, 1, H, W) of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, kernels: Kernels) -> Tensor:
        ctx.save_for_backward(x, gate)
        ctx.kernels = kernels
        return x * gate

    @staticmethod
    @_once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        (x, gate), dy = ctx.saved_tensors, last(dy)
        (n, chs, h, w), factors = x.shape, gate.contiguous()
        dx, dgate = torch.empty_like(x), gate.new_empty(gate.shape)
        # Of one channel, a gate of (N, 1, 1, 1) is one for each channel.
        per_pixel = gate.shape != (n, chs, 1, 1)
        ctx.kernels.gate_backward(
            *(dy.data_ptr(), x.data_ptr(), factors.data_ptr(), n, h * w, chs),
            *(per_pixel, dx.data_ptr(), dgate.data_ptr()),
        )
        return dx, dgate, None


class Depthwise(Function):
    """A depthwise convolution; torch's forward, own gradients.

    Shapes: x (N, C, H, W), weight (C, 1, K, K), K of KERNELS, padding K // 2.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, kernels: Kernels) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.kernels = stride, kernels
        return conv2d(x, weight, None, stride, weight.shape[2] // 2, groups=len(weight))

    @staticmethod
    @_once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (n, chs, h, w), dy = x.shape, last(dy)
        taps = weight.contiguous()  # a name keeps what a kernel reads
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        dweight = weight.new_empty(weight.shape)
        ctx.kernels.depthwise_backward(
            *(dy.data_ptr(), x.data_ptr(), taps.data_ptr(), n, h, w, chs),
            *(weight.shape[2], ctx.stride, None if dx is None else dx.data_ptr()),
            dweight.data_ptr(),
        )
        return dx, dweight, None, None


class Planar(Function):
    """A depthwise convolution of stride 1 of a map with channels first, as few channels have it.

    Shapes: x (N, C, H, W), weight (C, 1, K, K), K of KERNELS, padding K // 2.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, kernels: Kernels) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.kernels = kernels
        return _planar(x, weight, kernels)

    @staticmethod
    @_once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), kernels, dy = ctx.saved_tensors, ctx.kernels, dy.contiguous()
        dx = _planar(dy, weight, kernels, turned=True) if ctx.needs_input_grad[0] else None
        dweight = weight.new_empty(weight.shape)
        kernels.planar_weight(
            *(dy.data_ptr(), x.data_ptr(), *x.shape, weight.shape[2], dweight.data_ptr())
        )
        return dx, dweight, None


def _planar(x: Tensor, weight: Tensor, kernels: Kernels, *, turned: bool = False) -> Tensor:
    """The convolution; `turned`: the gradient of its input, x being that of its output."""
    y, taps = x.new_empty(x.shape), weight.contiguous()
    kernels.planar(x.data_ptr(), taps.data_ptr(), *x.shape, weight.shape[2], turned, y.data_ptr())
    return y


class Dense(Function):
    """A 3x3 convolution of stride 1 and padding 1 by Winograd's transform.

    Shapes: x (N, in_chs, H, W), weight (out_chs, in_chs, 3, 3), both channels of WIDTHS.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, kernels: Kernels) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.kernels = kernels
        return _dense(x, weight, kernels)

    @staticmethod
    @_once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), kernels, dy = ctx.saved_tensors, ctx.kernels, last(dy)
        (n, in_chs, h, w), out_chs = x.shape, len(weight)
        dx = _dense(dy, weight, kernels, turned=True) if ctx.needs_input_grad[0] else None
        dweight = weight.new_empty(weight.shape)
        kernels.dense_weight(
            *(dy.data_ptr(), x.data_ptr(), n, h, w, in_chs, out_chs, dweight.data_ptr())
        )
        return dx, dweight, None


def _dense(x: Tensor, weight: Tensor, kernels: Kernels, *, turned: bool = False) -> Tensor:
    """The convolution; `turned`: the gradient of its input, x being that of its output."""
    n, in_chs, h, w = x.shape
    out_chs = weight.shape[1 if turned else 0]
    y = torch.empty((n, out_chs, h, w), dtype=x.dtype, memory_format=torch.channels_last)
    filters = weight.contiguous()
    kernels.dense_forward(
        *(x.data_ptr(), filters.data_ptr(), n, h, w, in_chs, out_chs, turned),
        y.data_ptr(),
    )
    return y
