"""The order of rows, and how many of them are shown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest

from memtap.cli.arrange import Order, next_column
from memtap.tracers.model.report import Column, Report

COLUMNS = (Column("key", "KEY", "text"), Column("value", "VALUE"))

Value = int | float | str | None


def make_report(values: Sequence[Value]) -> Report:
    rows = [{"key": key, "value": value} for key, value in enumerate(values)]
    return Report("r", "2026-01-31T12:00:01.000Z", 1.0, COLUMNS, rows, {"notes": []})


def arranged(order: Order, *values: Value) -> list[Value]:
    return [row["value"] for row in order.arrange(make_report(values)).rows]


@pytest.mark.parametrize(
    ("values", "forwards", "backwards"),
    [
        ([1, 3, 2], [3, 2, 1], [1, 2, 3]),
        ([0.5, 100.0, 0], [100.0, 0.5, 0], [0, 0.5, 100.0]),
        (["b", "a", "c"], ["a", "b", "c"], ["c", "b", "a"]),
        ([9, 10, 100], [100, 10, 9], [9, 10, 100]),
        ([None, 1, None, 2], [2, 1, None, None], [1, 2, None, None]),
        ([None, "b", "a"], ["a", "b", None], ["b", "a", None]),
        ([None, None], [None, None], [None, None]),
        ([], [], []),
    ],
)
def test_numbers_fall_and_texts_rise_and_what_has_no_value_is_last(
    values: list[Value], forwards: list[Value], backwards: list[Value]
) -> None:
    assert arranged(Order("value"), *values) == forwards
    assert arranged(Order("value", reverse=True), *values) == backwards


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("values", [[5, 5, 5], ["a", "a", "a"], [None, None, None]])
def test_rows_of_one_value_keep_their_order(values: list[Value], reverse: bool) -> None:
    report = Order("value", reverse).arrange(make_report(values))
    assert [row["key"] for row in report.rows] == [0, 1, 2]


@pytest.mark.parametrize(
    ("rows", "left"), [(1, [3]), (2, [3, 2]), (9, [3, 2, 1]), (None, [3, 2, 1])]
)
def test_the_first_rows_in_order_are_left(rows: int | None, left: list[Value]) -> None:
    assert arranged(Order("value", rows=rows), 1, 3, 2) == left


@pytest.mark.parametrize("reverse", [False, True])
def test_no_row_is_lost_or_changed(reverse: bool) -> None:
    for values in product([None, 0, 1, 2], repeat=4):
        before = make_report(values)
        after = Order("value", reverse).arrange(before)
        assert sorted(row["key"] for row in after.rows) == [0, 1, 2, 3]
        assert all(values[row["key"]] == row["value"] for row in after.rows)
        assert before == make_report(values)


def test_all_but_the_rows_stays_as_it_is() -> None:
    before = make_report([1, 2])
    after = Order("value", rows=1).arrange(before)
    assert after.to_dict() | {"rows": []} == before.to_dict() | {"rows": []}


def test_an_order_can_be_turned_and_go_by_another_column() -> None:
    order = Order("value", rows=7)
    assert order.turned() == Order("value", reverse=True, rows=7)
    assert order.turned().turned() == order
    assert order.turned().by("key") == Order("key", reverse=True, rows=7)


@pytest.mark.parametrize(
    ("name", "step", "found"),
    [("a", 1, "b"), ("b", 1, "c"), ("c", 1, "a"), ("c", -1, "b"), ("a", -1, "c")],
)
def test_after_the_last_column_comes_the_first(name: str, step: int, found: str) -> None:
    columns = [Column(letter, letter.upper()) for letter in "abc"]
    assert next_column(columns, name, step) == found


def test_what_is_equal_comes_by_another_column() -> None:
    rows = [{"a": 0, "b": 1}, {"a": 2, "b": 0}, {"a": 0, "b": 9}]
    report = Report("r", "2026-01-31T12:00:01.000Z", 1.0, (), rows, {"notes": []})
    assert [row["b"] for row in Order("a", ties="b").arrange(report).rows] == [0, 9, 1]
    assert [row["b"] for row in Order("a", reverse=True, ties="b").arrange(report).rows] == [
        9,
        1,
        0,
    ]
