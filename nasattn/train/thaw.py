"""Frozen stages: a network that brings weights thaws from its last layer to its first."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from nasattn.train.recipe import Recipe


def trained_parts(n_parts: int, epoch: int, recipe: Recipe) -> int:
    """How many of a network's parts are trained in an epoch (from 1), counted from the last."""
    thawing = epoch - recipe.head_epochs
    if thawing <= 0:
        return 1
    if thawing >= recipe.thaw_epochs:
        return n_parts
    return 1 + -(-(n_parts - 1) * thawing // recipe.thaw_epochs)


def parts_of(model: nn.Module) -> list[nn.Module]:
    """What a network is made of from first to last: its children, and those of its sequences."""
    parts: list[nn.Module] = []
    for child in model.children():
        parts += child.children() if isinstance(child, nn.Sequential | nn.ModuleList) else [child]
    return parts


@contextmanager
def thawing(model: nn.Module, recipe: Recipe) -> Iterator[Callable[[int], None]]:
    """Gives what puts the network into training mode for an epoch, as far as it has thawed.

    Frozen parts get no gradient, so that no weight decay moves them either, and are in eval mode:
    their batch norms keep their statistics. In the end all is as free as it was.
    """
    parts = [part for part in parts_of(model) if any(True for _ in part.parameters())]
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def begin(epoch: int) -> None:
        model.train()
        n_frozen = len(parts) - trained_parts(len(parts), epoch, recipe)
        trained = {id(p) for part in parts[n_frozen:] for p in part.parameters()}
        for part in parts[:n_frozen]:
            part.eval()
        for parameter in free:
            parameter.requires_grad_(n_frozen <= 0 or id(parameter) in trained)

    try:
        yield begin
    finally:
        for parameter in free:
            parameter.requires_grad_(True)
