"""Ranks, groups and orders, against numpy's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtap.tracers.model.arrays import group_numbers, ranks, stable_order

MOST = (1 << 64) - 1
CLOSE = st.integers(0, 30)
FAR = st.integers(0, MOST)
HIGH = st.integers(MOST - 30, MOST)


def unsigned(numbers: list[int]) -> npt.NDArray[np.uint64]:
    return np.array(numbers, np.uint64)


@given(st.one_of(*(st.lists(numbers, max_size=40) for numbers in (CLOSE, FAR, HIGH, CLOSE | HIGH))))
def test_ranks_are_those_of_unique(numbers: list[int]) -> None:
    values = unsigned(numbers)
    distinct, place = ranks(values)
    expected, inverse = np.unique(values, return_inverse=True)
    assert distinct.tolist() == expected.tolist()
    assert place.tolist() == inverse.tolist()
    assert distinct.dtype == values.dtype


@pytest.mark.parametrize("kind", [np.uint8, np.uint32, np.intp])
def test_ranks_take_numbers_of_any_size(kind: Any) -> None:
    distinct, place = ranks(np.array([7, 3, 7, 100], kind))
    assert (distinct.tolist(), place.tolist()) == ([3, 7, 100], [1, 0, 1, 2])


@given(st.lists(st.tuples(CLOSE | FAR, st.integers(0, 2), HIGH), max_size=40))
def test_a_group_is_a_distinct_row(rows: list[tuple[int, int, int]]) -> None:
    columns = [unsigned([row[number] for row in rows]) for number in range(3)]
    numbers = {row: number for number, row in enumerate(sorted(set(rows)))}
    assert group_numbers(*columns).tolist() == [numbers[row] for row in rows]


@given(st.lists(st.integers(0, 5), max_size=60), st.sampled_from([0, 65_530, 1 << 40]))
def test_order_is_that_of_a_stable_sort(numbers: list[int], base: int) -> None:
    values = np.array(numbers, np.intp) + base
    assert stable_order(values).tolist() == np.argsort(values, kind="stable").tolist()


def test_more_groups_than_16_bits_can_number_are_kept_apart() -> None:
    column = np.arange(70_000, 0, -1).astype(np.uint64)
    numbers = group_numbers(column)
    assert numbers.tolist() == list(range(69_999, -1, -1))
    assert stable_order(numbers).tolist() == numbers.tolist()
