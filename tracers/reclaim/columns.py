"""The columns of the report of reclaim."""

from __future__ import annotations

from dataclasses import replace

from memtap.tracers.model.keys import CGROUP, COMM, PROCESS
from memtap.tracers.model.report import Column, key_columns

# What identifies a row, by what the user groups by. There is no room for the user.
RECLAIM_KEYS: dict[str, tuple[Column, ...]] = {
    "process": tuple(replace(c, table=c.table and c.name != "user") for c in PROCESS),
    "cgroup": CGROUP,
    "node": (Column("node", "NODE"),),
    "comm": COMM,
}
_COUNTS = (
    Column("direct_reclaims", "STALLS"),
    Column("stall_ns", "STALL_MS", "ms"),
    Column("p99_ns", "P99_MS", "ms"),
    Column("max_ns", "MAX_MS", "ms", table=False),
    Column("memcg_reclaims", "MEMCG", table=False),
    Column("scanned_pages", "SCANNED", table=False),
    Column("reclaimed_pages", "RECLAIM"),
    Column("efficiency_pct", "EFF", "pct"),
    Column("compactions", "COMPACT", table=False),
    Column("compaction_ns", "COMP_MS", "ms"),
    Column("swapin_pages", "SWPIN"),
    Column("swapout_pages", "SWPOUT"),
    Column("throttled", "THROTTLED", table=False),
    Column("throttled_ns", "THROT_MS", "ms", table=False),
    Column("slab_objects", "SLAB", table=False),
    Column("kswapd_wakes", "WAKES", table=False),
    Column("kswapd_ns", "KSWAPD_MS", "ms", table=False),
)


def reclaim_columns(by: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of a report grouped by these keys."""
    return (*key_columns(RECLAIM_KEYS, by), *_COUNTS)
