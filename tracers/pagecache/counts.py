"""Counts the events of bpf/programs/pagecache.bpf.c by process and file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from memtap.bpf.stream import Events
from memtap.tracers.host.files import BUCKETS, bucket_of, serial
from memtap.tracers.model.arrays import chain, first_of_each, group_numbers, in_order, select
from memtap.tracers.model.audit import audit
from memtap.tracers.model.chunk import Interval, Origin
from memtap.tracers.model.frames import pl
from memtap.tracers.pagecache import steps
from memtap.tracers.pagecache.freshness import Bools, Marks
from memtap.tracers.pagecache.probes import Flag, Kind
from memtap.tracers.pagecache.rows import KEYS, ROW

# The kernel gives a read folios in batches (PAGEVEC_SIZE); it may wait for the last of a batch.
BATCH = 31

# A read of several pages is over if its last event is this much older than the interval's end.
SETTLE_NS = 100_000_000


# What is counted for each process and file, all in pages; docs/pagecache.md defines the words.
#   hits, misses: accesses to pages that were cached, that were not
#   dirties: reached by a write and made dirty; dirty_misses: of those, not in the cache before
#   device_dirties: of the dirties, in a block device's own cache. A file system looks metadata up
#       there without any tracepoint, so whether it was in the cache before is not known
#   dirty_folios: of the folios that became dirty; unsure: of those, may have been reached unseen
#   inserted, evicted: entered and left the cache; removed: left it with what the file had there
#   written_in: of those inserted, put there by writes
#   wasted: left it without having been asked for
COUNTS = (
    "hits",
    "misses",
    "dirties",
    "dirty_misses",
    "device_dirties",
    "dirty_folios",
    "unsure",
    "inserted",
    "written_in",
    "evicted",
    "removed",
    "wasted",
)
_SUMS = ("accesses", *COUNTS[1:])


_HUGE_NOTE = "{} huge mappings of files were made; up to as many accesses are not counted"
_UNSURE_NOTE = "up to {} pages more were dirtied, in large folios whose writes are not all seen"
_BEGIN_NOTE = (
    "where {} reads or faults began or ended is not known; the accesses of each may be off by as "
    f"many pages as {BATCH} folios hold"
)
_UNKNOWN_NOTE = (
    "{unknown} pages entered the cache while the buffers were full; up to {} hits are misses"
)
_THROUGH_NOTE = (
    "{through} pages were written through by calls of which it is not known how far they go; up to "
    "{} misses are hits"
)
_FORGOTTEN_NOTE = "for lack of room it was forgotten of {} pages how they came into the cache"

MARKS = {
    "fresh": steps.fresh,
    "unused": steps.unused,
    "filled": steps.filled,
    "unreached": steps.unreached,
}
_FOUND = np.dtype([(name, "u4") for name in MARKS])


@dataclass(frozen=True)
class _Judged:
    """Rows, and how many pages of each row had each of MARKS just before the row."""

    rows: Events
    found: npt.NDArray[np.void]

    def take(self, which: Bools) -> _Judged:
        return _Judged(select(self.rows, which), select(self.found, which))

    def and_then(self, more: _Judged) -> _Judged:
        return _Judged(chain(self.rows, more.rows), chain(self.found, more.found))


class PageCache:
    """Counts events. Pure: no clock, no I/O; the same events always give the same counts.

    Attributes:
        unknown_pages: how many pages have entered the cache that we cannot identify, as the kernel
            only added them up. Their first access counts as a hit.
        through_pages: how many pages write-through has brought in without our knowing whether it
            filled them. Their first access counts as a miss.
        has_unseen_reads: whether there were files of which the kernel does not report all reads.
    """

    def __init__(self, own: int = 0) -> None:
        self._own, self._left_out = own, 0
        self._marks = {name: Marks() for name in MARKS}
        self._pending = np.empty(0, ROW)
        self._under_way = _Judged(np.empty(0, ROW), np.empty(0, _FOUND))
        self._tallies: list[pl.DataFrame] = []
        self._events = 0
        self._unsure = 0
        self._entered = np.zeros(BUCKETS, np.uint64)
        self._devices = np.empty(0, np.uint64)
        self.unknown_pages = 0
        self.through_pages = 0
        self.has_unseen_reads = False

    def feed(self, rows: Events, until_ns: int, last: bool = False) -> None:
        """Counts rows in order of time, up to `until_ns`; the rest waits for the next call.

        A read of several pages that may not have ended is applied to the marks at once, but counts
        in the interval in which it ends. With `last` nothing waits.
        """
        rows = in_order(chain(self._pending, rows), "ns")  # some are older than the pending rows
        settled = len(rows) if last else np.searchsorted(rows["ns"], until_ns, side="right")
        self._pending = rows[settled:].copy()  # a view would hold all of the memory
        judged = self._under_way.and_then(self._judge(rows[:settled]))
        waits = _may_go_on(judged.rows, until_ns) & (not last)
        self._under_way = judged.take(waits)
        self._count(judged.take(~waits))

    def take(self) -> pl.DataFrame:
        """COUNTS by KEYS since the last call, one row per process and file."""
        tallies, self._tallies = self._tallies, []
        types = dict.fromkeys((*KEYS, *_SUMS), np.int64) | {"file": np.uint64}
        column = {
            name: np.concatenate([np.empty(0, kind), *(each[name].to_numpy() for each in tallies)])
            for name, kind in types.items()
        }
        group = group_numbers(column["tgid"], serial(column["file"]))
        one = first_of_each(group)
        sums = {n: np.bincount(group, column[n], len(one)).astype(np.int64) for n in _SUMS}
        hit = hits(sums["accesses"], sums["misses"])
        return pl.DataFrame({key: column[key][one] for key in KEYS} | sums | {"hits": hit})

    def take_events(self) -> int:
        """How many events were counted since the last call; a counted run is one event per page."""
        events, self._events = self._events, 0
        return events

    def take_left_out(self) -> int:
        """The same for events that were left out, as the process `own` caused them."""
        left_out, self._left_out = self._left_out, 0
        return left_out

    def take_unsure(self) -> int:
        """How many reads since the last call may have begun before their first event."""
        unsure, self._unsure = self._unsure, 0
        return unsure

    @property
    def unused_pages(self) -> int:
        """How many pages are unused now, without those of block devices' own caches."""
        unused = self._marks["unused"].spans
        return int(unused.pages[~np.isin(unused.file, self._devices)].sum())

    def take_forgotten(self) -> int:
        """How many pages had their marks forgotten since the last call."""
        return sum(marks.take_forgotten() for marks in self._marks.values())

    def settled(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint64]]:
        """The buckets whose files have no fresh page, and how many folios entered each."""
        settled = np.ones(BUCKETS, bool)
        settled[bucket_of(self._marks["fresh"].spans.file)] = False
        buckets = np.flatnonzero(settled)
        return buckets, self._entered[buckets]

    def _judge(self, rows: Events) -> _Judged:
        """Applies rows to the marks in order of time; counts each row's pages that had them."""
        adds = rows[rows["kind"] == Kind.ADD]
        spilled = rows["flags"] & Flag.SPILLED > 0
        folios = np.where(adds["flags"] & Flag.SPILLED > 0, adds["index"], 1).astype(np.uint64)
        np.add.at(self._entered, bucket_of(adds["file"]), folios)
        self.unknown_pages += int(adds["pages"][adds["flags"] & Flag.SPILLED > 0].sum())
        own = adds["file"][adds["flags"] & Flag.DEVICE > 0]
        self._devices = np.union1d(self._devices, own)
        unsure, written = (adds["flags"] & flag > 0 for flag in (Flag.UNSURE, Flag.WRITTEN))
        self.has_unseen_reads |= bool((unsure & ~written).any())
        self.through_pages += int(adds["pages"][unsure & written].sum())
        found = np.zeros(len(rows), _FOUND)
        moves = (rows["kind"] != Kind.HITS) & ~spilled
        moving = select(rows, moves)
        for name, steps_of in MARKS.items():
            steps = steps_of(moving)
            found[name][moves] = self._marks[name].follow(steps.spans, steps.enters)[steps.first]
        return _Judged(rows, found)

    def _count(self, judged: _Judged) -> None:
        own = (judged.rows["tgid"] == self._own) & (self._own > 0)
        self._left_out += _counted(judged.rows[own])
        judged = judged.take(~own)
        self._events += _counted(judged.rows)
        self._unsure += _added_up(judged.rows[_is_unsure(judged.rows)])
        self._tallies.append(_tally(judged.rows, judged.found))


