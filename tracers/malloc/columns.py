"""The columns of the reports of malloc."""

from __future__ import annotations

from dataclasses import replace

from memtap.tracers.model.keys import COMM, PROCESS
from memtap.tracers.model.report import Column, key_columns

# What identifies a row, by what the user groups by.
MALLOC_KEYS: dict[str, tuple[Column, ...]] = {
    "process": (*PROCESS, Column("allocator", "ALLOCATOR", "text", table=False)),
    "path": (Column("path", "PATH", "text"),),
    "site": (Column("site", "SITE", "path"),),
    "comm": COMM,
}
_COUNTS = (
    Column("calls", "CALLS"),
    Column("requested_bytes", "REQ_KB", "kib"),
    Column("returned_bytes", "RET_KB", "kib"),
    Column("live_bytes", "LIVE_KB", "kib"),
    Column("faults", "FAULTS"),
    Column("fault_time_ns", "FAULT_MS", "ms"),
    Column("timed", "TIMED", table=False),
    Column("threshold_bytes", "THRESHOLD"),
)
_LIFE = Column("life_ns", "LIFE_MS", "ms")

# Of the table that --heap adds; see heaps.Part.
HEAPS = (
    Column("pid", "PID"),
    Column("comm", "CMD", "text"),
    Column("heap_bytes", "HEAP_KB", "kib"),
    Column("resident_bytes", "RSS_KB", "kib"),
    Column("used_bytes", "USED_KB", "kib"),
    Column("stuck_bytes", "STUCK_KB", "kib"),
    Column("top_bytes", "TOP_KB", "kib"),
)

TIMELINE = (
    Column("time_ns", "TIME_MS", "ms"),
    Column("pid", "PID", table=False),
    Column("tid", "TID"),
    Column("path", "PATH", "text"),
    Column("change_bytes", "BYTES"),
    Column("why", "WHY", "text"),
)


def malloc_columns(by: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of a report grouped by these keys; a table of 80 has no room for all of two."""
    keys = key_columns(MALLOC_KEYS, by)
    if len(by) > 1:
        keys = tuple(replace(key, table=key.table and key.name != "user") for key in keys)
    if "site" not in by:
        return (*keys, *_COUNTS)
    # Code shows how long it keeps what it maps, instead of what concerns the whole process.
    counts = (replace(each, table=each.name != "threshold_bytes") for each in _COUNTS)
    return (*keys, *counts, _LIFE)
