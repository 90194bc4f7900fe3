"""Attention transfer: a student's maps are strong where its teacher's are.

Source: Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017, equation (2).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from nasattn.errors import StudyError
from nasattn.model import Network
from nasattn.train.thaw import parts_of

Size = tuple[int, int]


class Maps:
    """The last map (N, C, H, W) of each size that a network made."""

    def __init__(self) -> None:
        self.last: dict[Size, Tensor] = {}

    def keep(self, part: nn.Module, x: Any, y: Any) -> None:
        """A forward hook; a map of one pixel is strong there, and says nothing."""
        if isinstance(y, Tensor) and y.ndim == 4 and y.shape[2] * y.shape[3] > 1:
            self.last[(y.shape[2], y.shape[3])] = y

    def sizes(self) -> str:
        return ", ".join(f"{h}x{w}" for h, w in self.last) or "none"


@contextmanager
def watched(model: nn.Module) -> Iterator[Maps]:
    """Keeps the maps after each stage of ours, or after each part of another network."""
    maps = Maps()
    parts = model.stages if isinstance(model, Network) else parts_of(model)
    handles = [model.register_forward_pre_hook(lambda *_: maps.last.clear())]
    handles += [part.register_forward_hook(maps.keep) for part in parts]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()
        maps.last.clear()


def attention(x: Tensor) -> Tensor:
    """Where a map is strong: its squares summed over channels, (N, C, H, W) -> unit (N, HW)."""
    return normalize(x.square().sum(1).flatten(1))


def attention_loss(student: Maps, teacher: Maps) -> Tensor:
    """Half the squared distance of the attentions, a picture's mean, summed over common sizes."""
    pairs = [(student.last[size], teacher.last[size]) for size in common(student, teacher)]
    gaps = [attention(a) - attention(b) for a, b in pairs]  # each (N, HW)
    return torch.stack([gap.square().sum(1).mean() / 2 for gap in gaps]).sum()


def common(student: Maps, teacher: Maps) -> list[Size]:
    """The sizes of both. Raises StudyError where there is none."""
    found = [size for size in student.last if size in teacher.last]
    if not found:
        raise StudyError(
            f"feature distillation: the student's maps ({student.sizes()}) and the teacher's "
            f"({teacher.sizes()}) have no size in common"
        )
    return found
