"""Many pictures at a time: a few threads fill one array."""

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from os import cpu_count

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nasattn.data.images import Progress
from nasattn.errors import DataError

BATCH = 32  # pictures that a thread takes at a time
MAX_WORKERS = 8

Pixels = NDArray[np.uint8]


class Unreadable(Exception):
    """A picture that cannot be decoded: to be named and skipped, not to stop the others."""


def draw_all(
    draw: Callable[[int], Pixels], count: int, resolution: int, progress: Progress | None
) -> tuple[Pixels, dict[int, str]]:
    """draw(0) to draw(count - 1) by a few threads -> images (count, 3, R, R), {number: reason}.

    Where `draw` raises Unreadable the reason is kept, and the row of `images` means nothing.
    """
    images = _room(count, resolution)
    reasons: dict[int, str] = {}

    def draw_batch(start: int) -> int:
        stop = min(start + BATCH, count)
        for i in range(start, stop):
            try:
                images[i] = draw(i)
            except Unreadable as e:
                reasons[i] = str(e)
        return stop - start

    done = 0
    pool = ThreadPoolExecutor(min(MAX_WORKERS, cpu_count() or 1))
    try:
        with _quiet_pillow():
            for n in pool.map(draw_batch, range(0, count, BATCH)):
                done += n
                if progress:
                    progress(done, count)
    finally:  # an interrupt waits for the batches under way, not for all that are queued
        pool.shutdown(cancel_futures=True)
    return images, dict(sorted(reasons.items()))


def part_of(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Progress of one part, told as progress of the whole of which `before` is done."""
    return progress and (lambda done, _: progress(before + done, total))


def _room(count: int, resolution: int) -> Pixels:
    shape = (count, 3, resolution, resolution)
    try:
        return np.empty(shape, np.uint8)
    except MemoryError as e:
        gib = np.prod(shape, dtype=float) / 2**30
        raise DataError(
            f"{count} pictures at resolution {resolution} need {gib:.1f} GiB of memory;"
            " choose a lower resolution or fewer pictures"
        ) from e


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """A suspected decompression bomb is an error; Pillow's other warnings stay off the screen."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
