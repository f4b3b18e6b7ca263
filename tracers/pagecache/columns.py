"""The columns of the page-cache reports."""

from __future__ import annotations

from dataclasses import replace

from memtap.tracers.model.keys import CGROUP, COMM, PROCESS, UID, USER
from memtap.tracers.model.report import Column, key_columns

_HITS = Column("hits_pages", "HITS", help="pages asked for that were in the cache")
_MISSES = Column(
    "misses_pages", "MISSES", help="pages asked for that had to be brought in from storage"
)
_DIRTIES = Column("dirties_pages", "DIRTIES", help="pages that writes reached and made dirty")
_EVICTED = Column(
    "evicted_pages", "EVICTED", help="pages that left the cache, as memory was wanted"
)
_REMOVED = Column(
    "removed_pages",
    "REMOVED",
    table=False,
    help="pages that left the cache because their file was truncated or deleted",
)
_FOLIOS = Column(
    "dirty_folio_pages",
    "DIRTY_FOLIO",
    table=False,
    help="pages of the folios that became dirty, as the kernel counts",
)

# The first six keep the names and the order of bcc's cachestat; the others are shown only if asked
# for.
CACHESTAT = (
    _HITS,
    _MISSES,
    _DIRTIES,
    Column("hit_ratio_pct", "HITRATIO", "pct", help="hits of hits and misses"),
    Column(
        "buffers_bytes",
        "BUFFERS_MB",
        "mib",
        help="cached metadata of block devices, at the end of the interval",
    ),
    Column(
        "cached_bytes",
        "CACHED_MB",
        "mib",
        help="cached files and shared memory, at the end of the interval",
    ),
)
CACHESTAT_WIDE = (
    *CACHESTAT,
    Column("readahead_pages", "READAHEAD", help="pages brought in from storage"),
    Column(
        "unused_readahead_pages",
        "UNUSED",
        help="of those, pages that no process has asked for, yet or until they left",
    ),
    _EVICTED,
    Column(
        "written_pages",
        "WRITTEN",
        unknown=True,
        help="pages written back, by nr_written; of the whole host alone",
    ),
    replace(_REMOVED, table=True),
    replace(_FOLIOS, table=True),
)

# What identifies a row, by what the user groups by.
CACHETOP_KEYS: dict[str, tuple[Column, ...]] = {
    "process": PROCESS,
    "file": (
        Column("dev", "DEV", "text", table=False, help="the file's device, as stat(2) tells it"),
        Column("ino", "INO", table=False, help="the file's inode number"),
        Column("path", "PATH", "path", help="the file, as it was opened"),
    ),
    "cgroup": CGROUP,
    "user": (replace(UID, table=True), USER),
    "comm": COMM,
}
_COUNTS = (
    _HITS,
    _MISSES,
    _DIRTIES,
    Column("read_hit_pct", "READ_HIT%", "pct", help="hits of hits and misses"),
    Column("write_hit_pct", "WRITE_HIT%", "pct", help="pages made dirty that were cached before"),
)
_FILE_COUNTS = (
    Column("inserted_pages", "INSERTED", help="pages that entered the cache (by file)"),
    _EVICTED,
    _REMOVED,
)


def cachetop_columns(by: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of a report grouped by these keys."""
    keys = key_columns(CACHETOP_KEYS, by)
    if "file" not in by:
        return (*keys, *_COUNTS, _FOLIOS)
    # A table has 80 columns, and paths are long: one column gives way.
    counts = [replace(c, table=c.table and c.name != "write_hit_pct") for c in _COUNTS]
    return (*keys, *counts, *_FILE_COUNTS, _FOLIOS)
