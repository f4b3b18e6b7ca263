"""The address ranges of one process, each with a number."""

from __future__ import annotations

import mmap
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
Places = npt.NDArray[np.intp]


class Part(NamedTuple):
    """A number of pages of a range, the number of their place, and the offset of the first."""

    pages: int
    place: int
    offset: int


Parts = list[Part]

PAGE_BYTES = mmap.PAGESIZE

# The number for addresses without a mapping.
NOWHERE = 0

Arrays = tuple[U64, U64, Numbers, U64]
Columns = tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]] | Arrays

_TOP = 2**64 - 1

# To search many spaces at once, the number of a space is put above its page numbers.
_PAGE_BITS = 52
_TOGETHER = 1 << 64 - _PAGE_BITS

# With this many mappings, to make arrays takes as long as to look one address up without them.
_MANY = 8


class Space:
    """What a process has mapped: numbers of places, by address."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.numbers: list[int] = []
        self.shifts: list[int] = []  # from addresses to places in the file, modulo 2**64
        self.latest = 0  # the end of what was mapped last
        self._arrays: Arrays | None = None

    def copy(self) -> Space:
        """A child's."""
        child = Space()
        child.starts, child.ends = self.starts.copy(), self.ends.copy()
        child.numbers, child.shifts = self.numbers.copy(), self.shifts.copy()
        child.latest, child._arrays = self.latest, self._arrays
        return child

    def overlapping(self, start: int, end: int) -> tuple[int, int]:
        """The slice of mappings that overlap [start, end)."""
        first = bisect_right(self.starts, start)
        if first and self.ends[first - 1] > start:
            first -= 1
        last = first
        while last < len(self.starts) and self.starts[last] < end:
            last += 1
        return first, last

    def before(self, start: int) -> int:
        """The number of the place that ends exactly at `start`, or NOWHERE."""
        at = bisect_left(self.starts, start) - 1
        return self.numbers[at] if at >= 0 and self.ends[at] == start else NOWHERE

    def at(self, address: int) -> tuple[int, int]:
        """The number of the place at an address, or NOWHERE, and the offset in its file."""
        found = bisect_right(self.starts, address) - 1
        if found < 0 or address >= self.ends[found]:
            return NOWHERE, 0
        return self.numbers[found], (address + self.shifts[found]) % 2**64

    def put(self, start: int, end: int, number: int, offset: int = 0) -> None:
        """Maps [start, end), from `offset` of its file on, and replaces what was there."""
        self._replace(start, end, [(start, end, number, (offset - start) % 2**64)])

    def drop(self, start: int, end: int) -> None:
        """Unmaps [start, end)."""
        self._replace(start, end, [])

    def _replace(self, start: int, end: int, by: list[tuple[int, int, int, int]]) -> None:
        if not self.ends or start >= self.ends[-1]:  # as when they are read in order
            first = last = len(self.starts)
        else:
            first, last = self.overlapping(start, end)
        pieces = by.copy()
        if first < last:
            if self.starts[first] < start:
                pieces.insert(0, (self.starts[first], start, *self._what(first)))
            if self.ends[last - 1] > end:
                pieces.append((end, self.ends[last - 1], *self._what(last - 1)))
        columns = self.starts, self.ends, self.numbers, self.shifts
        for place, column in enumerate(columns):
            column[first:last] = [piece[place] for piece in pieces]
        self._arrays = None

    def _what(self, at: int) -> tuple[int, int]:
        return self.numbers[at], self.shifts[at]

    def parts(self, start: int, count: int) -> Parts:
        """The pages from an address on: how many are in which place, and from which offset on."""
        return parts_in((self.starts, self.ends, self.numbers, self.shifts), start, count)

    def locate(self, addresses: U64) -> tuple[Numbers, U64, Numbers]:
        """For each address its place, or NOWHERE, and the offset in its file.

        Third, the next place above it.
        """
        if self.are_few(len(addresses)):
            return self._locate_few(addresses.tolist())
        starts, ends, numbers, shifts = self.arrays()
        at = np.searchsorted(starts, addresses, "right") - 1
        return _found(at, addresses, ends, numbers, shifts)

    def are_few(self, count: int) -> bool:
        """Whether so few addresses are looked up faster one by one than with arrays."""
        return self._arrays is None and count * _MANY <= len(self.starts)

    def arrays(self) -> Arrays:
        """Starts, ends, numbers and shifts; the last entry is NOWHERE, above all others."""
        if self._arrays is None:
            count = len(self.starts) + 1
            starts, ends, shifts = (
                np.fromiter((*column, last), np.uint64, count)
                for column, last in ((self.starts, _TOP), (self.ends, 0), (self.shifts, 0))
            )
            numbers = np.fromiter((*self.numbers, NOWHERE), np.uint32, count)
            self._arrays = starts, ends, numbers, shifts
        return self._arrays

    def _locate_few(self, addresses: list[int]) -> tuple[Numbers, U64, Numbers]:
        """The same, without making arrays of all mappings."""
        found = [self.at(address) for address in addresses]
        above = [bisect_right(self.starts, address) for address in addresses]
        beyond = [self.numbers[at] if at < len(self.numbers) else NOWHERE for at in above]
        numbers, offsets = zip(*found, strict=True) if found else ((), ())
        return (
            np.array(numbers, np.uint32),
            np.array(offsets, np.uint64),
            np.array(beyond, np.uint32),
        )


