"""Grad-CAM: Selvaraju et al., "Grad-CAM", ICCV 2017, equations (1) and (2)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nasattn.errors import EvaluationError, UnknownNameError
from nasattn.fit import last_layer

POOLINGS = (
    nn.AvgPool2d,
    nn.MaxPool2d,
    nn.LPPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)
PASSING = (nn.Identity, nn.Dropout, nn.Dropout2d)  # what they give is another module's map
Output = object  # whatever a module gives


@dataclass(frozen=True, eq=False)
class HeatMaps:
    """Where a layer's map speaks for a class, and what the network says of the pictures.

    Shapes: maps (N, h, w), at least 0, of the layer's own size; targets (N,) int64, the classes
    that they speak for; predicted (N,) int64, those of the highest logits; probabilities
    (N, classes), the softmax of the logits.
    """

    maps: Tensor
    targets: Tensor
    predicted: Tensor
    probabilities: Tensor
    layer: str

    @property
    def scores(self) -> Tensor:
        """The probability of each target, (N,)."""
        return self.probabilities.gather(1, self.targets[:, None]).flatten()


def grad_cam(
    model: nn.Module,
    pictures: Tensor,
    *,
    target: int | Tensor | None = None,
    layer: str | None = None,
) -> HeatMaps:
    """relu(sum_k a_k A_k) with a_k the mean over space of d logit_target / d A_k.

    Pictures (N, C, H, W) are normalised already. `target` is a class, one a picture (N,), or the
    predicted ones. A is the output of the module called `layer`, by default of `last_map_layer`;
    of a module that is called several times, its last. The network works in eval mode, and is left
    as it was: its hooks, its modes, what requires a gradient, and the gradients. Raises
    EvaluationError where the network has no such map, UnknownNameError for the name of a layer.
    """
    modules = dict(model.named_modules())
    if layer is not None and layer not in modules:
        raise UnknownNameError("layer", layer, [name for name in modules if name])
    with at_rest(model):
        if layer is None:
            layer = last_map_layer(model, pictures[:1])
        kept: list[Tensor] = []  # the map

        def cut(module: nn.Module, _: object, output: Output) -> Output:
            """The graph begins at the map: what comes before it needs no gradient."""
            if not is_map(output):
                return output
            kept[:] = [output.detach().requires_grad_()]
            return kept[0].clone()  # which the next layer may change in place

        handle = modules[layer].register_forward_hook(cut)
        try:
            with torch.enable_grad():
                logits = checked(model(pictures.detach()))
        finally:
            handle.remove()
        if not kept:
            raise EvaluationError(f"layer {layer!r}: gives no map of more than one pixel")
        targets = wanted(target, logits)
        if not logits.requires_grad:
            raise EvaluationError(f"layer {layer!r}: the logits do not depend on its map")
        with torch.enable_grad():
            chosen = logits.gather(1, targets[:, None]).sum()  # a picture's logits are its own
        (gradient,) = torch.autograd.grad(chosen, kept)
    weights = gradient.mean((2, 3), keepdim=True)  # (N, K, 1, 1)
    maps = torch.relu((weights * kept[0].detach()).sum(1))  # (N, h, w)
    logits = logits.detach()
    return HeatMaps(maps, targets, logits.argmax(1), logits.softmax(1), layer)


def last_map_layer(model: nn.Module, pictures: Tensor) -> str:
    """The module that gives the last map of more than one pixel before the last layer.

    What a pooling gives does not count: the map wanted is the one that is pooled. Of modules that
    give the same map, the outermost. Raises EvaluationError where there is none.
    """
    end = next((name.rpartition(".")[0] for name in last_layer(model)), "")
    watch = Watch()
    handles = []
    try:
        for name, module in model.named_modules():
            if name == end:
                handles.append(module.register_forward_pre_hook(watch.stop))
            elif not isinstance(module, PASSING):
                handles.append(module.register_forward_hook(partial(watch.note, name)))
        with torch.no_grad():
            checked(model(pictures))
    finally:
        for handle in handles:
            handle.remove()
    if not watch.last:
        raise EvaluationError(
            "no module of the network gives a map (N, C, H, W) of more than one pixel before its"
            " last layer: Grad-CAM has nothing to show; larger pictures may leave one"
        )
    return watch.last


class Watch:
    """What a network's modules give, until its last layer is called."""

    def __init__(self) -> None:
        self.last = ""  # module
        self.pooled: list[Tensor] = []  # kept, so that no later tensor is taken for one of them
        self.ended = False

    def stop(self, *_: object) -> None:
        self.ended = True

    def note(self, name: str, module: nn.Module, _: object, output: Output) -> None:
        if self.ended or not is_map(output):
            return
        if isinstance(module, POOLINGS):
            self.pooled.append(output)
        elif not any(output is one for one in self.pooled):  # a chain that ends in a pooling
            self.last = name


def is_map(output: Output) -> TypeGuard[Tensor]:
    """Whether a module's output is (N, C, H, W) with more than one pixel."""
    return (
        isinstance(output, Tensor) and output.dim() == 4 and output.shape[2] * output.shape[3] > 1
    )


def checked(logits: Output) -> Tensor:
    """Logits (N, classes) of numbers; raises EvaluationError for anything else."""
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise EvaluationError("the network gives no logits (N, classes): it is no classifier")
    if not logits.isfinite().all():
        raise EvaluationError("the network's outputs are not numbers")
    return logits


def wanted(target: int | Tensor | None, logits: Tensor) -> Tensor:
    """A class a picture, (N,); raises EvaluationError for one that the network has not."""
    n, n_classes = logits.shape
    if target is None:
        return logits.detach().argmax(1)
    targets = torch.as_tensor(target, dtype=torch.int64, device=logits.device).expand(n)
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < n_classes:
        raise EvaluationError(f"target: must be a class from 0 to {n_classes - 1}")
    return targets


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """The model in eval mode with no parameter that requires a gradient; after that as it was."""
    modes = {module: module.training for module in model.modules()}
    required: Mapping[nn.Parameter, bool] = {p: p.requires_grad for p in model.parameters()}
    try:
        model.eval()
        model.requires_grad_(False)
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, flag in required.items():
            parameter.requires_grad_(flag)


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, h, w) at the size of the pictures, bilinear: (N, H, W)."""
    return interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
