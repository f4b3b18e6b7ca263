"""Which pages have a mark: some steps set it, all other steps clear it.

The most important mark is "fresh": a page was brought into the page cache, and has not been asked
for since. An access to a fresh page is a miss, to any other cached page a hit. The page-cache
reports need no other rule, and only this module knows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memtap.tracers.host.files import serial
from memtap.tracers.model.arrays import group_numbers, ranks, stable_order

U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

# How many ranges of pages are remembered for each mark.
MOST_SPANS = 1 << 18


@dataclass(frozen=True)
class Spans:
    """Ranges of pages of files, one per row: [start, stop) of a file, by its number."""

    file: U64
    start: U64
    stop: U64

    def __len__(self) -> int:
        return len(self.start)

    @property
    def pages(self) -> U64:
        """The length of each span."""
        return self.stop - self.start

    def take(self, rows: npt.NDArray[np.intp] | Bools) -> Spans:
        """Some of the rows."""
        return Spans(self.file[rows], self.start[rows], self.stop[rows])

    @staticmethod
    def empty() -> Spans:
        """No rows."""
        none = np.empty(0, np.uint64)
        return Spans(none, none, none)

    @staticmethod
    def concatenate(parts: list[Spans]) -> Spans:
        """All rows of all parts, in order."""
        return Spans(
            np.concatenate([part.file for part in parts]),
            np.concatenate([part.start for part in parts]),
            np.concatenate([part.stop for part in parts]),
        )


class Marks:
    """The pages that have a mark, of any number of files; in bounded memory.

    Attributes:
        spans: those pages.
    """

    def __init__(self) -> None:
        self.spans = Spans.empty()
        self._forgotten = 0

    def follow(self, steps: Spans, enters: Bools) -> U64:
        """Applies steps in order of time; returns how many pages of each had the mark before it."""
        found = np.zeros(len(steps), np.uint64)
        concerned = _may_touch(self.spans, steps, enters)
        if concerned.any():
            mine = steps.take(concerned)
            touched = np.isin(serial(self.spans.file), serial(mine.file))
            found[concerned], left = judge(self.spans.take(touched), mine, enters[concerned])
            self._keep(Spans.concatenate([self.spans.take(~touched), left]))
        return found

    def take_forgotten(self) -> int:
        """How many pages lost their mark for lack of room since the last call."""
        forgotten, self._forgotten = self._forgotten, 0
        return forgotten

    def _keep(self, spans: Spans) -> None:
        """If there are too many spans, forgets those of the files that were seen first."""
        if len(spans) > MOST_SPANS:
            order = np.argsort(spans.file, kind="stable")
            self._forgotten += int(spans.take(order[:-MOST_SPANS]).pages.sum())
            spans = spans.take(order[-MOST_SPANS:])
        self.spans = spans


def _may_touch(marked: Spans, steps: Spans, enters: Bools) -> Bools:
    """Cheaply leaves out most of the steps that touch no page with the mark."""
    files = np.concatenate([marked.file, steps.file[enters]])
    if len(files) == 0:
        return enters
    low = np.concatenate([marked.start, steps.start[enters]]).min()
    high = np.concatenate([marked.stop, steps.stop[enters]]).max()
    near = (steps.start < high) & (steps.stop > low)
    near[near] = np.isin(serial(steps.file[near]), serial(files))
    concerned: Bools = enters | near
    return concerned


@dataclass(frozen=True)
class _Pieces:
    """Spans split at each other's borders, into cells that are wholly inside or outside of each.

    Attributes:
        cell, row: for each piece of a span, which cell it is and which row it comes from.
        start, stop: the pages of each cell. Cells are numbered by file, then by page.
    """

    cell: npt.NDArray[np.intp]
    row: npt.NDArray[np.intp]
    start: U64
    stop: U64


def judge(marked: Spans, steps: Spans, enters: Bools) -> tuple[U64, Spans]:
    """Applies what happened to pages, step by step.

    Args:
        marked: the pages that have the mark before the steps.
        steps: what happened, in order of time. For freshness: pages entered the cache (then they
            are fresh), or were accessed, dirtied or dropped (then they are not).
        enters: which steps set the mark.

    Returns:
        How many of each step's pages had the mark just before it; and the pages that have it at the
        end.
    """
    spans = Spans.concatenate([marked, steps])
    marks = np.concatenate([np.ones(len(marked), bool), enters])
    pieces = _cut(spans)
    order = stable_order(pieces.cell)  # by cell, then by time
    cell, row = pieces.cell[order], pieces.row[order]

    follows = np.zeros(len(cell), bool)  # the piece before it is of the same cell
    follows[1:] = cell[1:] == cell[:-1]
    had_it = follows.copy()
    had_it[1:] &= marks[row[:-1]]
    pages = (pieces.stop - pieces.start)[cell] * had_it
    found = np.bincount(row, pages, minlength=len(spans)).astype(np.uint64)

    is_last = np.ones(len(cell), bool)
    is_last[:-1] = ~follows[1:]
    left = is_last & marks[row]
    return found[len(marked) :], _join(spans, pieces, cell[left], row[left])


def _cut(spans: Spans) -> _Pieces:
    edges, place = ranks(np.concatenate([spans.start, spans.stop]))
    base = group_numbers(serial(spans.file)) * len(edges)
    first, last = base + place[: len(spans)], base + place[len(spans) :]
    borders, begin_end = ranks(np.concatenate([first, last]))
    begin, end = begin_end[: len(spans)], begin_end[len(spans) :]
    count = end - begin
    row = np.repeat(np.arange(len(spans)), count)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    page = edges[borders % max(len(edges), 1)]
    # The cell between one file's last border and the next file's first is part of no span.
    return _Pieces(begin[row] + nth, row, page, np.roll(page, -1))


def _join(
    spans: Spans, pieces: _Pieces, cell: npt.NDArray[np.intp], row: npt.NDArray[np.intp]
) -> Spans:
    """Spans from ascending cells, with neighbours joined; `row` is a row of each cell's file."""
    begins = np.ones(len(cell), bool)
    begins[1:] = np.diff(cell) != 1
    ends = np.roll(begins, -1)
    return Spans(
        spans.file[row[begins]],
        pieces.start[cell[begins]],
        pieces.stop[cell[ends]],
    )
