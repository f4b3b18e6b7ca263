"""What the numbers of a report of page faults say, in plain words; only what they do say."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from memtap.tracers.faultrows import Cause
from memtap.tracers.mappings import Region

# A cause is worth a sentence from this share of the faults, or of their time, on.
_MUCH = 0.2

# What a cause means, said of N faults.
_MEANING = {
    Cause.FIRST_TOUCH: "first writes to memory that was new, which the kernel had to clear",
    Cause.ZERO_PAGE: "reads of memory that nobody had written to, which cost a page only later",
    Cause.COW: "writes to pages that were shared, by fork or with a file, and had to be copied",
    Cause.FILE_MAP: "touches of file pages that were in the page cache and only had to be mapped",
    Cause.FILE_READ: "touches of file pages that had to be read from storage first",
    Cause.SHM: "touches of shared memory that was not mapped yet",
    Cause.SWAP_IN: "touches of pages that had been swapped out",
    Cause.THP: "first touches that got a huge page at once, instead of one fault for each 4 KiB",
    Cause.NUMA: "hints by which the kernel finds out which node uses a page",
    Cause.USERFAULT: "touches that another program had to answer (userfaultfd)",
    Cause.BAD_ACCESS: "accesses to memory that may not be accessed so; each gave a signal",
    Cause.UNKNOWN: "faults in memory of which nobody told what it is",
}


def explain(counted: pl.DataFrame, seconds: float) -> list[str]:
    """Two or three sentences.

    Args:
        counted: `region`, `cause`, `bucket`, `count` and `time_ns`; see faults.tally().
        seconds: the length of the interval.
    """
    if len(counted) == 0:
        return ["There was no page fault."]
    return [*_most_frequent(counted), *_most_costly(counted), *_rate(counted, seconds)]


def _most_frequent(counted: pl.DataFrame) -> Iterator[str]:
    by = counted.group_by("region", "cause").agg(pl.col("count").sum())
    region, cause, count = by.sort("count", "region", "cause", descending=True).row(0)
    total = _sum(counted, "count")
    yield (
        f"{count / total:.1%} of the {_number(total)} faults are {_MEANING[Cause(cause)]} "
        f"({Cause(cause).text}, {Region(region).text})."
    )


def _most_costly(counted: pl.DataFrame) -> Iterator[str]:
    """Where a rarer cause took most of the time."""
    total = _sum(counted, "time_ns")
    by = counted.group_by("cause").agg(pl.col("count").sum(), pl.col("time_ns").sum())
    cause, count, ns = by.sort("time_ns", "cause", descending=True).row(0)
    shares = ns / max(total, 1), count / _sum(counted, "count")
    if total and shares[0] - shares[1] > _MUCH:
        yield (
            f"{shares[0]:.0%} of their time went to {shares[1]:.1%} of them: "
            f"{_number(count)} {_MEANING[Cause(cause)]} ({Cause(cause).text}), "
            f"{ns / count / 1e3:.1f} us each."
        )


def _rate(counted: pl.DataFrame, seconds: float) -> Iterator[str]:
    total = _sum(counted, "time_ns")
    if total and seconds:
        yield (
            f"They took {_time(total)} in {seconds:.1f} s, "
            f"{100 * total / 1e9 / seconds:.1f}% of one CPU or of waiting."
        )


def _sum(counted: pl.DataFrame, column: str) -> int:
    return int(counted[column].sum())


def _number(count: int) -> str:
    return f"{count / 1e6:.1f} million" if count >= 1_000_000 else f"{count:,}"


def _time(ns: int) -> str:
    return f"{ns / 1e9:.1f} s" if ns >= 1_000_000_000 else f"{ns / 1e6:.1f} ms"
