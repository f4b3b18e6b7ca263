"""The columns of the report of page faults."""

from __future__ import annotations

from dataclasses import replace

from memtap.tracers.model.keys import CGROUP, COMM, PROCESS
from memtap.tracers.model.report import Column, key_columns

# What identifies a row, by what the user groups by.
FAULT_KEYS: dict[str, tuple[Column, ...]] = {
    "process": PROCESS,
    "thread": (
        Column("tid", "TID", help="the thread"),
        Column("thread", "THREAD", "text", help="the thread's own name"),
        *PROCESS,
    ),
    "region": (
        Column(
            "region",
            "REGION",
            "text",
            help="heap, stack, thread-stack, anon, file, shm, text, data, vdso, hugetlb, unmapped",
        ),
    ),
    "cause": (
        Column(
            "cause",
            "CAUSE",
            "text",
            help="first-touch, zero-page (read of untouched memory), cow, file-map (the "
            "page was cached), file-wait (it was, but still being read), file-read "
            "(it was not), shm, swap-in, thp, numa, userfault, bad-access",
        ),
    ),
    "file": (Column("path", "PATH", "path", help="the file that is mapped there"),),
    "site": (Column("site", "SITE", "path", help="the instruction: function+offset object"),),
    "cgroup": CGROUP,
    "comm": COMM,
}
_COUNTS = (
    Column("minor", "MINOR", help="page faults that needed no storage"),
    Column("major", "MAJOR", help="page faults that did"),
    Column("total", "TOTAL", help="both, and those that ended in a SIGSEGV or SIGBUS"),
    Column("share_pct", "SHARE", "pct", help="of all faults in the table"),
    Column(
        "time_ns",
        "TIME_MS",
        "ms",
        unknown=True,
        help="from the exception to the completed fault, all together",
    ),
    Column(
        "p50_ns",
        "P50_US",
        "us",
        unknown=True,
        help="the time of one fault: half of them took no longer",
    ),
    Column("p99_ns", "P99_US", "us", unknown=True, help="the same of 99 in 100"),
    Column("max_ns", "MAX_US", "us", unknown=True, help="the time of the longest"),
    Column("timed", "TIMED", table=False, help="of how many faults the times are"),
)


# A table has 80 columns: each further key takes the place of two of these.
_LEFT_OUT = ("p50_ns", "max_ns", "share_pct", "p99_ns", "user", "time_ns")
# A thread's name takes the place of these as well.
_BY_THREAD = ("user", "p50_ns", "max_ns")


def fault_columns(by: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of a report grouped by these keys."""
    hidden = _LEFT_OUT[: 2 * (len(by) - 1)] + _BY_THREAD * ("thread" in by)
    columns = (*key_columns(FAULT_KEYS, by), *_COUNTS)
    return tuple(replace(c, table=c.table and c.name not in hidden) for c in columns)
