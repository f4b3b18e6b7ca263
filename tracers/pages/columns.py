"""The columns of the reports of the buddy allocator."""

from __future__ import annotations

from memtap.tracers.model.keys import COMM, PROCESS
from memtap.tracers.model.report import Column, key_columns

# What identifies a row, by what the user groups by.
PAGES_KEYS: dict[str, tuple[Column, ...]] = {
    "order": (Column("order", "ORDER"),),
    "process": PROCESS,
    "migratetype": (Column("migratetype", "TYPE", "text"),),
    "comm": COMM,
}
_COUNTS = (
    Column("allocs", "ALLOCS"),
    Column("frees", "FREES"),
    Column("allocated_bytes", "ALLOC_KB", "kib"),
    Column("live_bytes", "LIVE_KB", "kib"),
    Column("fallbacks", "FALLBACKS"),
)
# What is left when the interval ends, where that can be told of a row.
_LEFT: dict[tuple[str, ...], tuple[Column, ...]] = {
    ("order",): (Column("free_blocks", "FREE_BLOCKS"), Column("unusable_pct", "UNUSABLE", "pct")),
    ("migratetype",): (Column("free_bytes", "FREE_KB", "kib"),),
}


def pages_columns(by: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of a report grouped by these keys."""
    return (*key_columns(PAGES_KEYS, by), *_COUNTS, *_LEFT.get(by, ()))
