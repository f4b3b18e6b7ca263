"""The columns that tell of processes, in every report that has them."""

from __future__ import annotations

from memtap.tracers.live.processes import Who
from memtap.tracers.model.report import Column, Row

USER = Column("user", "USER", "text")
CGROUP = (Column("cgroup", "CGROUP", "path"),)
COMM = (Column("comm", "CMD", "text"),)
PROCESS = (
    Column("pid", "PID"),
    Column("uid", "UID", table=False),
    USER,
    *COMM,
    Column("cgroup", "CGROUP", "path", table=False),
    Column("args", "ARGS", "path", table=False),
)


def identity(tgid: int, who: Who) -> Row:
    """What these columns say of a process."""
    return {
        "pid": tgid,
        "uid": who.uid,
        "user": who.user,
        "comm": who.comm,
        "cgroup": who.cgroup,
        "args": who.args,
    }
