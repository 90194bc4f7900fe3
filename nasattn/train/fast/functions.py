"""Functions of maps that attention is made of, on own kernels while a network trains."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nasattn.train.fast.library import Kernels
from nasattn.train.fast.operators import Gate, Mean, Top, suits

# Takes kernels and what the function of torch takes; None: let torch do it.
Own = Callable[..., Tensor | None]


class OwnFunctions(TorchFunctionMode):
    """Within, the functions of FUNCTIONS are done by own kernels where those suit.

    Only methods of a map are met, `x.mean((2, 3))`, `x.amax(1)` and `x * gate`, not torch.mean(x).
    Torch does a pooling's gradient as channels first, whatever the map was: every sum with it then
    goes against the order of memory.
    """

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        own = FUNCTIONS.get(func)
        if own and torch.is_grad_enabled() and type(args[0]) is Tensor and suits(args[0]):
            y = own(self.kernels, *args, **kwargs)
            if y is not None:
                return y
        return func(*args, **kwargs)


def _mean(
    _kernels: Kernels, x: Tensor, dim: Any = None, keepdim: bool = False, **other: Any
) -> Tensor | None:
    dims = _dims(dim)
    if dims not in ((1,), (2, 3)) or other:
        return None
    y: Tensor = Mean.apply(x, dims)
    return y if keepdim else y.squeeze(dims)


def _amax(
    kernels: Kernels, x: Tensor, dim: Any = (), keepdim: bool = False, **other: Any
) -> Tensor | None:
    if _dims(dim) != (1,) or other:
        return None
    y: Tensor = Top.apply(x, kernels)
    return y if keepdim else y.squeeze(1)


def _mul(kernels: Kernels, x: Tensor, other: Any) -> Tensor | None:
    if not isinstance(other, Tensor) or other.dtype != x.dtype:
        return None
    if not (x.requires_grad and other.requires_grad):  # torch keeps and computes less
        return None
    n, chs, h, w = x.shape
    if other.shape not in ((n, chs, 1, 1), (n, 1, h, w)):
        return None
    y: Tensor = Gate.apply(x, other, kernels)
    return y


def _dims(dim: Any) -> tuple[int, ...]:
    """In order, from 0 on; none where torch has to look, as at what is out of range."""
    dims = (dim,) if isinstance(dim, int) else dim
    if not isinstance(dims, tuple | list):
        return ()
    if not all(isinstance(d, int) and -4 <= d < 4 for d in dims):
        return ()
    return tuple(sorted(d % 4 for d in dims))


FUNCTIONS: dict[Callable[..., Any], Own] = {
    Tensor.mean: _mean,
    Tensor.amax: _amax,
    Tensor.mul: _mul,
}
