"""Decoded pictures kept between runs.

Two files an entry, both plain .npz: `<kind>-<resolution>-<key>.npz` holds what a search may see,
`<kind>-<resolution>-<key>-test.npz` the sealed test split. The key is a sha256 over the source and
all that turns it into arrays. Files are written beside their place and moved into it at once; the
checksums inside are verified at each read, and a damaged file counts as absent.
"""

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from nasattn.data.archive import Damaged, read_arrays
from nasattn.data.images import ImageData, Skipped, Split
from nasattn.data.source import Source
from nasattn.data.splits import RULE
from nasattn.errors import DataError

LAYOUT = 1  # to be raised with every change to what the files hold
PARTS = ("train", "val_search", "val_select")


@dataclass(frozen=True)
class CacheEntry:
    """Where a data set's two files are, or would be."""

    data: Path
    test: Path


def cache_entry(cache_dir: Path, source: Source, resolution: int, seed: int) -> CacheEntry:
    """The entry of a source at a resolution (pixels), split with a seed."""
    makers = [LAYOUT, RULE, PIL.__version__]  # decoders change their rounding now and then
    identity = json.dumps([makers, source.kind, source.fingerprint, resolution, seed])
    stem = f"{source.kind}-{resolution}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    return CacheEntry(cache_dir / f"{stem}.npz", cache_dir / f"{stem}-test.npz")


def write_entry(entry: CacheEntry, data: ImageData, test: Split) -> None:
    """Keep a data set; the test split first, so that whoever sees the data finds the test too."""
    facts = {
        "name": data.name,
        "resolution": data.resolution,
        "classes": data.classes,
        "n_test": data.n_test,
        "mirror": data.mirror,
        "skipped": [asdict(skipped) for skipped in data.skipped],
        "content_hash": data.content_hash,
    }
    arrays = {part: getattr(data, part) for part in PARTS}
    try:
        entry.data.parent.mkdir(parents=True, exist_ok=True)
        _write(entry.test, {"test": test})
        _write(entry.data, arrays, facts=np.array(json.dumps(facts)))
    except OSError as e:
        raise DataError(f"cache {entry.data.parent}: cannot be written ({e.strerror or e})") from e


def read_data(entry: CacheEntry) -> ImageData | None:
    """The data set, without its test split; None where it is absent or damaged."""
    arrays = _read(entry.data, ["facts", *_names(PARTS)])
    if arrays is None:
        return None
    fields: dict[str, Any] = json.loads(str(arrays["facts"]))
    fields |= {part: _split(arrays, part) for part in PARTS}
    fields["classes"] = tuple(fields["classes"])
    fields["skipped"] = tuple(Skipped(**skipped) for skipped in fields["skipped"])
    return ImageData(**fields)


def read_test(entry: CacheEntry) -> Split | None:
    """The sealed test split; None where it is absent or damaged."""
    arrays = _read(entry.test, _names(("test",)))
    return None if arrays is None else _split(arrays, "test")


def _names(parts: tuple[str, ...]) -> list[str]:
    return [f"{part}_{kind}" for part in parts for kind in ("images", "labels")]


def _split(arrays: dict[str, NDArray[Any]], part: str) -> Split:
    return Split(arrays[f"{part}_images"], arrays[f"{part}_labels"])


def _read(path: Path, names: list[str]) -> dict[str, NDArray[Any]] | None:
    """All of the named arrays; None where the file is absent, damaged or lacks one."""
    try:
        arrays = read_arrays(path, names)
    except (OSError, Damaged):
        return None
    return arrays if len(arrays) == len(names) else None


def _write(path: Path, splits: dict[str, Split], **others: NDArray[Any]) -> None:
    """An .npz in one step: whoever reads sees the old file or the new one, never a half."""
    images = {f"{part}_images": split.images for part, split in splits.items()}
    labels = {f"{part}_labels": split.labels for part, split in splits.items()}
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        half = Path(file.name)
        try:
            np.savez(file, allow_pickle=False, **images, **labels, **others)
            file.close()
            half.replace(path)
        except BaseException:
            half.unlink(missing_ok=True)
            raise
