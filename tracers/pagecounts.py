"""What bpf/programs/pagecache.bpf.c sees, counted by process and file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # the other CPUs belong to those we watch
import polars as pl

from memtap.bpf.stream import Events
from memtap.tracers.audit import audit
from memtap.tracers.chunk import Interval, Origin
from memtap.tracers.freshness import Bools, Spans, judge
from memtap.tracers.grouping import chain, group_numbers, in_order, select
from memtap.tracers.pagecache import BUCKETS, Flag, Kind
from memtap.tracers.pagerows import KEYS, ROW

# A read of several pages that was last seen this long before the end of an interval is over.
SETTLE_NS = 100_000_000


# What is counted for each process and file, all in pages; docs/pagecache.md defines the words.
#   hits, misses: accesses to pages that were cached, that were not
#   dirties: made dirty; dirty_misses: of those, not in the cache before
#   device_dirties: of the dirties, in a block device's own cache. A file system looks metadata up
#       there without any tracepoint, so whether it was in the cache before is not known
#   inserted, evicted: entered and left the cache
#   wasted: left it without having been asked for
COUNTS = (
    "hits",
    "misses",
    "dirties",
    "dirty_misses",
    "device_dirties",
    "inserted",
    "evicted",
    "wasted",
)
_SUMS = ("accesses", *COUNTS[1:])


@dataclass(frozen=True)
class _Judged:
    """Rows, and how many of each row's pages were fresh just before it."""

    rows: Events
    found: npt.NDArray[np.uint64]

    def take(self, which: Bools) -> _Judged:
        return _Judged(select(self.rows, which), select(self.found, which))

    def and_then(self, more: _Judged) -> _Judged:
        return _Judged(chain(self.rows, more.rows), chain(self.found, more.found))


class PageCache:
    """Counts events. Pure: no clock, no I/O; the same events always give the same counts.

    Attributes:
        unknown_pages: how many pages have entered the cache of which we do not know which, as the
            kernel only added them up. Their first access is taken for a hit.
    """

    def __init__(self) -> None:
        self._fresh = Spans.empty()
        self._late = np.empty(0, ROW)
        self._under_way = _Judged(np.empty(0, ROW), np.empty(0, np.uint64))
        self._tallies: list[pl.DataFrame] = []
        self._events = 0
        self._entered = np.zeros(BUCKETS, np.uint64)
        self._devices = np.empty(0, np.uint32)
        self.unknown_pages = 0

    def feed(self, rows: Events, until_ns: int, last: bool = False) -> None:
        """Counts rows in order of time, up to `until_ns`; the rest waits for the next call.

        Reads of several pages that may still be under way are followed at once, but they count
        in the interval in which they end. With `last` nothing waits.
        """
        rows = in_order(chain(self._late, rows), "ns")  # some are older than those that waited
        ripe = len(rows) if last else np.searchsorted(rows["ns"], until_ns, side="right")
        self._late = rows[ripe:].copy()  # a view would hold all of the memory
        judged = self._under_way.and_then(self._judge(rows[:ripe]))
        waits = _may_go_on(judged.rows, until_ns) & (not last)
        self._under_way = judged.take(waits)
        self._count(judged.take(~waits))

    def take(self) -> pl.DataFrame:
        """COUNTS by KEYS since the last call, one row per process and file."""
        tallies, self._tallies = self._tallies, []
        types = dict.fromkeys((*KEYS, *_SUMS), pl.Int64) | {"ino": pl.UInt64}
        empty = pl.DataFrame(schema=types)
        sums = pl.concat([empty, *tallies]).group_by(KEYS).sum().sort(KEYS)
        return sums.with_columns(hits=hits(pl.col("accesses"), pl.col("misses")))

    def take_events(self) -> int:
        """How many events were counted since the last call; a counted run is one for each page."""
        events, self._events = self._events, 0
        return events

    @property
    def unused_pages(self) -> int:
        """How many pages are fresh now, block devices' own caches left out."""
        own = np.isin(self._fresh.dev, self._devices)
        return int(self._fresh.pages[~own].sum())

    def settled(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint64]]:
        """Buckets none of whose files has a fresh page, and how many folios entered each."""
        settled = np.ones(BUCKETS, bool)
        settled[bucket_of(self._fresh.dev, self._fresh.ino)] = False
        buckets = np.flatnonzero(settled)
        return buckets, self._entered[buckets]

    def _judge(self, rows: Events) -> _Judged:
        """Follows rows in order of time; how many pages of each were fresh."""
        adds = rows[rows["kind"] == Kind.ADD]
        spilled = rows["flags"] & Flag.SPILLED > 0
        folios = np.where(adds["flags"] & Flag.SPILLED > 0, adds["index"], 1).astype(np.uint64)
        np.add.at(self._entered, bucket_of(adds["dev"], adds["ino"]), folios)
        self.unknown_pages += int(adds["pages"][adds["flags"] & Flag.SPILLED > 0].sum())
        # All block devices' own inodes are on one pseudo file system, so have one device number.
        own = adds["dev"][adds["flags"] & Flag.DEVICE > 0]
        self._devices = np.union1d(self._devices, own)
        found = np.zeros(len(rows), np.uint64)
        moves = (rows["kind"] != Kind.HITS) & ~spilled
        found[moves] = self._follow(select(rows, moves))
        return _Judged(rows, found)

    def _count(self, judged: _Judged) -> None:
        runs = judged.rows["kind"] == Kind.HITS
        self._events += int(np.sum(~runs)) + int(judged.rows["pages"][runs].sum())
        self._tallies.append(_tally(judged.rows, judged.found))

    def _follow(self, rows: Events) -> npt.NDArray[np.uint64]:
        """Keeps `fresh` up to date; how many pages of each row were fresh."""
        steps, enters, origin = _steps(rows)
        concerned = _may_touch(self._fresh, steps, enters)
        found = np.zeros(len(steps), np.uint64)
        found[concerned], self._fresh = judge(self._fresh, steps.take(concerned), enters[concerned])
        return found[origin]


