"""The columns of the report of shared memory."""

from __future__ import annotations

from dataclasses import replace

from memtap.tracers.model.keys import CGROUP, COMM, PROCESS
from memtap.tracers.model.report import Column, key_columns

# What identifies a row, by what the user groups by. There is no room for the user.
_PROCESS = tuple(replace(c, table=c.table and c.name != "user") for c in PROCESS)
SHM_KEYS: dict[str, tuple[Column, ...]] = {
    "segment": (
        Column(
            "kind",
            "KIND",
            "text",
            help="sysv (shmget), posix (shm_open: in /dev/shm), memfd, anonymous (a shared mapping "
            "of no file), tmpfs (any other file on one), kernel (a driver's)",
        ),
        Column("segment", "SEGMENT", "path", help="its number and key, its path, or its name"),
        Column("ino", "INODE", table=False, help="its inode number; of sysv its shmid"),
        Column("dev", "DEV", "text", table=False, help="the device of its file system"),
    ),
    "process": _PROCESS,
    "kind": (Column("kind", "KIND", "text", help="what of: see -b segment"),),
    "cgroup": CGROUP,
    "thread": (Column("tid", "TID", help="the thread"), *_PROCESS),
    "comm": COMM,
}
_COUNTS = (
    Column("created", "NEW", help="segments it made"),
    Column("attaches", "MAPS", help="how often it mapped one: shmat(2), mmap(2)"),
    Column(
        "grown_bytes",
        "GROWN_KB",
        "kib",
        unknown=True,
        help="memory that it was the first to touch or write; not known for huge pages (hugetlb)",
    ),
    Column(
        "freed_bytes",
        "FREED_KB",
        "kib",
        unknown=True,
        help="memory it gave back: truncated, punched out, or as the last user of the file",
    ),
    Column(
        "size_bytes", "SIZE_KB", "kib", unknown=True, help="how large these segments may grow, now"
    ),
    Column("resident_bytes", "RES_KB", "kib", unknown=True, help="what of them is in memory now"),
    Column(
        "swapped_bytes",
        "SWAP_KB",
        "kib",
        table=False,
        unknown=True,
        help="what of them is in swap now",
    ),
)


def shm_columns(by: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of a report grouped by these keys."""
    return (*key_columns(SHM_KEYS, by), *_COUNTS)
