"""Explains a report of page faults in plain words: only what its numbers support."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers.code.intervals import PAGE_BYTES
from memtap.tracers.code.mappings import Region
from memtap.tracers.faults.probes import Kind
from memtap.tracers.faults.rows import Cause
from memtap.tracers.model.arrays import group_numbers
from memtap.tracers.model.chunk import Interval
from memtap.tracers.model.frames import pl

# A cause gets a sentence if it has at least this share of the faults, or of their time.
_MUCH = 0.2

# The number of a page in an address space has this many bits.
_PAGE_BITS = 45

# If no fault like these was timed, that does not matter up to this share of all faults.
_LITTLE = 0.01

# What a cause means, said of N faults.
_MEANING = {
    Cause.FIRST_TOUCH: "first writes to memory that was new, which the kernel had to clear",
    Cause.ZERO_PAGE: "reads of memory that was never written to, which cost a page only later",
    Cause.COW: "writes to pages that were shared, by fork or with a file, and had to be copied",
    Cause.FILE_MAP: "touches of file pages that were in the page cache and only had to be mapped",
    Cause.FILE_READ: "touches of file pages that had to be read from storage first",
    Cause.FILE_WAIT: "touches of file pages that were in the page cache, but still being read "
    "ahead or written, and had to be waited for",
    Cause.SHM: "touches of shared memory that was not mapped yet",
    Cause.SWAP_IN: "touches of pages that had been swapped out",
    Cause.THP: "first touches that got a huge page at once, instead of one fault for each 4 KiB",
    Cause.NUMA: "hints by which the kernel finds out which node uses a page",
    Cause.USERFAULT: "touches that another program had to answer (userfaultfd)",
    Cause.BAD_ACCESS: "accesses to memory that may not be accessed so; each gave a signal",
    Cause.UNKNOWN: "faults in memory whose kind is not known",
}


def explain(counted: pl.DataFrame, interval: Interval, again: int) -> list[str]:
    """A few sentences.

    Args:
        counted: by `region` and `cause`; see faulttimes.merged().
        interval: when.
        again: how many first touches were of memory that had been unmapped; see touched_again().
    """
    if len(counted) == 0:
        return ["There was no page fault."]
    return [
        *_most_frequent(counted),
        *_most_costly(counted),
        *_given_back(counted, again),
        *_run_time(counted, interval),
    ]


def touched_again(rows: Events) -> int:
    """How many first touches in these rows were of pages that had a first touch before.

    Such a page was unmapped or dropped in between. If its process moved memory or executed a
    program in between, it may be another page, and does not count.
    """
    rows = rows[(rows["cause"] == Cause.FIRST_TOUCH) | (rows["kind"] == Kind.MOVED)]
    rows = rows[np.lexsort((rows["ns"], rows["tgid"]))]
    changes = np.cumsum(rows["kind"] == Kind.MOVED)
    process = group_numbers(rows["tgid"], changes).astype(np.uint64) << np.uint64(_PAGE_BITS)
    begin = process | rows["address"] // np.uint64(PAGE_BYTES)
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], begin[order] + rows["count"][order]
    reached = np.maximum.accumulate(end)
    before = np.concatenate([begin[:1], reached[:-1]])
    distinct = np.maximum(end, before) - np.maximum(begin, before)
    return int(rows["count"].sum()) - int(distinct.sum())


def _most_frequent(counted: pl.DataFrame) -> Iterator[str]:
    by = counted.group_by("region", "cause").agg(pl.col("count").sum())
    region, cause, count = by.sort("count", "region", "cause", descending=True).row(0)
    total = _sum(counted, "count")
    yield (
        f"{count / total:.1%} of the {_number(total)} faults are {_MEANING[Cause(cause)]} "
        f"({Cause(cause).text}, {Region(region).text})."
    )


def _most_costly(counted: pl.DataFrame) -> Iterator[str]:
    """A rarer cause that took most of the time, whatever the untimed faults took."""
    sums = pl.col("count", "timed", "least_ns", "most_ns").sum()
    by = counted.group_by("cause").agg(sums).sort("least_ns", "cause", descending=True)
    cause, count, timed, least, most = by.row(0)
    total = least + by["most_ns"].sum() - most
    share, of_count = (least / total if total else 0), count / _sum(counted, "count")
    if share - of_count > _MUCH:
        yield (
            f"{_at_least(counted)}{share:.0%} of their time went to "
            f"{_number(count)} of them: {_MEANING[Cause(cause)]} ({Cause(cause).text}), "
            f"{least / timed / 1e3:.1f} us each{_of_timed(timed, count)}."
        )


def _given_back(counted: pl.DataFrame, again: int) -> Iterator[str]:
    """Memory that is given back and touched anew, again and again."""
    new = _sum(counted.filter(pl.col("cause") == Cause.FIRST_TOUCH), "count")
    if again > _MUCH * new:
        yield (
            f"At least {again / new:.0%} of the first touches were of pages that had been touched "
            "before: the memory was given back in between (by munmap, madvise or brk), and had to "
            "be cleared again."
        )


def _run_time(counted: pl.DataFrame, interval: Interval) -> Iterator[str]:
    """Which share of the traced processes' time went into faults, if enough of them were timed."""
    timed, count = _sum(counted, "timed"), _sum(counted, "count")
    if timed == 0 or _without_times(counted) > _LITTLE * count:
        return
    total, ran = _sum(counted, "time_ns"), interval.kernel.get("cpu_run_virtual_total", 0)
    took = f"All faults took {'' if timed == count else 'about '}{_time(total)}, waiting included"
    took += "" if timed == count else f", by the times of {_number(timed)} of them"
    if ran:
        yield f"{took}; what is traced was on a CPU for {_time(ran)}: {_share(total, ran)}."
    elif interval.seconds:
        yield f"{took}, in {interval.seconds:.1f} s."


def _without_times(counted: pl.DataFrame) -> int:
    """How many faults are of a region and cause without any timed fault."""
    by = counted.group_by("region", "cause").agg(pl.col("count", "timed").sum())
    return _sum(by.filter(pl.col("timed") == 0), "count")


def _at_least(counted: pl.DataFrame) -> str:
    return "" if _sum(counted, "timed") == _sum(counted, "count") else "At least "


def _of_timed(timed: int, count: int) -> str:
    return "" if timed == count else f" by the times of {_number(timed)}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if part < whole else f"{part / whole:.1f} times as much"


def _sum(counted: pl.DataFrame, column: str) -> int:
    return int(counted[column].sum())


def _number(count: int) -> str:
    return f"{count / 1e6:.1f} million" if count >= 1_000_000 else f"{count:,}"


def _time(ns: int) -> str:
    return f"{ns / 1e9:.1f} s" if ns >= 1_000_000_000 else f"{ns / 1e6:.1f} ms"
