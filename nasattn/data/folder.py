"""The pictures of a folder of class folders."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nasattn.data.decode import decode_file
from nasattn.data.images import Pictures, Progress, Skipped, Split
from nasattn.data.listing import Listing, PictureFile, fingerprint, list_folder
from nasattn.data.pool import Pixels, Unreadable, draw_all, part_of
from nasattn.data.source import Source
from nasattn.data.splits import check_enough
from nasattn.errors import DataError


def folder_source(path: Path) -> Source:
    """The source of a folder; only names, sizes and times are looked at, no picture is opened."""
    listing = list_folder(path)
    return Source(
        kind="folder",
        name=listing.root.name,
        where=str(path),
        resolution=32,
        mirror=True,
        fingerprint=fingerprint(listing),
        read=lambda resolution, progress: read_folder(listing, str(path), resolution, progress),
    )


def read_folder(
    listing: Listing, where: str, resolution: int, progress: Progress | None
) -> Pictures:
    """Decode the pictures of a listing; what cannot be decoded is named in `skipped`."""
    for files in listing.groups.values():
        troubles = {i: file.trouble for i, file in enumerate(files) if file.trouble}
        _check_readable(files, troubles, listing.classes, where)
    check_enough(listing.classes, {g: _labels(fs) for g, fs in listing.groups.items()}, where)
    total = sum(map(len, listing.groups.values()))
    splits: dict[str, Split] = {}
    skipped: list[Skipped] = []
    done = 0
    for group, files in listing.groups.items():
        images, reasons = _draw(listing.root, files, resolution, part_of(progress, done, total))
        _check_readable(files, reasons, listing.classes, where)
        splits[group] = _without(Split(images, _labels(files)), reasons)
        skipped += [Skipped(files[i].path, reason) for i, reason in reasons.items()]
        done += len(files)
    return Pictures(
        listing.classes, splits["train"], splits.get("val"), splits.get("test"), tuple(skipped)
    )


def _labels(files: list[PictureFile]) -> NDArray[np.int64]:
    return np.array([file.label for file in files], np.int64)


def _draw(
    root: Path, files: list[PictureFile], resolution: int, progress: Progress | None
) -> tuple[Pixels, dict[int, str]]:
    def draw(i: int) -> Pixels:
        if files[i].trouble:
            raise Unreadable(files[i].trouble)
        return decode_file(root / files[i].path, resolution)

    return draw_all(draw, len(files), resolution, progress)


def _without(split: Split, reasons: Mapping[int, str]) -> Split:
    """A split less the pictures that could not be drawn."""
    if not reasons:
        return split
    return split.take(np.delete(np.arange(len(split)), list(reasons)))


def _check_readable(
    files: list[PictureFile], reasons: Mapping[int, str], classes: tuple[str, ...], where: str
) -> None:
    """A DataError where a class has pictures, and none of them can be read."""
    readable = {file.label for i, file in enumerate(files) if i not in reasons}
    for i, reason in reasons.items():
        if files[i].label not in readable:
            raise DataError(
                f"{where}: class {classes[files[i].label]!r}: none of its pictures can be read;"
                f" {files[i].path}: {reason}"
            )
