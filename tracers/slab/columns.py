"""The columns of the reports of the slab allocator."""

from __future__ import annotations

from dataclasses import replace

from memtap.tracers.model.keys import COMM, PROCESS
from memtap.tracers.model.report import Column, key_columns

# What identifies a row, by what the user groups by.
SLAB_KEYS: dict[str, tuple[Column, ...]] = {
    "cache": (Column("cache", "CACHE", "text"),),
    "site": (Column("site", "SITE", "path"),),
    "process": PROCESS,
    "comm": COMM,
}
_COUNTS = (
    Column("allocs", "ALLOCS"),
    Column("frees", "FREES"),
    Column("live", "LIVE"),
    Column("requested_bytes", "REQ_KB", "kib"),
    Column("allocated_bytes", "ALLOC_KB", "kib"),
    Column("waste_pct", "WASTE", "pct"),
    Column("live_bytes", "LIVE_KB", "kib"),
)

# Of the table that --leaks adds.
LEAKS = (
    Column("objects", "KEPT"),
    Column("bytes", "KEPT_KB", "kib"),
    Column("age_ns", "OLDEST_MS", "ms"),
    Column("pid", "PID"),
    Column("comm", "CMD", "text"),
    Column("cache", "CACHE", "text"),
    Column("site", "SITE", "path"),
)


def slab_columns(by: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of a report grouped by these keys; a table of 80 has no room for all of two."""
    keys = key_columns(SLAB_KEYS, by)
    if len(by) == 1:
        return (*keys, *_COUNTS)
    keys = tuple(replace(key, table=key.table and key.name != "user") for key in keys)
    left_out = ("requested_bytes", "live_bytes")
    return (*keys, *(replace(each, table=each.name not in left_out) for each in _COUNTS))
