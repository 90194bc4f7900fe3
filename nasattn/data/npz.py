"""The pictures of an .npz file.

x_train, y_train; x_val, y_val and x_test, y_test where given; classes (names) where given.
x: uint8 (N, H, W, 3), (N, H, W, 1) or (N, H, W). y: integers (N,) or (N, 1), indices of classes.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasattn.data.archive import Damaged, read_arrays
from nasattn.data.images import Pictures, Split
from nasattn.data.resize import channels_first, fit_all
from nasattn.data.source import Source
from nasattn.errors import DataError

Arrays = dict[str, NDArray[Any]]

NAMES = ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test", "classes")
X_ALLOWED = "uint8 of shape (N, H, W, 3), (N, H, W, 1) or (N, H, W)"
Y_ALLOWED = "integers of shape (N,) or (N, 1)"
CLASSES_ALLOWED = "different strings, of shape (number of classes,)"


def npz_source(path: Path) -> Source:
    """The source of an .npz file; only its size and times are looked at."""
    place, seen = path.resolve(), path.stat()
    stamp = f"{place}\n{seen.st_size}\n{seen.st_mtime_ns}\n{seen.st_ctime_ns}"
    return Source(
        kind="npz",
        name=place.stem,
        where=str(path),
        resolution=32,
        mirror=True,
        fingerprint=hashlib.sha256(stamp.encode("utf-8", "surrogateescape")).hexdigest(),
        read=lambda resolution, progress: fit_all(read_npz(path), resolution, progress),
    )


def read_npz(path: Path) -> Pictures:
    """The pictures of an .npz file at their own size; a DataError names file, array and value."""
    try:
        arrays = read_arrays(path, NAMES)
    except Damaged as e:
        raise DataError(f"{path}: {e}") from e
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror or e})") from e
    splits = {group: _split(path, arrays, group) for group in _groups(arrays)}
    classes = _classes(path, arrays, splits["train"])
    for group, split in splits.items():
        _check_labels(path, group, split, classes)
    return Pictures(classes, splits["train"], splits.get("val"), splits.get("test"))


def _groups(arrays: Arrays) -> list[str]:
    return ["train", *(g for g in ("val", "test") if f"x_{g}" in arrays or f"y_{g}" in arrays)]


def _split(path: Path, arrays: Arrays, group: str) -> Split:
    for name in (f"x_{group}", f"y_{group}"):
        if name not in arrays:
            raise DataError(f"{path}: no array {name!r}; may hold {', '.join(NAMES)}")
    x, y = arrays[f"x_{group}"], arrays[f"y_{group}"]
    if x.dtype != np.uint8 or not _picture_shape(x.shape):
        raise DataError(f"{path}: x_{group} is {_describe(x)}; must be {X_ALLOWED}")
    if y.dtype.kind not in "iu" or not (y.ndim == 1 or (y.ndim == 2 and y.shape[1] == 1)):
        raise DataError(f"{path}: y_{group} is {_describe(y)}; must be {Y_ALLOWED}")
    if len(x) != len(y):
        raise DataError(f"{path}: x_{group} has {len(x)} pictures, y_{group} {len(y)} labels")
    if int(y.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{path}: y_{group} holds {y.max()}, which is no index of a class")
    return Split(channels_first(x), y.reshape(-1).astype(np.int64))


def _picture_shape(shape: tuple[int, ...]) -> bool:
    return 0 not in shape and (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3)))


def _classes(path: Path, arrays: Arrays, train: Split) -> tuple[str, ...]:
    """The names given, else '0', '1', ... up to the highest training label."""
    if "classes" not in arrays:
        highest = int(train.labels.max())
        if highest >= len(train):  # cannot be: every class has a picture
            raise DataError(f"{path}: y_train goes up to {highest} with {len(train)} pictures")
        return tuple(map(str, range(highest + 1)))
    names = arrays["classes"]
    if names.dtype.kind != "U" or names.ndim != 1 or len(set(names.tolist())) != len(names):
        raise DataError(f"{path}: classes is {_describe(names)}; must be {CLASSES_ALLOWED}")
    return tuple(map(str, names))


def _check_labels(path: Path, group: str, split: Split, classes: tuple[str, ...]) -> None:
    for label in (int(split.labels.min()), int(split.labels.max())):
        if not 0 <= label < len(classes):
            raise DataError(
                f"{path}: y_{group} holds label {label};"
                f" with {len(classes)} classes a label is 0 to {len(classes) - 1}"
            )


def _describe(array: NDArray[Any]) -> str:
    return f"{array.dtype} of shape {array.shape}"
