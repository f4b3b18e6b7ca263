"""Ranks, orders and groups of arrays of numbers, fast where the numbers stand close together."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from memtap.bpf.stream import take

Numbers = npt.NDArray[Any]
Places = npt.NDArray[np.intp]


# With up to _FEW distinct values, looking each up takes less time than sorting all. A sample shows
# whether there may be so few.
_FEW, _SAMPLE = 1024, 4096


def ranks(values: Numbers) -> tuple[Numbers, Places]:
    """np.unique(values, return_inverse=True), faster where values are few or stand close."""
    low, high = (values.min(), values.max()) if len(values) else (0, 0)
    if int(high) - int(low) > 4 * len(values):
        if _may_be_few(values) and len(distinct := np.unique(values)) <= _FEW:
            return distinct, np.searchsorted(distinct, values)
        distinct, place = np.unique(values, return_inverse=True)
        return distinct, place.astype(np.intp)
    place = (values - low).astype(np.intp)
    there = np.bincount(place, minlength=1) > 0
    return np.flatnonzero(there).astype(values.dtype) + low, (np.cumsum(there) - 1)[place]


def _may_be_few(values: Numbers) -> bool:
    sample = values[:: len(values) // _SAMPLE + 1]
    return len(np.unique(sample)) <= _FEW


def first_of_each(group: Places) -> Places:
    """The first row of each group, by its number; see group_numbers()."""
    first = np.zeros(group.max() + 1 if len(group) else 0, np.intp)
    first[group[::-1]] = np.arange(len(group))[::-1]
    return first


def group_numbers(*columns: Numbers) -> Places:
    """A small number for each row, the same where all columns are the same."""
    number: Places = np.zeros(len(columns[0]), np.intp)
    for column in columns:
        distinct, place = ranks(column)
        number = ranks(number * len(distinct) + place)[1]
    return number


def select(rows: Numbers, which: Numbers) -> Numbers:
    """rows[which] for a mask, without a copy where that is all of them."""
    return rows if which.all() else take(rows, which)


def chain(first: Numbers, second: Numbers) -> Numbers:
    """np.concatenate of two, without a copy where one is empty."""
    if len(first) and len(second):
        return np.concatenate([first, second])
    return first if len(first) else second


def in_order(rows: Numbers, name: str) -> Numbers:
    """Rows in ascending order of a column, without a copy where they are already."""
    keys = rows[name]
    if (keys[1:] >= keys[:-1]).all():
        return rows
    return take(rows, np.argsort(keys, kind="stable"))


def stable_order(numbers: Places) -> Places:
    """np.argsort(kind="stable"), which sorts 16-bit numbers in linear time."""
    small = len(numbers) == 0 or numbers.max() < 1 << 16
    return np.argsort(numbers.astype(np.uint16) if small else numbers, kind="stable")
