"""The columns of the reports of the slab allocator."""

from __future__ import annotations

from dataclasses import replace

from memtap.tracers.model.keys import COMM, PROCESS
from memtap.tracers.model.report import Column, key_columns

# What identifies a row, by what the user groups by.
SLAB_KEYS: dict[str, tuple[Column, ...]] = {
    "cache": (
        Column(
            "cache", "CACHE", "text", help="as in /proc/slabinfo; kmalloc-large is pages, no cache"
        ),
    ),
    "site": (
        Column("site", "SITE", "path", help="the kernel's code that allocated: function+offset"),
    ),
    "process": PROCESS,
    "comm": COMM,
}
_COUNTS = (
    Column("allocs", "ALLOCS", help="objects allocated"),
    Column("frees", "FREES", help="objects freed"),
    Column(
        "live",
        "LIVE",
        help="allocated less freed since it began; below 0 more of what was there before was freed",
    ),
    Column("requested_bytes", "REQ_KB", "kib", help="what was asked for"),
    Column("allocated_bytes", "ALLOC_KB", "kib", help="what was taken for it"),
    Column("waste_pct", "WASTE", "pct", help="how much of what was taken was not asked for"),
    Column("live_bytes", "LIVE_KB", "kib", help="the bytes of LIVE"),
)

# Of the table that --leaks adds.
LEAKS = (
    Column("objects", "KEPT", help="objects that are still there"),
    Column("bytes", "KEPT_KB", "kib", help="their bytes"),
    Column("age_ns", "OLDEST_MS", "ms", help="how long the oldest of them has been there"),
    *(replace(c, table=c.table and c.name != "user") for c in PROCESS),
    Column("cache", "CACHE", "text", help="the cache they are of"),
    Column("site", "SITE", "path", help="the code that allocated them"),
)


def slab_columns(by: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of a report grouped by these keys; a table of 80 has no room for all of two."""
    keys = key_columns(SLAB_KEYS, by)
    if len(by) == 1:
        return (*keys, *_COUNTS)
    keys = tuple(replace(key, table=key.table and key.name != "user") for key in keys)
    left_out = ("requested_bytes", "live_bytes")
    return (*keys, *(replace(each, table=each.name not in left_out) for each in _COUNTS))
