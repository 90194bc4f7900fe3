"""Tables: functions of numbers, each value found once."""

import numpy as np
import pytest

from nasattn.errors import ArchitectureError
from nasattn.tables import NONE, Column, Levels, Numbers, Table


def test_equal_values_have_one_number() -> None:
    numbers = Numbers()
    assert [numbers.number(value) for value in ("b", "a", "b")] == [0, 1, 0]
    assert numbers.values == ["b", "a"]


def test_column_is_of_each_value_and_none_of_none() -> None:
    numbers = Numbers()
    lengths = Column(numbers, len)
    numbers.number("four")
    assert lengths(np.array([0, NONE])).tolist() == [4, NONE]
    numbers.number("three")  # after it was asked
    assert lengths(np.array([1, 0, 1])).tolist() == [5, 4, 5]


def test_column_may_bring_values_while_it_is_found() -> None:
    numbers = Numbers()
    numbers.number(3)
    down = Column(numbers, lambda n: numbers.number(n - 1) if n else NONE)  # 3, 2, 1, 0
    assert down(np.array([0, 1, 2, 3])).tolist() == [1, 2, 3, NONE]


@pytest.mark.parametrize("codes", [[3.5, -1.0, 3.5], [2**60, 0, 2**60]])
def test_levels_finds_each_code_once(codes: list[float]) -> None:
    seen: list[float] = []

    def find(code: float) -> int:
        seen.append(code)
        return len(seen)

    levels = Levels(find)
    levels(np.array(codes[1:2]))
    assert levels(np.array(codes)).tolist() == [2, 1, 2]
    assert seen == [codes[1], codes[0]]
    assert levels(np.array(codes[:0])).tolist() == []


def test_table_finds_each_combination_once_and_nothing_of_none() -> None:
    seen: list[tuple[int, int]] = []

    def product(a: int, b: int) -> int:
        seen.append((a, b))
        return a * b

    table = Table(product)
    found = table(np.array([2, 3, 2, NONE, 6]), np.array([3, 2, 3, 1, NONE]))
    assert [table.into.values[i] for i in found[:3]] == [6, 6, 6]
    assert found[3:].tolist() == [NONE, NONE]
    assert table(np.array([3]), np.array([2])).tolist() == [0]
    assert seen == [(2, 3), (3, 2)]


def test_table_has_nothing_of_what_raises_our_errors() -> None:
    def refuse(number: int) -> int:
        raise ArchitectureError if number == 1 else TypeError("a bug")

    table = Table(refuse)
    assert table(np.array([1, 1])).tolist() == [NONE, NONE]
    with pytest.raises(TypeError, match="a bug"):
        table(np.array([2]))
