"""What the attention modules of a network do to a picture, measured on what goes in and out."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor, nn

from nasattn.attention import ATTENTIONS
from nasattn.errors import EvaluationError
from nasattn.explain.grad_cam import at_rest, checked
from nasattn.layers import Blend

ROUNDS = 30  # of the two halves of a fit in turn
LEAKS = 1e-6  # of the largest input: what comes out of a zero is more than rounding


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """What one attention module did to each of N pictures.

    Where it gates (`adds` is false: what is zero stays zero) its output is about x * c * s, with
    a factor c a channel and a map s: `channels` (N, C) is c times the mean of s, `spatial`
    (N, h, w) s times the mean of c. Both read as the mean factor there: 1 changes nothing.
    `fitted` (N,) is the share of the output's energy that x * c * s accounts for: 1 for a channel
    gate, a spatial gate, and one after the other.

    Where it adds to its input (`nl`, `gc`, and `lgam` from group to group) a factor says little.
    `channels` and `spatial` are then how large the change |y - x| is there, beside the root mean
    square of the input: 0 changes nothing.
    """

    name: str
    kind: str
    adds: bool
    channels: Tensor
    spatial: Tensor
    fitted: Tensor


def attention_maps(model: nn.Module, pictures: Tensor) -> list[AttentionMap]:
    """A row an attention module of nasattn's, or of a plug-in, in the order of their calls.

    Pictures (N, C, H, W) are normalised already. A module made of others (LAM) is one row, and so
    is one with the blend that makes it weaker; of a module that is called several times, its last
    call counts. The network works in eval mode, and is left as it was.
    """
    rows: dict[str, AttentionMap] = {}

    def note(name: str, kind: str, module: nn.Module, inputs: tuple[Tensor], y: Tensor) -> None:
        rows.pop(name, None)
        x = inputs[0].detach()
        rows[name] = measured(name, kind, module, x, y.detach())

    handles = []
    with at_rest(model):
        try:
            for name, kind, module in attention_modules(model):
                handles.append(module.register_forward_hook(partial(note, name, kind)))
            with torch.no_grad():
                checked(model(pictures))
        finally:
            for handle in handles:
                handle.remove()
    return list(rows.values())


def attention_modules(model: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """(name, kind, module) of the attention modules that stand in no other one."""
    kinds = {row.target: kind for kind, row in ATTENTIONS.items()}
    found: list[str] = []
    for name, module in model.named_modules():
        inner = module.attention if isinstance(module, Blend) else module
        target = f"{type(inner).__module__}:{type(inner).__qualname__}"
        if target in kinds and not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
            yield name, kinds[target], module


def measured(name: str, kind: str, module: nn.Module, x: Tensor, y: Tensor) -> AttentionMap:
    """A module's row, from its input and output (N, C, h, w)."""
    if x.dim() != 4 or x.shape != y.shape:
        raise EvaluationError(f"attention {name!r}: must be (N, C, h, w) -> the same shape")
    adds = leaks(module, x[:1])
    channels, spatial, fitted = fit_gate(x, y)
    if adds:
        channels, spatial = changes(x, y)
    return AttentionMap(name, kind, adds, channels, spatial, fitted)


def leaks(module: nn.Module, x: Tensor) -> bool:
    """Whether something comes out where nothing goes in: then the module is no gate.

    A random half of the numbers of x is set to zero for this, the same half every time. The hooks
    of the module are not called.
    """
    blank = (torch.rand(x.shape, generator=Generator().manual_seed(0)) < 0.5).to(x.device)
    y = module.forward(x.masked_fill(blank, 0))
    left = torch.where(blank, y, 0).abs().amax()
    return bool(left > LEAKS * x.abs().amax())


def fit_gate(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """c, s and the share they account for: the least of sum (y - x c s)^2, half by half in turn.

    A number counts by the energy of its input, so that zeros, at which any factor would do, say
    nothing; a channel or a pixel with no input at all gets the mean of the others.
    """
    weight, product = x.square(), x * y
    c = x.new_ones(x.shape[0], x.shape[1], 1, 1)
    s = x.new_ones(x.shape[0], 1, *x.shape[2:])
    for _ in range(ROUNDS):
        c = ratio((product * s).sum((2, 3), True), (weight * s.square()).sum((2, 3), True))
        s = ratio((product * c).sum(1, True), (weight * c.square()).sum(1, True))
    left = (y - x * c * s).square().sum((1, 2, 3))
    energy = y.square().sum((1, 2, 3))
    fitted = torch.where(energy > 0, 1 - left / energy.clamp(min=1e-30), 1.0)
    return (c * s.mean((2, 3), True)).flatten(1), (s * c.mean(1, True)).flatten(1, 2), fitted


def ratio(above: Tensor, below: Tensor) -> Tensor:
    """above / below; where below is nothing, the mean of the rest of the picture's, or 1."""
    known = below > 1e-12 * below.amax((1, 2, 3), keepdim=True)
    values = torch.where(known, above / below.where(known, torch.ones_like(below)), 0.0)
    n_known = known.sum((1, 2, 3), keepdim=True)
    mean = values.sum((1, 2, 3), keepdim=True) / n_known.clamp(min=1)
    return torch.where(known, values, torch.where(n_known > 0, mean, 1.0))


def changes(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean square of y - x a channel (N, C) and a pixel (N, h, w), over that of x."""
    size = x.square().mean((1, 2, 3)).sqrt().clamp(min=1e-30)  # (N,)
    change = (y - x).square()
    channels = change.mean((2, 3)).sqrt() / size[:, None]
    return channels, change.mean(1).sqrt() / size[:, None, None]
