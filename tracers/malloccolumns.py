"""The columns of the reports of malloc."""

from __future__ import annotations

from dataclasses import replace

from memtap.tracers.report import Column, key_columns
from memtap.tracers.whocolumns import PROCESS

# What identifies a row, by what the user groups by.
MALLOC_KEYS: dict[str, tuple[Column, ...]] = {
    "process": (*PROCESS, Column("allocator", "ALLOCATOR", "text", table=False)),
    "path": (Column("path", "PATH", "text"),),
}
_COUNTS = (
    Column("calls", "CALLS"),
    Column("requested_bytes", "REQ_KB", "kib"),
    Column("returned_bytes", "RET_KB", "kib"),
    Column("live_bytes", "LIVE_KB", "kib"),
    Column("faults", "FAULTS"),
    Column("fault_time_ns", "FAULT_MS", "ms"),
    Column("threshold_bytes", "THRESHOLD"),
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
    return (*keys, *_COUNTS)
