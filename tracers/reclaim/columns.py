"""The columns of the report of reclaim."""

from __future__ import annotations

from dataclasses import replace

from memtap.tracers.model.keys import CGROUP, COMM, PROCESS
from memtap.tracers.model.report import Column, key_columns

# What identifies a row, by what the user groups by. There is no room for the user.
RECLAIM_KEYS: dict[str, tuple[Column, ...]] = {
    "process": tuple(replace(c, table=c.table and c.name != "user") for c in PROCESS),
    "cgroup": CGROUP,
    "node": (Column("node", "NODE", help="the NUMA node"),),
    "comm": COMM,
}
_COUNTS = (
    Column(
        "direct_reclaims",
        "STALLS",
        help="how often it had to reclaim memory itself before it got some",
    ),
    Column("stall_ns", "STALL_MS", "ms", help="how long that took"),
    Column("p99_ns", "P99_MS", "ms", unknown=True, help="one of them: 99 in 100 took no longer"),
    Column("max_ns", "MAX_MS", "ms", table=False, unknown=True, help="the longest of them"),
    Column(
        "memcg_reclaims", "MEMCG", table=False, help="STALLS because a cgroup's limit was reached"
    ),
    Column("scanned_pages", "SCANNED", table=False, help="pages it looked at"),
    Column("reclaimed_pages", "RECLAIM", help="pages it made free"),
    Column("efficiency_pct", "EFF", "pct", help="how many of those it looked at"),
    Column("compactions", "COMPACT", table=False, help="zones compacted"),
    Column(
        "compaction_ns",
        "COMP_MS",
        "ms",
        help="time in compaction, to make free pages stand side by side",
    ),
    Column("swapin_pages", "SWPIN", help="pages it read from swap"),
    Column("swapout_pages", "SWPOUT", help="pages it wrote there"),
    Column("throttled", "THROTTLED", table=False, help="how often it was told to wait"),
    Column(
        "throttled_ns",
        "THROT_MS",
        "ms",
        table=False,
        help="how long it waited then, part of STALL_MS",
    ),
    Column("slab_objects", "SLAB", table=False, help="objects of kernel caches that it freed"),
    Column("kswapd_wakes", "WAKES", table=False, help="how often kswapd woke up"),
    Column("kswapd_ns", "KSWAPD_MS", "ms", table=False, help="for how long kswapd worked"),
)


def reclaim_columns(by: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of a report grouped by these keys."""
    return (*key_columns(RECLAIM_KEYS, by), *_COUNTS)