def page_audit(
    origin: Origin, interval: Interval, cache: PageCache, tally: pl.DataFrame
) -> dict[str, Any]:
    """The audit of a report of the page cache, whose counts are `tally`, and of their events.

    A fault that maps 2 MiB of a file at once (filemap_map_pmd()) fires no tracepoint. A read that
    waits in its first batch of folios fires late, and not for all reads is it known where they
    began.
    """
    events = cache.take_events()
    doubts = {
        _HUGE_NOTE: interval.kernel.get("thp_file_mapped", 0),
        _UNSURE_NOTE: int(tally["unsure"].sum()),
        _BEGIN_NOTE: cache.take_unsure(),
        _FORGOTTEN_NOTE: cache.take_forgotten(),
        _UNKNOWN_NOTE: min(cache.unknown_pages, events),
        _THROUGH_NOTE: min(cache.through_pages, int(tally["misses"].sum())),
    }
    totals = {"unknown": cache.unknown_pages, "through": cache.through_pages}
    notes = [note.format(count, **totals) for note, count in doubts.items() if count]
    unseen, own = sum(doubts.values()) + cache.has_unseen_reads, cache.take_left_out()
    return audit(origin, interval, events, unseen=unseen, notes=notes, own=own)


def _counted(rows: Events) -> int:
    """How many events these rows count: a run is one event per page."""
    runs = rows["kind"] == Kind.HITS
    return int(np.sum(~runs)) + int(rows["pages"][runs].sum())


