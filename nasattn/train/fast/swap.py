"""Lets a network train on own kernels for a while; its layers and weights stay what they are."""

import ctypes
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from nasattn.train.fast.functions import OwnFunctions
from nasattn.train.fast.library import Kernels, load_kernels
from nasattn.train.fast.operators import (
    ACTS,
    KERNELS,
    WIDTHS,
    Dense,
    Depthwise,
    NormAct,
    Planar,
    suits,
)

Forward = Callable[[Tensor], Tensor]
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


@contextmanager
def own_kernels(model: nn.Module) -> Iterator[bool]:
    """Within, layers of the network use own kernels where those are faster; whether any does.

    So do the functions that attention is made of (see OwnFunctions); the answer is of layers alone.

    One thread on a processor, float32, channels last: all else is left to torch, and so are
    subclasses of its layers. What comes out differs from torch by rounding alone. A copy that is
    made of the network within computes with the network's own weights.
    """
    kernels = load_kernels() if torch.get_num_threads() == 1 else None
    swapped = dict(_swaps(model, kernels)) if kernels else {}
    swapped = {layer: own for layer, own in swapped.items() if "forward" not in vars(layer)}
    for layer, forward in swapped.items():
        layer.forward = forward
    try:
        with OwnFunctions(kernels) if kernels else nullcontext():
            yield bool(swapped)
    finally:
        for layer in swapped:
            del layer.forward


def keep_memory() -> None:
    """Let freed memory of this process be used again instead of given back, where libc can.

    A map of many MB would otherwise be given back after each layer, and every page of the next
    one be asked for anew: a fifth to a third of a training's time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, 2**30)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _swaps(model: nn.Module, kernels: Kernels) -> Iterator[tuple[nn.Module, Forward]]:
    """Layers, and what they do instead. An activation is done by the batch norm before it."""
    followed: dict[nn.Module, nn.Module] = {}  # batch norm -> the activation behind it
    places = Counter(part for _, part in model.named_modules(remove_duplicate=False))
    for part in model.modules():
        if type(part).forward is nn.Sequential.forward:
            for norm, act in pairwise(part.children()):
                once = places[norm] == places[act] == 1
                if once and ACTS.get(type(act)) and _alone(norm, act):
                    followed[norm] = act
    for part in model.modules():
        if type(part) is nn.BatchNorm2d and _is_usual(part) and _alone(part):
            yield part, _norm(part, followed.get(part), kernels)
            if part in followed:
                yield followed[part], lambda x: x
        elif type(part) is nn.Conv2d and _alone(part):
            if _is_depthwise(part):
                yield part, _conv(part, partial(_depthwise, part, kernels))
            elif _is_dense(part):
                yield part, _conv(part, partial(_dense, part, kernels))


def _alone(*parts: nn.Module) -> bool:
    """Whether nobody looks at what these layers give."""
    return not any(part._forward_hooks or part._forward_pre_hooks for part in parts)


def _is_usual(norm: nn.BatchNorm2d) -> bool:
    return norm.affine and norm.track_running_stats and norm.momentum is not None


def _is_plain(conv: nn.Conv2d) -> bool:
    """Whether it keeps the size of a map but for its stride, and has no bias."""
    kernel, stride = conv.kernel_size, conv.stride
    return (
        kernel[0] == kernel[1]
        and stride[0] == stride[1]
        and conv.padding == (kernel[0] // 2,) * 2
        and conv.padding_mode == "zeros"
        and conv.dilation == (1, 1)
        and conv.bias is None
    )


def _is_depthwise(conv: nn.Conv2d) -> bool:
    per_channel = conv.groups == conv.in_channels == conv.out_channels
    return per_channel and conv.kernel_size[0] in KERNELS and _is_plain(conv)


def _is_dense(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size[0] == 3
        and conv.stride == (1, 1)
        and conv.groups == 1
        and conv.in_channels in WIDTHS
        and conv.out_channels in WIDTHS
        and _is_plain(conv)
    )


def _norm(norm: nn.BatchNorm2d, act: nn.Module | None, kernels: Kernels) -> Forward:
    code = ACTS[type(act)] if act else 0
    plain_norm = type(norm).forward
    plain_act = type(act).forward if act else None

    def forward(x: Tensor) -> Tensor:
        n = x.numel() // x.shape[1]
        floats = norm.weight.dtype == torch.float32
        if not (norm.training and suits(x) and floats and n > 1):  # torch says what is wrong
            y: Tensor = plain_norm(norm, x)
            return y if plain_act is None else plain_act(act, y)
        y, mean, variance = NormAct.apply(x, norm.weight, norm.bias, norm.eps, code, kernels)
        _remember(norm, mean, variance, n)
        return y

    return forward


@torch.no_grad()
def _remember(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, n: int) -> None:
    """Move the running statistics, the variance as that of a sample, as torch does."""
    assert norm.running_mean is not None  # _is_usual
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    share = norm.momentum or 0.0
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_((variance * (n / (n - 1))).float(), share)


def _conv(conv: nn.Conv2d, own: Callable[[Tensor], Tensor | None]) -> Forward:
    plain = type(conv).forward

    def forward(x: Tensor) -> Tensor:
        floats = conv.weight.dtype == torch.float32
        y = own(x) if conv.training and floats else None
        return plain(conv, x) if y is None else y

    return forward


def _depthwise(conv: nn.Conv2d, kernels: Kernels, x: Tensor) -> Tensor | None:
    y: Tensor | None = None
    if suits(x):
        y = Depthwise.apply(x, conv.weight, conv.stride[0], kernels)
    elif suits(x, torch.contiguous_format) and conv.stride == (1, 1):
        y = Planar.apply(x, conv.weight, kernels)
    return y


def _dense(conv: nn.Conv2d, kernels: Kernels, x: Tensor) -> Tensor | None:
    y: Tensor | None = Dense.apply(x, conv.weight, kernels) if suits(x) else None
    return y
