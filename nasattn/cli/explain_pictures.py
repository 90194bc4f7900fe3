"""Which pictures a command is given, as files and folders, and reading them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nasattn.data import Skipped
from nasattn.data.decode import decode_file
from nasattn.data.listing import ENDINGS, OUTSIDE
from nasattn.data.pool import Pixels, Unreadable, draw_all
from nasattn.errors import DataError


@dataclass(frozen=True)
class PictureFile:
    """A picture that was named itself, or stands in a folder (`place`) that was named."""

    path: Path
    place: Path | None = None

    @property
    def name(self) -> str:
        """As it is shown: in a folder, from there on."""
        return self.path.name if self.place is None else str(self.path.relative_to(self.place))

    @property
    def folder(self) -> str:
        """The name of the folder that it lies in: its class, where there are class folders."""
        return self.path.absolute().parent.name


def list_pictures(places: Sequence[str]) -> list[PictureFile]:
    """Files as they are named, and all that end like pictures in folders, at any depth.

    Hidden ones are no part of a folder. Raises DataError for a place that holds none.
    """
    found: list[PictureFile] = []
    for place in places:
        path = Path(place).expanduser()
        try:
            if not path.is_dir():
                found.append(PictureFile(path))
                continue
            inside = list(walk(path))
        except OSError as e:
            raise DataError(f"{place}: cannot be read ({e.strerror or e})") from e
        if not inside:
            raise DataError(f"{place}: holds no picture ({', '.join(ENDINGS)})")
        found += inside
    return found


def walk(place: Path) -> Iterator[PictureFile]:
    """The pictures of a folder by their paths."""
    for path in sorted(place.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(place).parts)
        if path.name.lower().endswith(ENDINGS) and not hidden and not path.is_dir():
            yield PictureFile(path, place)


def folder_classes(files: Sequence[PictureFile]) -> tuple[str, ...]:
    """The names of the folders that lie in those that were named, in their order by name."""
    return tuple(sorted({f.folder for f in files if f.place and f.path.parent != f.place}))


def sample(files: Sequence[PictureFile], n: int, seed: int) -> list[PictureFile]:
    """Every file that was named, and `n` of all that stand in each folder."""
    picked = []
    for place in dict.fromkeys(file.place for file in files):
        own = [file for file in files if file.place == place]
        if place is not None:
            rows = np.random.default_rng(seed).permutation(len(own))[:n]
            own = [own[i] for i in sorted(rows.tolist())]
        picked += own
    return picked


def decode(
    files: Sequence[PictureFile], resolutions: Sequence[int]
) -> tuple[list[PictureFile], dict[int, Tensor], list[Skipped]]:
    """The files that can be read, their pixels uint8 (N, 3, R, R) by resolution, and the others.

    Raises DataError for a file that was named itself and cannot be read, and where none can.
    """

    def draw(resolution: int, i: int) -> Pixels:
        file = files[i]
        if file.place and not file.path.resolve().is_relative_to(file.place.resolve()):
            raise Unreadable(OUTSIDE)
        return decode_file(file.path, resolution)

    images: dict[int, Tensor] = {}
    reasons: dict[int, str] = {}
    for resolution in resolutions:
        pixels, found = draw_all(partial(draw, resolution), len(files), resolution, None)
        images[resolution] = torch.from_numpy(pixels)
        reasons |= found
    for i, reason in reasons.items():
        if files[i].place is None:
            raise DataError(f"{files[i].path}: {reason}")
    kept = [i for i in range(len(files)) if i not in reasons]
    if not kept:
        raise DataError(f"{files[0].path}: {reasons[0]}; no other picture could be read either")
    skipped = [Skipped(files[i].name, reason) for i, reason in reasons.items()]
    return [files[i] for i in kept], {r: x[kept] for r, x in images.items()}, skipped
