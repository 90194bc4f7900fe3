"""The data sets with a name of their own; a new one is a function and a row in DATASETS."""

import http.client
import io
import socket
import tarfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from nasattn.data.images import Pictures, Split
from nasattn.data.resize import channels_first, fit_all
from nasattn.data.source import Source
from nasattn.errors import DataError

PATIENCE_S = 20.0  # a server that is silent for longer counts as absent


@dataclass(frozen=True)
class Dataset:
    """A row of DATASETS."""

    read: Callable[[Path], Pictures]  # cache folder -> pictures at their own size
    resolution: int  # in pixels, unless the user names another
    mirror: bool  # whether a mirrored picture keeps its class
    remote: bool = True  # whether it is downloaded where it is not yet


def named_source(name: str, cache_dir: Path) -> Source:
    """The source of a row of DATASETS."""
    row = DATASETS[name]
    return Source(
        kind=name,
        name=name,
        where=name,
        resolution=row.resolution,
        mirror=row.mirror,
        fingerprint="",  # its pictures never change
        read=lambda resolution, progress: fit_all(row.read(cache_dir), resolution, progress),
    )


def read_digits(cache_dir: Path) -> Pictures:
    """scikit-learn's 1,797 handwritten digits, 8x8, values 0 to 16 scaled to bytes; no test set."""
    from sklearn.datasets import load_digits  # slow to import

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    labels = digits.target.astype(np.int64)
    return Pictures(tuple(map(str, range(10))), Split(channels_first(pixels), labels))


def read_cifar(name: str, cache_dir: Path) -> Pictures:
    """torchvision's CIFAR10 or CIFAR100, downloaded into the cache folder where it is not yet."""
    dataset = getattr(import_module("torchvision.datasets"), name)  # imports torch: slow
    try:
        with quiet_download():
            train, test = (
                dataset(root=cache_dir / "torchvision", train=train, download=True)
                for train in (True, False)
            )
    except (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError) as e:
        cause = getattr(e, "reason", e)
        reason = " ".join(str(getattr(cause, "strerror", None) or cause).split())
        raise DataError(
            f"{name.lower()}: cannot be downloaded ({reason});"
            " pass --data a folder of class folders or an .npz file"
        ) from e
    return Pictures(tuple(train.classes), _split(train), test=_split(test))


def _split(dataset: object) -> Split:
    data, targets = dataset.data, dataset.targets  # type: ignore[attr-defined]
    return Split(channels_first(data), np.array(targets, np.int64))


@contextmanager
def quiet_download() -> Iterator[None]:
    """No progress bar, and no waiting for a server that does not answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE_S)
    try:
        with (
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            # numpy 2.4 about the old pickles of CIFAR, which torchvision checks by md5
            warnings.filterwarnings("ignore", r"dtype\(\): align should be passed")
            yield
    finally:
        socket.setdefaulttimeout(before)


DATASETS = {
    "digits": Dataset(read_digits, resolution=16, mirror=False, remote=False),
    "cifar10": Dataset(partial(read_cifar, "CIFAR10"), resolution=32, mirror=True),
    "cifar100": Dataset(partial(read_cifar, "CIFAR100"), resolution=32, mirror=True),
}
