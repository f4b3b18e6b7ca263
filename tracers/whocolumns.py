"""The columns that tell of processes, in every report that has them."""

from __future__ import annotations

from memtap.tracers.report import Column

USER = Column("user", "USER", "text")
CGROUP = (Column("cgroup", "CGROUP", "path"),)
PROCESS = (
    Column("pid", "PID"),
    Column("uid", "UID", table=False),
    USER,
    Column("comm", "CMD", "text"),
    Column("cgroup", "CGROUP", "path", table=False),
)
