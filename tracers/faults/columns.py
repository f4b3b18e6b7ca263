"""The columns of the report of page faults."""

from __future__ import annotations

from dataclasses import replace

from memtap.tracers.model.keys import CGROUP, COMM, PROCESS
from memtap.tracers.model.report import Column, key_columns

# What identifies a row, by what the user groups by.
FAULT_KEYS: dict[str, tuple[Column, ...]] = {
    "process": PROCESS,
    "thread": (Column("tid", "TID"), Column("thread", "THREAD", "text"), *PROCESS),
    "region": (Column("region", "REGION", "text"),),
    "cause": (Column("cause", "CAUSE", "text"),),
    "file": (Column("path", "PATH", "path"),),
    "site": (Column("site", "SITE", "path"),),
    "cgroup": CGROUP,
    "comm": COMM,
}
_COUNTS = (
    Column("minor", "MINOR"),
    Column("major", "MAJOR"),
    Column("total", "TOTAL"),
    Column("share_pct", "SHARE", "pct"),
    Column("time_ns", "TIME_MS", "ms"),
    Column("p50_ns", "P50_US", "us"),
    Column("p99_ns", "P99_US", "us"),
    Column("max_ns", "MAX_US", "us"),
    Column("timed", "TIMED", table=False),
)


# A table has 80 columns: each key more takes the place of two of these.
_LEFT_OUT = ("p50_ns", "max_ns", "share_pct", "p99_ns", "user", "time_ns")
# And a thread's own name that of these.
_BY_THREAD = ("user", "p50_ns", "max_ns")


def fault_columns(by: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of a report grouped by these keys."""
    hidden = _LEFT_OUT[: 2 * (len(by) - 1)] + _BY_THREAD * ("thread" in by)
    columns = (*key_columns(FAULT_KEYS, by), *_COUNTS)
    return tuple(replace(c, table=c.table and c.name not in hidden) for c in columns)
