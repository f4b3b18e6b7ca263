"""The columns of the page-cache reports."""

from __future__ import annotations

from dataclasses import replace

from memtap.tracers.model.keys import CGROUP, COMM, PROCESS, USER
from memtap.tracers.model.report import Column, key_columns

# The first six keep the names and the order of bcc's cachestat.
CACHESTAT = (
    Column("hits_pages", "HITS"),
    Column("misses_pages", "MISSES"),
    Column("dirties_pages", "DIRTIES"),
    Column("hit_ratio_pct", "HITRATIO", "pct"),
    Column("buffers_bytes", "BUFFERS_MB", "mib"),
    Column("cached_bytes", "CACHED_MB", "mib"),
)
CACHESTAT_WIDE = (
    *CACHESTAT,
    Column("readahead_pages", "READAHEAD"),
    Column("unused_readahead_pages", "UNUSED"),
    Column("evicted_pages", "EVICTED"),
    Column("written_pages", "WRITTEN"),
    Column("removed_pages", "REMOVED"),
    Column("dirty_folio_pages", "DIRTY_FOLIO"),
)

# What identifies a row, by what the user groups by.
CACHETOP_KEYS: dict[str, tuple[Column, ...]] = {
    "process": PROCESS,
    "file": (
        Column("dev", "DEV", "text", table=False),
        Column("ino", "INO", table=False),
        Column("path", "PATH", "path"),
    ),
    "cgroup": CGROUP,
    "user": (Column("uid", "UID"), USER),
    "comm": COMM,
}
_COUNTS = (
    Column("hits_pages", "HITS"),
    Column("misses_pages", "MISSES"),
    Column("dirties_pages", "DIRTIES"),
    Column("read_hit_pct", "READ_HIT%", "pct"),
    Column("write_hit_pct", "WRITE_HIT%", "pct"),
)
_FOLIOS = Column("dirty_folio_pages", "DIRTY_FOLIO", table=False)
_FILE_COUNTS = (
    Column("inserted_pages", "INSERTED"),
    Column("evicted_pages", "EVICTED"),
    Column("removed_pages", "REMOVED", table=False),
)


def cachetop_columns(by: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of a report grouped by these keys."""
    keys = key_columns(CACHETOP_KEYS, by)
    if "file" not in by:
        return (*keys, *_COUNTS, _FOLIOS)
    # A table has 80 columns, and paths are long.
    counts = [replace(c, table=c.table and c.name != "write_hit_pct") for c in _COUNTS]
    return (*keys, *counts, *_FILE_COUNTS, _FOLIOS)
