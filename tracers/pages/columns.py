"""The columns of the reports of the buddy allocator."""

from __future__ import annotations

from memtap.tracers.model.keys import COMM, PROCESS
from memtap.tracers.model.report import Column, key_columns

# What identifies a row, by what the user groups by.
PAGES_KEYS: dict[str, tuple[Column, ...]] = {
    "order": (Column("order", "ORDER", help="a block of 2^ORDER pages"),),
    "process": PROCESS,
    "migratetype": (
        Column(
            "migratetype",
            "TYPE",
            "text",
            help="the migrate type: movable, unmovable, reclaimable, ...",
        ),
    ),
    "comm": COMM,
}
_COUNTS = (
    Column("allocs", "ALLOCS", help="blocks handed out"),
    Column("frees", "FREES", help="blocks that came back"),
    Column("allocated_bytes", "ALLOC_KB", "kib", help="what was handed out"),
    Column("live_bytes", "LIVE_KB", "kib", help="handed out less what came back since it began"),
    Column(
        "fallbacks",
        "FALLBACKS",
        help="taken from memory set aside for another type, which fragments it",
    ),
)
# What is free when the interval ends, for the keys for which that is known.
_LEFT: dict[tuple[str, ...], tuple[Column, ...]] = {
    ("order",): (
        Column(
            "free_blocks",
            "FREE_BLOCKS",
            unknown=True,
            help="free now, of the whole host (by order)",
        ),
        Column(
            "unusable_pct",
            "UNUSABLE",
            "pct",
            help="how much of the free memory is in smaller blocks than these (by order)",
        ),
    ),
    ("migratetype",): (
        Column(
            "free_bytes",
            "FREE_KB",
            "kib",
            unknown=True,
            help="free now, of the whole host (by type)",
        ),
    ),
}


def pages_columns(by: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of a report grouped by these keys."""
    return (*key_columns(PAGES_KEYS, by), *_COUNTS, *_LEFT.get(by, ()))
