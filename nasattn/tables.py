"""Tables: functions of small numbers, for many rows at once; each value is found once."""

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasattn.errors import NasattnError

Ints = NDArray[np.int64]

NONE = -1  # the number of what there is not; a function of it has no value either
BITS = 21  # of one of up to three numbers in a code
LARGEST = (1 << BITS) - 1


class Numbers:
    """Values by their numbers, from 0 on; equal ones have the same."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}

    def number(self, value: Hashable) -> int:
        """The number of a value, a new one if need be."""
        found = self._numbers.setdefault(value, len(self.values))
        if found == len(self.values):
            assert found <= LARGEST, "whoever asks for so many must start anew in time"
            self.values.append(value)
        return found

    def __len__(self) -> int:
        return len(self.values)


class Column:
    """A whole number that each of some values has."""

    def __init__(self, numbers: Numbers, find: Callable[[Any], int]) -> None:
        self._numbers, self._find = numbers, find
        self._found: list[int] = []
        self._array: Ints = np.array([NONE])

    def __call__(self, numbers: Ints) -> Ints:
        """That of each row's value; NONE of NONE."""
        if len(self._found) < len(self._numbers):
            while len(self._found) < len(self._numbers):  # finding one may bring others
                self._found.append(self._find(self._numbers.values[len(self._found)]))
            self._array = np.array(
                [*self._found, NONE], dtype=np.int64
            )  # the last one is that of NONE
        return self._array[numbers]


class Levels:
    """The numbers that stand for the codes in an array, of any kind that can be ordered."""

    def __init__(self, find: Callable[[Any], int]) -> None:
        self._find = find
        self._codes: NDArray[Any] = np.empty(0)
        self._found: Ints = np.empty(0, dtype=np.int64)

    def __call__(self, codes: NDArray[Any]) -> Ints:
        if not len(codes):
            return np.empty(0, dtype=np.int64)
        if not len(self._codes):
            self._add(np.unique(codes))
        places = np.searchsorted(self._codes, codes)
        strange = self._codes.take(places, mode="clip") != codes
        if strange.any():
            self._add(np.unique(codes[strange]))
            places = np.searchsorted(self._codes, codes)
        return self._found[places]

    def __len__(self) -> int:
        return len(self._codes)

    def _add(self, codes: NDArray[Any]) -> None:
        found = np.array([self._find(code) for code in codes.tolist()])
        both = np.concatenate([self._codes, codes]) if len(self) else codes
        order = np.argsort(both, kind="stable")
        self._codes, self._found = both[order], np.concatenate([self._found, found])[order]


class Table:
    """A function of one to three numbers, which gives the number of its value in `into`.

    None of them is above LARGEST. What raises one of our errors has no value.
    """

    def __init__(self, find: Callable[..., Hashable], into: Numbers | None = None) -> None:
        self.into = Numbers() if into is None else into
        self._find = find
        self._levels = {n: Levels(self._finder(n)) for n in (1, 2, 3)}

    def __call__(self, *columns: Ints) -> Ints:
        """Its value in each row; NONE where one of the numbers is."""
        there = np.minimum.reduce(columns) >= 0
        code = columns[0]
        for column in columns[1:]:
            code = code << BITS | column
        levels = self._levels[len(columns)]
        if there.all():
            return levels(code)
        found = np.full(len(code), NONE)
        found[there] = levels(code[there])
        return found

    def __len__(self) -> int:
        return sum(map(len, self._levels.values()))

    def _finder(self, n: int) -> Callable[[int], int]:
        shifts = [BITS * k for k in reversed(range(n))]

        def find(code: int) -> int:
            try:
                return self.into.number(self._find(*(code >> s & LARGEST for s in shifts)))
            except NasattnError:
                return NONE

        return find
