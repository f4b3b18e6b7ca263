"""What the rows of the page cache do to pages, step by step, for each mark.

A page can have four marks; see docs/pagecache.md:

- fresh: brought into the cache from storage, and not asked for since;
- unused: fresh, and not mapped either;
- filled: brought in by a write that filled it, and not dirtied since;
- unreached: dirty because its folio is, though no write reached it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memtap.bpf.stream import Events
from memtap.tracers.pagecache.freshness import Bools, Spans
from memtap.tracers.pagecache.probes import Flag, Kind

Pages = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Steps:
    """Steps in order of time.

    Attributes:
        spans: the pages of each.
        enters: which of them set the mark; the others clear it.
        first: for each row, its first step.
    """

    spans: Spans
    enters: Bools
    first: npt.NDArray[np.intp]


def fresh(rows: Events) -> Steps:
    """Pages that enter are fresh until accessed, but not if a fault waits or a write fills them.

    Of the pages that fault-around maps, only the page of the fault is asked for, if it is known.
    """
    faults = (rows["kind"] == Kind.MAP) & (rows["flags"] & Flag.WANTED > 0)
    start = rows["index"] + np.where(faults, rows["call"], 0).astype(np.uint64)
    return _entered(rows, (start, np.where(faults, 1, rows["pages"])))


def unused(rows: Events) -> Steps:
    """The same, but a page that is mapped can be used, so it is no longer unused."""
    return _entered(rows, (rows["index"], rows["pages"]))


def _entered(rows: Events, at: tuple[Pages, Pages]) -> Steps:
    adds = rows["kind"] == Kind.ADD
    known = (rows["flags"] & (Flag.WANTED | Flag.WRITTEN) > 0) & adds
    known_pages = np.where(rows["flags"] & Flag.WANTED, 1, rows["whole"])
    return _steps(rows, adds, at, known, (rows["index"] + rows["call"], known_pages))


def filled(rows: Events) -> Steps:
    """Pages that a write fills as they enter, until the next step."""
    fills = (rows["kind"] == Kind.ADD) & (rows["flags"] & Flag.WRITTEN > 0)
    start = rows["index"] + np.where(fills, rows["call"], 0).astype(np.uint64)
    pages = np.where(fills, rows["whole"], rows["pages"])
    return _steps(rows, fills, (start, pages))


def unreached(rows: Events) -> Steps:
    """The rest of a folio that becomes dirty, if later writes to it are sure to be seen.

    So are pages that the write was announced to reach, and did not reach in the end.
    """
    dirty = rows["kind"] == Kind.DIRTY
    rest = dirty & (rows["flags"] & Flag.UNSURE == 0) & (rows["whole"] > rows["pages"])
    start = rows["index"] - np.where(dirty, rows["call"], 0).astype(np.uint64)
    pages = np.where(dirty, rows["whole"], rows["pages"])
    return _steps(rows, rest | is_short(rows), (start, pages), rest, (rows["index"], rows["pages"]))


def is_short(rows: Events) -> Bools:
    """Which rows take back pages that a write was announced to reach."""
    short: Bools = (rows["kind"] == Kind.WRITE) & (rows["flags"] & Flag.SHORT > 0)
    return short


def _steps(
    rows: Events,
    enters: Bools,
    at: tuple[Pages, Pages],
    twice: Bools | None = None,
    then: tuple[Pages, Pages] | None = None,
) -> Steps:
    """One step for each row, over its pages `at`; for some a second, `then`, which clears it."""
    if twice is None or then is None:
        twice, then = np.zeros(len(rows), bool), at
    origin = np.repeat(np.arange(len(rows)), 1 + twice)
    first = np.ones(len(origin), bool)
    first[1:] = np.diff(origin) > 0
    start, pages = (
        np.where(first, now[origin], later[origin]).astype(np.uint64)
        for now, later in zip(at, then, strict=True)
    )
    spans = Spans(rows["file"][origin], start, start + pages)
    return Steps(spans, first & enters[origin], np.flatnonzero(first))
