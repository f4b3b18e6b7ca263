"""The columns that describe a process, in every report that has them."""

from __future__ import annotations

from dataclasses import replace

from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Column, Row

USER = Column("user", "USER", "text", help="the user it runs as", obvious=True)
CGROUP = (
    Column("cgroup", "CGROUP", "path", help="its cgroup, as in /proc/PID/cgroup", obvious=True),
)
COMM = (Column("comm", "CMD", "text", help="the name of its program", obvious=True),)
PID = Column("pid", "PID", help="the process", obvious=True)
UID = Column("uid", "UID", table=False, help="the user it runs as, as a number", obvious=True)
ARGS = Column("args", "ARGS", "line", table=False, help="its command line", obvious=True)
PROCESS = (
    PID,
    UID,
    USER,
    *COMM,
    *(replace(column, table=False) for column in CGROUP),
    ARGS,
)


def identity(tgid: int, process: Process) -> Row:
    """The values of these columns for a process."""
    return {
        "pid": tgid,
        "uid": process.uid,
        "user": process.user,
        "comm": process.comm,
        "cgroup": process.cgroup,
        "args": process.args,
    }
