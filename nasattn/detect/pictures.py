"""From picture files to tensors: checked once, then read batch by batch, one batch ahead."""

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import cpu_count

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from nasattn.data.decode import FORMATS, to_rgb
from nasattn.data.images import Progress, Skipped
from nasattn.data.pool import Unreadable
from nasattn.detect.coco import CocoSplit, Picture
from nasattn.errors import DataError

LONGEST = 5 / 3  # long side over resolution; torchvision's 1333 over 800
MAX_WORKERS = 8
CHUNK = 256  # pictures between two words of progress


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture as a detector takes it, fitted to the resolution.

    Shapes: image (3, h, w) uint8; boxes (n, 4) float32 corners in its pixels; labels (n,) int64.
    """

    picture: Picture
    image: Tensor
    boxes: Tensor
    labels: Tensor

    def flipped(self) -> "Sample":
        """The mirror image."""
        x1, y1, x2, y2 = self.boxes.unbind(1)
        width = self.image.shape[2]
        boxes = torch.stack((width - x2, y1, width - x1, y2), 1)  # (n, 4)
        return replace(self, image=self.image.flip(2), boxes=boxes)

    @property
    def scale(self) -> Tensor:
        """Pixels of the sample per pixel of the file, for a row of corners: (4,)."""
        x = self.image.shape[2] / self.picture.width
        y = self.image.shape[1] / self.picture.height
        return torch.tensor((x, y, x, y))


def fitted_size(width: int, height: int, resolution: int) -> tuple[int, int]:
    """(width, height) with the short side at the resolution, the long one at most 5/3 of it."""
    scale = min(resolution / min(width, height), LONGEST * resolution / max(width, height))
    return max(round(width * scale), 1), max(round(height * scale), 1)


def read_sample(picture: Picture, resolution: int) -> Sample:
    """A picture with its objects but for crowds; raises DataError when it cannot be read."""
    try:
        image = open_picture(picture)
    except Unreadable as e:
        raise DataError(f"{picture.path}: {e}") from e
    size = fitted_size(picture.width, picture.height, resolution)
    pixels = np.array(image.resize(size, Image.Resampling.BILINEAR))  # (h, w, 3)
    objects = [o for o in picture.objects if not o.crowd]
    sample = Sample(
        picture,
        torch.from_numpy(pixels).permute(2, 0, 1).contiguous(),  # (3, h, w)
        torch.tensor([o.corners for o in objects], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([o.label for o in objects], dtype=torch.int64),
    )
    return replace(sample, boxes=sample.boxes * sample.scale)


def open_picture(picture: Picture) -> Image.Image:
    """The picture in RGB, turned the way its annotations have it; raises Unreadable.

    A file may say that it is to be shown turned by 90 degrees. We take the turn that has the
    annotated width and height: COCO's own annotations follow the file as it is stored.
    """
    wanted = (picture.width, picture.height)
    if picture.trouble:
        raise Unreadable(picture.trouble)
    try:
        with picture.path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            if image.size not in (wanted, wanted[::-1]):  # nothing is decoded yet
                raise Unreadable(f"is {_size(image.size)}, its annotations say {_size(wanted)}")
            turned = ImageOps.exif_transpose(image)
            for candidate in (turned, image):
                if candidate.size == wanted:
                    return to_rgb(candidate)
    except Unreadable:
        raise
    except Exception as e:  # a broken file makes the decoders raise anything; each one is named
        raise Unreadable(_reason(e)) from e
    raise Unreadable(f"is {_size(turned.size)}, its annotations say {_size(wanted)}")


def _reason(error: Exception) -> str:
    """Why a file could not be decoded, in a few words and one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that we know"
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or " ".join(str(error).split()) or type(error).__name__


def check_pictures(split: CocoSplit, progress: Progress | None = None) -> CocoSplit:
    """The split without the pictures that cannot be read, which are named in `skipped`.

    Decodes each picture once. Raises DataError where none can be read.
    """

    def trouble(picture: Picture) -> str:
        try:
            open_picture(picture)
        except Unreadable as e:
            return str(e)
        return ""

    reasons: list[str] = []
    with _workers() as pool, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for start in range(0, len(split.pictures), CHUNK):
            reasons += pool.map(trouble, split.pictures[start : start + CHUNK])
            if progress:
                progress(len(reasons), len(split.pictures))
    pairs = list(zip(split.pictures, reasons, strict=True))
    skipped = tuple(Skipped(str(picture.path), reason) for picture, reason in pairs if reason)
    if len(skipped) == len(pairs):
        first = skipped[0]
        raise DataError(
            f"{split.where}: none of its pictures can be read; {first.path}: {first.reason}"
        )
    kept = tuple(picture for picture, reason in pairs if not reason)
    return replace(split, pictures=kept, skipped=skipped)


def sample_batches(
    batches: Sequence[Sequence[Picture]], resolution: int
) -> Iterator[tuple[Sample, ...]]:
    """Each batch read by a few threads while the one before it is at work."""

    def read(picture: Picture) -> Sample:
        return read_sample(picture, resolution)

    pool = _workers()
    try:
        ahead = pool.map(read, batches[0]) if batches else iter(())
        for i in range(len(batches)):
            ready = tuple(ahead)
            if i + 1 < len(batches):
                ahead = pool.map(read, batches[i + 1])
            yield ready
    finally:
        pool.shutdown(cancel_futures=True)


def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(MAX_WORKERS, cpu_count() or 1))


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