def parts_in(columns: Columns, start: int, count: int) -> Parts:
    """Space.parts() of a space that has, or had, these starts, ends, numbers and shifts."""
    starts, ends, numbers, shifts = columns
    found: Parts = []
    while count:
        at = bisect_right(starts, start) - 1
        inside = at >= 0 and start < ends[at]
        above = int(starts[at + 1]) if at + 1 < len(starts) else 2**64
        pages = min(count, -((start - (int(ends[at]) if inside else above)) // PAGE_BYTES))
        number, shift = (int(numbers[at]), int(shifts[at])) if inside else (NOWHERE, 0)
        found.append(Part(pages, number, (start + shift) % 2**64))
        start, count = start + pages * PAGE_BYTES, count - pages
    return found


class Waiting:
    """Addresses to be looked up, each in a space as it was when the address was added.

    There may be thousands of spaces with a few addresses each, so they wait until all can be looked
    up at once. Children that changed nothing share the arrays of their parent, which count once.
    """

    def __init__(self) -> None:
        self._arrays: list[Arrays] = []
        self._rows: dict[int, list[Places]] = {}

    def add(self, space: Space, rows: Places) -> None:
        """Adds rows whose addresses are to be looked up in a space as it is now."""
        arrays = space.arrays()
        rows_of = self._rows.get(id(arrays))
        if rows_of is None:
            rows_of = self._rows[id(arrays)] = []
            self._arrays.append(arrays)  # keeps its id() from being used again
        rows_of.append(rows)

    def take(self) -> tuple[list[Arrays], Places, Places]:
        """The arrays, the index of each row's arrays, and the rows; afterwards none waits."""
        arrays, each = self._arrays, [np.concatenate(rows) for rows in self._rows.values()]
        self._arrays, self._rows = [], {}
        which = np.repeat(np.arange(len(each)), [len(rows) for rows in each])
        return arrays, which, np.concatenate(each) if each else np.empty(0, np.intp)


def locate_in(spaces: list[Arrays], which: Places, addresses: U64) -> tuple[Numbers, U64, Numbers]:
    """Space.locate() for addresses in many spaces; `which`, the space of each, ascends."""
    if len(spaces) == 1:
        starts, ends, numbers, shifts = spaces[0]
        return _found(
            np.searchsorted(starts, addresses, "right") - 1, addresses, ends, numbers, shifts
        )
    borders = np.searchsorted(which, np.arange(0, len(spaces) + _TOGETHER, _TOGETHER)).tolist()
    parts = [
        _locate_in(spaces[number * _TOGETHER :][:_TOGETHER], which[begin:end], addresses[begin:end])
        for number, (begin, end) in enumerate(pairwise(borders))
    ]
    found, offsets, above = map(np.concatenate, zip(*parts, strict=True))
    return found, offsets, above


def _locate_in(arrays: list[Arrays], which: Places, addresses: U64) -> tuple[Numbers, U64, Numbers]:
    starts, ends, numbers, shifts = map(np.concatenate, zip(*arrays, strict=True))
    keys = _keys(np.repeat(np.arange(len(arrays)), [len(each[0]) for each in arrays]), starts)
    below = np.minimum(addresses, np.uint64(_TOP - PAGE_BYTES))  # what is above all spaces
    at = np.searchsorted(keys, _keys(which % _TOGETHER, below), "right") - 1
    return _found(at, addresses, ends, numbers, shifts)


def _keys(spaces: Places, addresses: U64) -> U64:
    pages = addresses // np.uint64(PAGE_BYTES)
    return spaces.astype(np.uint64) << np.uint64(_PAGE_BITS) | pages


def _found(
    at: Places, addresses: U64, ends: U64, numbers: Numbers, shifts: U64
) -> tuple[Numbers, U64, Numbers]:
    """What Space.locate() returns, by the last mapping that begins at or below each address.

    Below the first mapping of a space is the NOWHERE entry of another space.
    """
    found = np.where(addresses < ends[at], numbers[at], NOWHERE).astype(np.uint32)
    return found, addresses + shifts[at], numbers[np.minimum(at + 1, len(numbers) - 1)]
