"""Which pages are fresh: brought into the page cache, and not asked for since.

An access to a fresh page is a miss, to any other cached page a hit. That one rule is all the
page-cache reports need, and this module is all that knows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memtap.tracers.grouping import group_numbers, ranks, stable_order

U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Spans:
    """Ranges of pages of files, one per row: [start, stop) of file `dev`, `ino`."""

    dev: npt.NDArray[np.uint32]
    ino: U64
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
        return Spans(self.dev[rows], self.ino[rows], self.start[rows], self.stop[rows])

    @staticmethod
    def empty() -> Spans:
        """No rows."""
        none = np.empty(0, np.uint64)
        return Spans(np.empty(0, np.uint32), none, none, none)

    @staticmethod
    def concatenate(parts: list[Spans]) -> Spans:
        """All rows of all parts, in order."""
        return Spans(
            np.concatenate([part.dev for part in parts]),
            np.concatenate([part.ino for part in parts]),
            np.concatenate([part.start for part in parts]),
            np.concatenate([part.stop for part in parts]),
        )


@dataclass(frozen=True)
class _Pieces:
    """Spans cut at every border of any of them, into cells that lie wholly in or out of each.

    Attributes:
        cell, row: for each piece of a span, which cell it is and which row it comes from.
        start, stop: the pages of each cell. Cells are numbered by file, then by page.
    """

    cell: npt.NDArray[np.intp]
    row: npt.NDArray[np.intp]
    start: U64
    stop: U64


def judge(fresh: Spans, steps: Spans, enters: Bools) -> tuple[U64, Spans]:
    """Follows what happened to pages, step by step.

    Args:
        fresh: the pages that are fresh before.
        steps: what happened, in order of time: pages entered the cache, or were accessed, dirtied
            or dropped. Afterwards they are fresh in the first case, in all others not.
        enters: which steps are of the first kind.

    Returns:
        How many of each step's pages were fresh just before it; and what is fresh afterwards.
    """
    spans = Spans.concatenate([fresh, steps])
    makes_fresh = np.concatenate([np.ones(len(fresh), bool), enters])
    pieces = _cut(spans)
    order = stable_order(pieces.cell)  # by cell, then by time
    cell, row = pieces.cell[order], pieces.row[order]

    follows = np.zeros(len(cell), bool)  # the piece before is of the same cell
    follows[1:] = cell[1:] == cell[:-1]
    was_fresh = follows.copy()
    was_fresh[1:] &= makes_fresh[row[:-1]]
    pages = (pieces.stop - pieces.start)[cell] * was_fresh
    found = np.bincount(row, pages, minlength=len(spans)).astype(np.uint64)

    is_last = np.ones(len(cell), bool)
    is_last[:-1] = ~follows[1:]
    left = is_last & makes_fresh[row]
    return found[len(fresh) :], _join(spans, pieces, cell[left], row[left])


def _cut(spans: Spans) -> _Pieces:
    edges, place = ranks(np.concatenate([spans.start, spans.stop]))
    base = group_numbers(spans.dev, spans.ino) * len(edges)
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
    """Spans of ascending cells, neighbours put together; `row` tells each cell's file."""
    begins = np.ones(len(cell), bool)
    begins[1:] = np.diff(cell) != 1
    ends = np.roll(begins, -1)
    return Spans(
        spans.dev[row[begins]],
        spans.ino[row[begins]],
        pieces.start[cell[begins]],
        pieces.stop[cell[ends]],
    )
