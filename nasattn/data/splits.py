"""Which picture goes where: a stated, seeded rule.

For each class on its own, its pictures (in the order of their paths, or of the array) are shuffled
with a generator seeded by (seed, group, class), group 0 being train and 1 val. Then:

- Without a test set, 20 % of the training pictures are sealed as the test split.
- Without a val set, of what is left 10 % go to val-search and 10 % to val-select.
  With one, it is halved into val-search and val-select; an odd picture goes to val-search.
- The rest is train.

Each share is rounded to the nearest whole picture, halves up, and is at least 1. So a class needs
4 pictures in a single pool; 3 beside a test set; 2, and 2 in val, beside a val set; 1, and 2 in
val, beside both; and 1 in a test set that is given.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nasattn.data.images import Pictures, Skipped, Split
from nasattn.errors import DataError

RULE = 1  # to be raised with every change to the rule above
TEST_PERCENT = 20
VAL_PERCENT = 10


@dataclass(frozen=True, eq=False)
class Splits:
    """The four parts of a data set; no picture is in two of them."""

    train: Split
    val_search: Split
    val_select: Split
    test: Split


def split_pictures(pictures: Pictures, seed: int, where: str) -> Splits:
    """Deal the pictures out by the rule of this module; a class with too few is a DataError."""
    labels = {name: split.labels for name, split in pictures.given().items()}
    check_enough(pictures.classes, labels, where, pictures.skipped)

    def shares(n: int) -> tuple[int, ...]:
        n_test = _share(n, TEST_PERCENT) if pictures.test is None else 0
        n_val = _share(n - n_test, VAL_PERCENT) if pictures.val is None else 0
        return n_test, n_val, n_val

    test, val_search, val_select, train = _deal(pictures.train, shares, (seed, 0))
    if pictures.val is not None:
        val_search, val_select = _deal(pictures.val, lambda n: (n - n // 2,), (seed, 1))
    return Splits(train, val_search, val_select, test if pictures.test is None else pictures.test)


def check_enough(
    classes: tuple[str, ...],
    labels: Mapping[str, NDArray[np.int64]],
    where: str,
    skipped: tuple[Skipped, ...] = (),
) -> None:
    """A DataError for fewer than two classes, or for a class that the rule cannot deal out."""
    if len(classes) < 2:
        found = f"has the one class {classes[0]!r}" if classes else "has no class"
        raise DataError(f"{where}: {found}; needs at least 2")
    for group, minimum in _minimums(labels).items():
        counts = np.bincount(labels[group], minlength=len(classes))
        label = int(counts.argmin())
        if counts[label] < minimum:
            raise DataError(
                f"{where}: class {classes[label]!r} has {_pictures(int(counts[label]))}"
                f" in {group}; needs at least {minimum} to be split{_besides(skipped)}"
            )


def _minimums(given: Mapping[str, object]) -> dict[str, int]:
    """Fewest pictures of a class in each group that is given: one for each part cut from it."""
    needs = {"train": 1 + ("test" not in given) + 2 * ("val" not in given), "val": 2, "test": 1}
    return {group: needs[group] for group in given}


def _besides(skipped: tuple[Skipped, ...]) -> str:
    """' (3 skipped, the first: a.png: why)', or nothing."""
    if not skipped:
        return ""
    return f" ({len(skipped)} skipped, the first: {skipped[0].path}: {skipped[0].reason})"


def _pictures(n: int) -> str:
    return "1 picture" if n == 1 else f"{n} pictures"


def _share(n: int, percent: int) -> int:
    """`percent` of n, rounded to the nearest (halves up), at least 1."""
    return max(1, (n * percent + 50) // 100)


def _deal(
    split: Split, shares: Callable[[int], tuple[int, ...]], seed: tuple[int, int]
) -> list[Split]:
    """Of each class's n pictures, shuffled, shares(n) to the first parts, the rest to the last."""
    dealt = []
    for label in np.unique(split.labels):
        rows = np.random.default_rng((*seed, int(label))).permutation(
            np.flatnonzero(split.labels == label)
        )
        dealt.append(np.split(rows, np.cumsum(shares(len(rows)))))
    return [split.take(np.sort(np.concatenate(part))) for part in zip(*dealt, strict=True)]
