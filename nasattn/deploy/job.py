"""Job: what a writer is given to make a file from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from nasattn.deploy.card import Card


@dataclass(frozen=True, eq=False)
class Job:
    """A network in eval mode on the processor, and pictures as it is to see them."""

    model: nn.Module
    x: Tensor  # (1, 3, R, R)
    calibration: Tensor  # (N, 3, R, R) of the training split, for int8
    card: Card

    @property
    def seen(self) -> Tensor:
        """Every other calibration picture: those by which ranges are set."""
        return self.calibration[::2]

    @property
    def unseen(self) -> Tensor:
        """The others: those by which a way of setting them is chosen."""
        return self.calibration[1::2]


Writer = Callable[[Job, Path], None]  # writes a runtime's files into an empty folder