def page_audit(origin: Origin, interval: Interval, cache: PageCache) -> dict[str, Any]:
    """The audit of a report of the page cache, and of the events that were counted for it.

    A fault that maps 2 MiB of a file at once (filemap_map_pmd()) fires no tracepoint.
    """
    events, huge = cache.take_events(), interval.kernel.get("thp_file_mapped", 0)
    unknown = min(cache.unknown_pages, events)
    notes = {
        f"{huge} huge mappings of files were made; up to as many accesses are not counted": huge,
        f"{cache.unknown_pages} pages entered the cache while the buffers were full; up to "
        f"{unknown} hits are misses": unknown,
    }
    said = [note for note, number in notes.items() if number]
    return audit(origin, interval, events, unseen=huge + unknown, notes=said)


def hits(accesses: pl.Expr, misses: pl.Expr) -> pl.Expr:
    """Accesses that were no misses.

    A fault can be counted when an interval ends and its miss just after, so never less than 0.
    """
    return (accesses - misses).clip(0)


def bucket_of(dev: npt.NDArray[np.uint32], ino: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """The bucket of each file, computed as in the C program."""
    return ((ino ^ ino >> np.uint64(12) ^ dev) & np.uint64(BUCKETS - 1)).astype(np.intp)


def _may_go_on(rows: Events, until_ns: int) -> Bools:
    """Which rows are of a read of several pages that may not be over at `until_ns`.

    That is each thread's newest read call, if its last batch asked for more than one page and is
    not SETTLE_NS old; all rows of such a call wait together.
    """
    is_read = rows["kind"] == Kind.READ
    recent = np.flatnonzero(is_read & (rows["ns"] > max(until_ns - SETTLE_NS, 0)))[::-1]
    newest = recent[np.unique(rows["tid"][recent], return_index=True)[1]]
    unfinished = newest[rows["pages"][newest] > 1]
    if len(unfinished) == 0:
        return np.zeros(len(rows), bool)
    call = rows["tid"].astype(np.uint64) << np.uint64(16) | rows["call"]
    waits: Bools = is_read & np.isin(call, call[unfinished])
    return waits


def _steps(rows: Events) -> tuple[Spans, Bools, npt.NDArray[np.intp]]:
    """What rows do to pages, for judge(): steps, which enter the cache, and each row's step.

    A folio that a fault waits for gives two: it enters, and its page that is waited for is asked
    for at once.
    """
    wanted = (rows["kind"] == Kind.ADD) & (rows["flags"] & Flag.WANTED > 0)
    origin = np.repeat(np.arange(len(rows)), 1 + wanted)
    first = np.ones(len(origin), bool)
    first[1:] = np.diff(origin) > 0
    start = rows["index"][origin] + np.where(first, 0, rows["call"][origin]).astype(np.uint64)
    pages = np.where(first, rows["pages"][origin], 1).astype(np.uint64)
    steps = Spans(rows["dev"][origin], rows["ino"][origin], start, start + pages)
    enters = first & (rows["kind"][origin] == Kind.ADD)
    return steps, enters, np.flatnonzero(first)


def _may_touch(fresh: Spans, steps: Spans, enters: Bools) -> Bools:
    """Leaves out most of the steps that cannot meet a fresh page, cheaply."""
    inos = np.concatenate([fresh.ino, steps.ino[enters]])
    if len(inos) == 0:
        return enters
    low = np.concatenate([fresh.start, steps.start[enters]]).min()
    high = np.concatenate([fresh.stop, steps.stop[enters]]).max()
    near = (steps.start < high) & (steps.stop > low)
    near[near] = np.isin(steps.ino[near], inos)
    concerned: Bools = enters | near
    return concerned


def _tally(rows: Events, found: npt.NDArray[np.uint64]) -> pl.DataFrame:
    """COUNTS by KEYS; `found` is how many pages of each row were fresh."""
    group = group_numbers(*(rows[key] for key in KEYS))
    _, one = np.unique(group, return_index=True)
    sums = {
        name: np.bincount(group, values, minlength=len(one)).astype(np.int64)
        for name, values in _contributions(rows, found).items()
    }
    keys = {key: rows[key][one].astype(np.uint64 if key == "ino" else np.int64) for key in KEYS}
    return pl.DataFrame(keys | sums)


def _contributions(
    rows: Events, found: npt.NDArray[np.uint64]
) -> dict[str, npt.NDArray[np.uint64]]:
    """What each row adds to each of _SUMS."""
    kind, pages = rows["kind"], rows["pages"].astype(np.uint64)
    once = rows["flags"] & Flag.AGAIN == 0
    fault = ((kind == Kind.MAP) | (kind == Kind.FAULT)) & once
    read = kind == Kind.READ
    dirty, device = kind == Kind.DIRTY, rows["flags"] & Flag.DEVICE > 0
    awaited = (kind == Kind.ADD) & (rows["flags"] & Flag.WANTED > 0)
    times = np.where(rows["flags"] & Flag.SPILLED > 0, rows["index"], 1).astype(np.uint64)
    return {
        "accesses": pages * ((read & once) | (kind == Kind.HITS)) + fault,
        "misses": found * read + np.minimum(found, 1) * fault + awaited * times,
        "dirties": pages * dirty,
        "dirty_misses": found * (dirty & ~device),
        "device_dirties": pages * (dirty & device),
        "inserted": pages * (kind == Kind.ADD),
        "evicted": pages * (kind == Kind.DELETE),
        "wasted": found * (kind == Kind.DELETE),
    }
