"""The values that hold pictures, from the source to the search."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Progress = Callable[[int, int], None]  # (pictures done, pictures in all), called every so often


@dataclass(frozen=True, eq=False)
class Split:
    """Pictures decoded once, at one resolution.

    Shapes: images (N, 3, H, W) uint8; labels (N,) int64, indices into the tuple of classes.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.intp]) -> "Split":
        """The pictures of `rows`, in that order."""
        return Split(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Skipped:
    """A picture that could not be decoded, or was not to be opened."""

    path: str  # relative to the folder of the data, with forward slashes
    reason: str


@dataclass(frozen=True, eq=False)
class Pictures:
    """What a source holds, before our own split; `val` and `test` are None where it gives none."""

    classes: tuple[str, ...]
    train: Split
    val: Split | None = None
    test: Split | None = None
    skipped: tuple[Skipped, ...] = ()

    def given(self) -> dict[str, Split]:
        """The splits that are given, by name."""
        groups = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in groups.items() if split is not None}


@dataclass(frozen=True, eq=False)
class ImageData:
    """What a search may see of a data set; the test split stays behind `open_test`."""

    name: str  # short label: the known name, or the stem of the folder or file
    resolution: int  # height and width in pixels
    classes: tuple[str, ...]
    train: Split
    val_search: Split  # guides the search
    val_select: Split  # picks among the search's best
    n_test: int  # pictures in the sealed test split
    mirror: bool  # whether a mirrored picture keeps its class
    skipped: tuple[Skipped, ...]
    content_hash: str  # 12 hex digits over pixels, labels, classes, resolution, seed and split rule
