"""From the name or path of a data set to its arrays, by way of the cache."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nasattn.data.cache import CacheEntry, cache_entry, read_data, read_test, write_entry
from nasattn.data.folder import folder_source
from nasattn.data.images import ImageData, Progress, Split
from nasattn.data.named import DATASETS, named_source
from nasattn.data.npz import npz_source
from nasattn.data.openings import note_opening
from nasattn.data.source import Source
from nasattn.data.splits import RULE, Splits, split_pictures
from nasattn.errors import DataError
from nasattn.spec import MAX_RESOLUTION, MIN_RESOLUTION


def load_data(
    source: str,
    resolution: int | None = None,
    *,
    cache_dir: Path,
    seed: int = 0,
    progress: Progress | None = None,
) -> ImageData:
    """The training and validation splits of a data set.

    `source` is a name in DATASETS, or a path to a folder of class folders or to an .npz file (a
    folder called like a known set is passed as './digits'). `resolution` in pixels, 8 to 1024,
    None for the set's own. `progress` is called while pictures are decoded, not when they come out
    of the cache. The split rule stands in `splits`. Raises DataError.
    """
    order = _order(source, resolution, cache_dir, seed)
    data = read_data(order.entry)
    return _build(order, progress)[0] if data is None else data


def open_test(
    source: str,
    resolution: int | None = None,
    *,
    command: str,
    cache_dir: Path,
    seed: int = 0,
    progress: Progress | None = None,
) -> Split:
    """The sealed test split beside `load_data` of the same arguments: the one door to it.

    That `command` has opened it is written down beside the pictures first.
    """
    order = _order(source, resolution, cache_dir, seed)
    data, test = read_data(order.entry), read_test(order.entry)
    if data is None or test is None:
        data, test = _build(order, progress)
    note_opening(cache_dir, data.content_hash, command)
    return test


def is_here(source: str, resolution: int | None = None, *, cache_dir: Path) -> bool:
    """Whether `load_data` of the same arguments finds pictures without a download."""
    if source in DATASETS:
        if not DATASETS[source].remote:
            return True
        entry = _order(source, resolution, cache_dir, seed=0).entry
        return entry.test.is_file() and read_data(entry) is not None
    try:
        return Path(source).expanduser().exists()
    except (OSError, RuntimeError):  # a name that no file can have, an unknown ~user
        return False


@dataclass(frozen=True, eq=False)
class _Order:
    """What was asked for, checked."""

    source: Source
    resolution: int
    seed: int
    entry: CacheEntry


def _order(name: str, resolution: int | None, cache_dir: Path, seed: int) -> _Order:
    source = find_source(name, cache_dir)
    resolution = source.resolution if resolution is None else resolution
    if not MIN_RESOLUTION <= resolution <= MAX_RESOLUTION:
        allowed = f"{MIN_RESOLUTION} to {MAX_RESOLUTION} pixels"
        raise DataError(f"resolution is {resolution}; must be {allowed}")
    if seed < 0:
        raise DataError(f"seed of the data split is {seed}; must be 0 or more")
    return _Order(source, resolution, seed, cache_entry(cache_dir, source, resolution, seed))


def find_source(name: str, cache_dir: Path) -> Source:
    """The source that a known name or a path leads to."""
    if name in DATASETS:
        return named_source(name, cache_dir)
    try:
        return _source_at(name)
    except (OSError, RuntimeError) as e:  # RuntimeError: a link to itself, an unknown ~user
        place, reason = getattr(e, "filename", None), getattr(e, "strerror", None)
        raise DataError(f"{place or name}: cannot be read ({reason or e})") from e


def _source_at(name: str) -> Source:
    path = Path(name).expanduser()
    if name and path.is_dir():
        return folder_source(path)
    if path.is_file() and path.suffix.lower() == ".npz":
        return npz_source(path)
    if path.is_file():
        raise DataError(f"{name}: must be a folder of class folders or an .npz file")
    raise DataError(
        f"unknown data {name!r}: neither a known set ({', '.join(sorted(DATASETS))}) nor a path"
        " that exists; a path to a folder of class folders or to an .npz file works too"
    )


def _build(order: _Order, progress: Progress | None) -> tuple[ImageData, Split]:
    """Read, split and keep: the long way, taken once for each entry of the cache."""
    source = order.source
    pictures = source.read(order.resolution, progress)
    splits = split_pictures(pictures, order.seed, source.where)
    data = ImageData(
        name=source.name,
        resolution=order.resolution,
        classes=pictures.classes,
        train=splits.train,
        val_search=splits.val_search,
        val_select=splits.val_select,
        n_test=len(splits.test),
        mirror=source.mirror,
        skipped=pictures.skipped,
        content_hash=_content_hash(splits, [pictures.classes, order.resolution, order.seed, RULE]),
    )
    write_entry(order.entry, data, splits.test)
    return data, splits.test


def _content_hash(splits: Splits, facts: list[object]) -> str:
    """12 hex digits of the sha256 over facts, shapes, pixels and labels of all four splits."""
    digest = hashlib.sha256(json.dumps(facts).encode())
    for split in (splits.train, splits.val_search, splits.val_select, splits.test):
        digest.update(json.dumps(split.images.shape).encode())
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.labels).data)
    return digest.hexdigest()[:12]
