"""Reading .npz files that may be damaged or hostile."""

import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray


class Damaged(Exception):
    """Not an .npz file, or one whose bytes are not those that were written."""


# What zipfile and numpy raise on bytes that are no .npz. RuntimeError: flipped flags ('encrypted',
# unknown compression). MemoryError: a header that claims more than there is.
_DAMAGE = (
    ValueError,
    LookupError,
    RuntimeError,
    EOFError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_arrays(path: Path, wanted: Collection[str]) -> dict[str, NDArray[Any]]:
    """Those of the wanted arrays that an .npz file has; nothing is ever unpickled.

    Every byte is held against its checksum first: numpy alone lets a changed shape pass.
    Raises Damaged, or OSError where the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise Damaged(f"{damaged.removesuffix('.npy')} is damaged")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: _array(arrays, name) for name in arrays.files if name in wanted}
    except _DAMAGE as e:
        raise Damaged("not an .npz file, or a damaged one") from e


def _array(arrays: NpzFile, name: str) -> NDArray[Any]:
    try:
        return np.asarray(arrays[name])
    except ValueError as e:
        raise Damaged(f"{name} holds Python objects; must be a plain array") from e