def hits(accesses: npt.NDArray[np.int64], misses: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Accesses that were not misses.

    Never less than 0: an interval can end between a fault and its miss.
    """
    found: npt.NDArray[np.int64] = np.maximum(accesses - misses, 0)
    return found


def _may_go_on(rows: Events, until_ns: int) -> Bools:
    """Which rows are of a read of several pages that may not have ended at `until_ns`.

    That is the newest read call of each thread, if its last batch asked for more than one page and
    is younger than SETTLE_NS; all rows of such a call wait together.
    """
    is_read = (rows["kind"] == Kind.READ) & (rows["flags"] & Flag.OVER == 0)
    recent = np.flatnonzero(is_read & (rows["ns"] > max(until_ns - SETTLE_NS, 0)))[::-1]
    newest = recent[np.unique(rows["tid"][recent], return_index=True)[1]]
    unfinished = newest[rows["pages"][newest] > 1]
    if len(unfinished) == 0:
        return np.zeros(len(rows), bool)
    call = rows["tid"].astype(np.uint64) << np.uint64(16) | rows["call"]
    waits: Bools = is_read & np.isin(call, call[unfinished])
    return waits


def _is_unsure(rows: Events) -> Bools:
    """Which rows are of reads that may have accessed other pages, or more."""
    unsure: Bools = (rows["flags"] & Flag.UNSURE > 0) & ~np.isin(
        rows["kind"], (Kind.DIRTY, Kind.ADD)
    )
    return unsure


def _added_up(rows: Events) -> int:
    """How many events the rows are; a row of spilled events has their number in `index`.

    A long read that may have ended anywhere counts once for each BATCH of its pages.
    """
    spilled, reads = rows["flags"] & Flag.SPILLED > 0, rows["kind"] == Kind.READ
    batches = np.where(reads, -(-rows["pages"].astype(np.int64) // BATCH), 1)
    return int(np.where(spilled, rows["index"], batches).sum())


def _tally(rows: Events, found: npt.NDArray[np.void]) -> pl.DataFrame:
    """COUNTS by KEYS; `found` has how many pages of each row had each of MARKS."""
    group = group_numbers(rows["tgid"], serial(rows["file"]))
    one = first_of_each(group)
    sums = {
        name: np.bincount(group, values, minlength=len(one)).astype(np.int64)
        for name, values in (_accesses(rows, found) | _changes(rows, found)).items()
    }
    keys = {key: rows[key][one].astype(np.uint64 if key == "file" else np.int64) for key in KEYS}
    return pl.DataFrame(keys | sums)


_Contributions = dict[str, npt.NDArray[np.uint64] | npt.NDArray[np.int64]]


def _accesses(rows: Events, found: npt.NDArray[np.void]) -> _Contributions:
    """What each row adds to those of _SUMS that count reads and faults."""
    kind, pages, fresh = rows["kind"], rows["pages"].astype(np.uint64), found["fresh"]
    once = rows["flags"] & Flag.AGAIN == 0
    fault = ((kind == Kind.MAP) | (kind == Kind.FAULT)) & once
    read = kind == Kind.READ
    awaited = (kind == Kind.ADD) & (rows["flags"] & Flag.WANTED > 0)
    times = np.where(rows["flags"] & Flag.SPILLED > 0, rows["index"], 1).astype(np.uint64)
    return {
        "accesses": pages * ((read & once) | (kind == Kind.HITS)) + fault,
        "misses": fresh * read + np.minimum(fresh, 1) * fault + awaited * times,
    }


def _changes(rows: Events, found: npt.NDArray[np.void]) -> _Contributions:
    """What each row adds to those of _SUMS that count writes, insertions and evictions."""
    kind, flags, pages = rows["kind"], rows["flags"], rows["pages"].astype(np.uint64)
    added, left, dirty = kind == Kind.ADD, kind == Kind.DELETE, kind == Kind.DIRTY
    device, removed = flags & Flag.DEVICE > 0, flags & Flag.REMOVED > 0
    short = steps.is_short(rows)
    dirties = pages * dirty + found["unreached"] * ((kind == Kind.WRITE) & ~short)
    from_storage = np.minimum(found["fresh"], dirties)
    return {
        "dirties": dirties.astype(np.int64) - (pages * short).astype(np.int64),
        "dirty_misses": (from_storage + found["filled"] * dirty) * ~device,
        "device_dirties": pages * (dirty & device),
        "dirty_folios": rows["whole"].astype(np.uint64) * dirty,
        "unsure": _unsure(rows),
        "inserted": pages * added,
        "written_in": rows["whole"] * (added & (flags & Flag.WRITTEN > 0)) + from_storage * ~device,
        "evicted": pages * (left & ~removed),
        "removed": pages * (left & removed),
        "wasted": found["unused"] * left,
    }


def _unsure(rows: Events) -> npt.NDArray[np.uint64]:
    """How many pages each row may have dirtied besides those in it.

    For spilled writes it is not known whether their pages were dirty already.
    """
    kind, flags = rows["kind"], rows["flags"]
    dirty = (kind == Kind.DIRTY) & (flags & Flag.UNSURE > 0)
    write = (kind == Kind.WRITE) & (flags & Flag.SPILLED > 0)
    unreached = np.where(dirty, rows["whole"], rows["pages"]) - rows["pages"]
    doubted: npt.NDArray[np.uint64] = unreached.astype(np.uint64) + rows["pages"] * write
    return doubted
