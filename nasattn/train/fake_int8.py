"""Quantisation-aware training: the forward pass rounds as int8 does, the weights stay floats.

Sources: Jacob et al., CVPR 2018, section 3; Krishnamoorthi, 2018 (weights by output channel).
Rounded is what ONNX Runtime's static quantisation rounds, where an operator takes it: the weights
of convolutions and linear layers, the maps that they, sums, products, poolings and sigmoids take,
and the logits. Not simulated: biases in int32, a module's own parameters in products, operators
that ONNX makes of one of torch (the inside of a hard swish), and ranges by entropy, which an export
may choose.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LAYERS = frozenset({"conv1d", "conv2d", "linear"})  # (input, weight, ...)
TAKES = frozenset(  # operators, by torch's names, whose tensors are rounded first
    {"add", "add_", "mul", "mul_", "matmul", "bmm", "cat", "stack", "sum", "mean", "amax"}
    | {"avg_pool2d", "adaptive_avg_pool2d", "sigmoid", "hardsigmoid", "softmax"}
    | {"silu", "hardswish"}
)
MOMENTUM = 0.05  # of a new batch in the range of a map
TINY = 1e-12  # a scale, where all is 0


class Ranges:
    """Lowest and highest value of each rounded map, as a moving average over training batches."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}  # place -> (2,)

    def follow(self, place: str, x: Tensor) -> None:
        """Let a batch act on the range, which always holds 0."""
        x = x.detach()
        now = torch.stack((x.amin().clamp(max=0), x.amax().clamp(min=0)))  # (2,)
        before = self.found.get(place)
        self.found[place] = now if before is None else before.to(now).lerp(now, MOMENTUM)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.found)

    def load_state_dict(self, state_dict: Any) -> None:
        self.found = dict(state_dict)


class FakeInt8(nn.Module):
    """A network that answers as its int8 export would; the network itself is left as it is.

    Shapes: as the network's. In training mode it follows the ranges of maps, in eval mode it
    keeps to them; a map that no training batch has had is not rounded.
    """

    def __init__(self, model: nn.Module, ranges: Ranges) -> None:
        super().__init__()
        self.model = model
        self.ranges = ranges
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}

    def forward(self, x: Tensor) -> Tensor:
        with Rounding(self.names, self._round_map):
            y: Tensor = self.model(x)
        return self._round_map("output", y)

    def _round_map(self, place: str, x: Tensor) -> Tensor:
        if self.training:
            self.ranges.follow(place, x)
        found = self.ranges.found.get(place)
        return x if found is None else round_map(x, found)


class Rounding(TorchFunctionMode):
    """Rounds what operators take, whoever calls them: modules, functions, or a plus sign.

    A map is known by the layer that ran last before it and how many maps there were since.
    """

    def __init__(self, names: dict[int, str], round_map: Callable[[str, Tensor], Tensor]) -> None:
        super().__init__()
        self.names, self.round_map = names, round_map
        self.layer, self.count = "input", 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, named = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in LAYERS:
            args += tuple(named.pop(key) for key in ("input", "weight")[len(args) :])
            x, weight, *others = args
            if isinstance(weight, nn.Parameter):
                self.layer, self.count = self.names.get(id(weight), "other"), 0
                args = (self._rounded(x), round_weight(weight), *others)
            else:
                args = (self._rounded(x), self._rounded(weight), *others)
        elif name in ("add_", "mul_") and is_map(args[0]):
            args[0].copy_(self._rounded(args[0]))
            args = (args[0], *map(self._rounded, args[1:]))
        elif name in TAKES:
            args = tuple(map(self._rounded, args))
        return func(*args, **named)

    def _rounded(self, x: Any) -> Any:
        if isinstance(x, list | tuple):
            return type(x)(map(self._rounded, x))
        if not is_map(x):
            return x
        self.count += 1
        return self.round_map(f"{self.layer}/{self.count}", x)


def is_map(x: Any) -> bool:
    """Whether something is a tensor of floats by picture; vectors and parameters are not."""
    return (
        isinstance(x, Tensor)
        and x.is_floating_point()
        and x.ndim > 1
        and x.numel() > 0
        and not isinstance(x, nn.Parameter)
    )


def round_weight(weight: Tensor) -> Tensor:
    """Weights (out, ...) as int8 by output channel: w -> s round(w / s), s = max|w| / 127.

    It commutes with folding a batch norm into its convolution: folding multiplies an output
    channel by a number, which multiplies its s, too. So training folds nothing.
    """
    scale = (weight.detach().abs().flatten(1).amax(1) / 127).clamp(min=TINY)  # (out,)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


def round_map(x: Tensor, ends: Tensor) -> Tensor:
    """A map as uint8 between two ends (2,), its zero exact; beyond them it is cut.

    The gradient passes straight through. (It does so in torch's fake_quantize_per_tensor_affine,
    too, but for what is cut, which takes ten times as long.)
    """
    low, high = ends.to(x.device)
    scale = ((high - low) / 255).clamp(min=TINY)
    zero = (-low / scale).round()
    with torch.no_grad():
        rounded = (x / scale).round_().add_(zero).clamp_(0, 255).sub_(zero).mul_(scale)
        error: Tensor = rounded.sub_(x)
    return x + error
