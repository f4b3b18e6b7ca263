"""The columns of the report of page faults."""

from __future__ import annotations

from dataclasses import replace

from memtap.tracers.report import Column

_PROCESS = (
    Column("pid", "PID"),
    Column("uid", "UID", table=False),
    Column("user", "USER", "text"),
    Column("comm", "CMD", "text"),
    Column("cgroup", "CGROUP", "path", table=False),
)

# What identifies a row, by what the user groups by.
FAULT_KEYS: dict[str, tuple[Column, ...]] = {
    "process": _PROCESS,
    "thread": (Column("tid", "TID"), *_PROCESS),
    "region": (Column("region", "REGION", "text"),),
    "cause": (Column("cause", "CAUSE", "text"),),
    "file": (Column("path", "PATH", "path"),),
    "site": (Column("site", "SITE", "path"),),
    "cgroup": (Column("cgroup", "CGROUP", "path"),),
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
)


# A table has 80 columns: each key more takes the place of two of these.
_LEFT_OUT = ("p50_ns", "max_ns", "share_pct", "p99_ns")


def fault_columns(by: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of a report grouped by these keys, each column once."""
    keys = {column.name: column for key in reversed(by) for column in FAULT_KEYS[key]}
    ordered = [column.name for key in by for column in FAULT_KEYS[key]]
    hidden = _LEFT_OUT[: 2 * (len(by) - 1)]
    counts = (replace(c, table=c.name not in hidden) for c in _COUNTS)
    return (*(keys[name] for name in dict.fromkeys(ordered)), *counts)
