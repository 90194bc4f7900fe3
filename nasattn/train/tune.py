"""Tune: by which way of computing a network trains fastest on a device, found out by training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from torch import nn

from nasattn.data import ImageData, Split
from nasattn.errors import EvaluationError
from nasattn.train.loop import train_model
from nasattn.train.recipe import Recipe
from nasattn.turns import FREE, Turns

# Fields of a recipe; own kernels are part of `float32` where they can be built.
WAYS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "float32": {"precision": "float32", "compile": "none"},
        "bfloat16": {"precision": "bfloat16", "compile": "none"},
        "compiled": {"precision": "float32", "compile": "default"},
        "compiled bfloat16": {"precision": "bfloat16", "compile": "default"},
        "graphs bfloat16": {"precision": "bfloat16", "compile": "reduce-overhead"},
    }
)
ON_CPU = ("float32", "bfloat16", "compiled")
N_STEPS = 8  # of an epoch; the first epoch shows what beginning costs
EPOCHS = 3
N_WATCHED = 64  # pictures of val-search
FAILURES = (EvaluationError, RuntimeError, MemoryError, OSError)  # the last: by compilers


@dataclass(frozen=True)
class Timing:
    """What one way takes of a network's training."""

    way: str
    setup_seconds: float  # before the first step, each time that a network is trained
    step_seconds: float
    reason: str = ""  # why it cannot be used here

    def training_seconds(self, n_steps: int) -> float:
        """What n steps take; endless where the way cannot be used."""
        if self.reason:
            return float("inf")
        return self.setup_seconds + n_steps * self.step_seconds


def ways_of(device: str) -> tuple[str, ...]:
    """Those that are worth a trial on a device."""
    return ON_CPU if device == "cpu" else tuple(WAYS)


def time_way(
    way: str,
    build: Callable[[], nn.Module],
    data: ImageData,
    recipe: Recipe,
    *,
    device: str,
    turns: Turns = FREE,
) -> Timing:
    """Train a fresh network for a few steps by a way."""
    batch = min(recipe.batch_size, len(data.train))
    size = min(batch * N_STEPS, len(data.train))
    n_steps = size // batch
    short = recipe.shortened(EPOCHS, train_size=size, watch_size=None, **WAYS[way])
    watched = Split(data.val_search.images[:N_WATCHED], data.val_search.labels[:N_WATCHED])
    try:
        first, *others = train_model(
            build(),
            replace(data, val_search=watched),
            short,
            seed=0,
            device=device,
            turns=turns,
        )
    except FAILURES as e:
        return Timing(way, 0.0, 0.0, " ".join(str(e).split())[:200] or type(e).__name__)
    epoch = min(one.seconds for one in others)
    return Timing(way, max(first.seconds - epoch, 0.0), epoch / n_steps)


def fastest(timings: Mapping[str, Timing], n_steps: int) -> str:
    """The way by which a training of n steps is over first; float32 where none can be used."""
    best = min(timings.values(), key=lambda timing: timing.training_seconds(n_steps))
    return "float32" if best.reason else best.way
