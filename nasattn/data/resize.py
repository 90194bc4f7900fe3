"""Pictures at one resolution, in one layout."""

from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from nasattn.data.images import Pictures, Progress, Split
from nasattn.data.pool import Pixels, draw_all, part_of


def fit(image: Image.Image, resolution: int) -> Pixels:
    """Short side to the resolution (bilinear, antialiased), centre crop -> (3, R, R).

    Done in one step, centre square to R x R, so that a long thin picture costs no memory.
    """
    square = ImageOps.fit(image, (resolution, resolution), Image.Resampling.BILINEAR)
    return np.asarray(square).transpose(2, 0, 1)  # (3, R, R)


def channels_first(x: Pixels) -> Pixels:
    """(N, H, W), (N, H, W, 1) or (N, H, W, 3) -> (N, 3, H, W), grey in all three."""
    if x.ndim == 3:
        x = x[..., None]  # (N, H, W, 1)
    x = np.broadcast_to(x, (*x.shape[:3], 3))
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))  # (N, 3, H, W)


def fit_all(pictures: Pictures, resolution: int, progress: Progress | None) -> Pictures:
    """Pictures with every split at (N, 3, R, R)."""
    given = pictures.given()
    total, done = sum(map(len, given.values())), 0
    fitted: dict[str, Any] = {}
    for group, split in given.items():
        fitted[group] = _fit_split(split, resolution, part_of(progress, done, total))
        done += len(split)
    return replace(pictures, **fitted)


def _fit_split(split: Split, resolution: int, progress: Progress | None) -> Split:
    if split.images.shape[2:] == (resolution, resolution):
        if progress:
            progress(len(split), len(split))
        return split

    def draw(i: int) -> Pixels:
        picture = np.ascontiguousarray(split.images[i].transpose(1, 2, 0))  # (H, W, 3)
        return fit(Image.fromarray(picture), resolution)

    images, _ = draw_all(draw, len(split), resolution, progress)
    return Split(images, split.labels)
