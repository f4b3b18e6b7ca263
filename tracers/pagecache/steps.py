"""What the rows of the page cache do to pages, step by step, for each of the marks that are kept.

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
        enters: which of them set the mark; the others take it away.
        first: for each row, its first step.
    """

    spans: Spans
    enters: Bools
    first: npt.NDArray[np.intp]


def fresh(rows: Events) -> Steps:
    """What enters is fresh, but for what a fault waits for or a write fills; an access ends it.

    Of the pages that fault-around maps, that of the fault alone is asked for, if it is known.
    """
    faults = (rows["kind"] == Kind.MAP) & (rows["flags"] & Flag.WANTED > 0)
    start = rows["index"] + np.where(faults, rows["call"], 0).astype(np.uint64)
    return _entered(rows, (start, np.where(faults, 1, rows["pages"])))


def unused(rows: Events) -> Steps:
    """The same, but what is mapped can be used, so it is not unused any more."""
    return _entered(rows, (rows["index"], rows["pages"]))


def _entered(rows: Events, at: tuple[Pages, Pages]) -> Steps:
    adds = rows["kind"] == Kind.ADD
    known = (rows["flags"] & (Flag.WANTED | Flag.WRITTEN) > 0) & adds
    known_pages = np.where(rows["flags"] & Flag.WANTED, 1, rows["whole"])
    return _steps(rows, adds, at, known, (rows["index"] + rows["call"], known_pages))


def filled(rows: Events) -> Steps:
    """What a write fills as it enters; whatever comes then ends it."""
    fills = (rows["kind"] == Kind.ADD) & (rows["flags"] & Flag.WRITTEN > 0)
    start = rows["index"] + np.where(fills, rows["call"], 0).astype(np.uint64)
    pages = np.where(fills, rows["whole"], rows["pages"])
    return _steps(rows, fills, (start, pages))


def unreached(rows: Events) -> Steps:
    """The rest of a folio that becomes dirty, if it is sure to be seen when it is written to.

    So is what the write was said to reach when it did so, and did not reach in the end; and what a
    file has no more of a folio that stays dirty.
    """
    dirty = rows["kind"] == Kind.DIRTY
    rest = dirty & (rows["flags"] & Flag.UNSURE == 0) & (rows["whole"] > rows["pages"])
    start = rows["index"] - np.where(dirty, rows["call"], 0).astype(np.uint64)
    pages = np.where(dirty | is_write(rows, Flag.UNSURE), rows["whole"], rows["pages"])
    enters = rest | is_write(rows, Flag.SHORT) | is_write(rows, Flag.EMPTIED)
    return _steps(rows, enters, (start, pages), rest, (rows["index"], rows["pages"]))


def is_write(rows: Events, flag: Flag) -> Bools:
    """Which rows are no plain writes, but tell something else of pages in dirty folios.

    SHORT takes back what a write was said to reach; of EMPTIED and UNSURE see Flag.
    """
    told: Bools = (rows["kind"] == Kind.WRITE) & (rows["flags"] & flag > 0)
    return told


def _steps(
    rows: Events,
    enters: Bools,
    at: tuple[Pages, Pages],
    twice: Bools | None = None,
    then: tuple[Pages, Pages] | None = None,
) -> Steps:
    """One step for each row, over its pages `at`; a second, `then`, that ends it, for some."""
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
