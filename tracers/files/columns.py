"""The keys and columns of files."""

from __future__ import annotations

from dataclasses import replace

from memtap.tracers.model.keys import CGROUP, COMM, PID
from memtap.tracers.model.report import Column, Kind, key_columns, sized

_DEV = Column("dev", "DEV", "text", table=False, help="the device of its file system, as in stat")
_PATH = Column(
    "path",
    "PATH",
    "path",
    help="one of its names, as of where memtap runs; ? where no name of it is in memory",
)

# What identifies a row, by what the user groups by.
KEYS: dict[str, tuple[Column, ...]] = {
    "file": (
        Column("kind", "KIND", "text", help="file, shm (tmpfs, memfd and the like) or device"),
        _DEV,
        Column("ino", "INO", table=False, help="its inode number"),
        Column("size_bytes", "SIZE", "kib", help="how long it is"),
        _PATH,
    ),
    "directory": (
        _DEV,
        Column("directory", "DIRECTORY", "path", help="where files are; ? where that is unknown"),
    ),
    "mount": (
        _DEV,
        Column("fstype", "TYPE", "text", help="the type of the file system"),
        Column("mount", "MOUNT", "path", help="where it is mounted; [DEV] if it is nowhere here"),
    ),
    "cgroup": (replace(CGROUP[0], help="which cgroup the pages are charged to", obvious=False),),
    "process": (
        replace(PID, unknown=True, help="a process that has files open or mapped; a dash: none"),
        *COMM,
    ),
}

COUNTS = ("resident", "dirty", "writeback", "evicted", "active", "inactive", "unevictable")
_AGES = COUNTS[4:]

_AMOUNTS = (
    Column("files", "FILES", help="how many files are in the row"),
    Column("resident_bytes", "RESIDENT", "kib", help="what is in the page cache"),
    Column(
        "dirty_bytes",
        "DIRTY",
        "kib",
        unknown=True,
        help="what of it is to be written to storage",
    ),
    Column(
        "writeback_bytes",
        "WRITEBACK",
        "kib",
        table=False,
        unknown=True,
        help="what of it is being written",
    ),
    Column(
        "evicted_bytes",
        "EVICTED",
        "kib",
        unknown=True,
        help="what was there and had to give way, as far as the kernel remembers; of shm, what "
        "is in swap",
    ),
    Column(
        "recently_evicted_bytes",
        "RECENTLY",
        "kib",
        table=False,
        unknown=True,
        help="what of that had to go so lately that it would be in use still; only of PATHs",
    ),
)
_AGE_COLUMNS = (
    Column("active_bytes", "ACTIVE", "kib", help="what is on the list of pages in use"),
    Column("inactive_bytes", "INACTIVE", "kib", help="what is on the list that gives way first"),
    Column("unevictable_bytes", "UNEVICT", "kib", table=False, help="what is locked, or cannot go"),
)
SUMMED = ("files", *(f"{name}_bytes" for name in COUNTS), "recently_evicted_bytes")


def columns_of(by: tuple[str, ...], kind: Kind, ages: bool) -> tuple[Column, ...]:
    """The columns of the report.

    Args:
        by: the keys that the user groups by.
        kind: how the table shows sizes, `kib` or `human`.
        ages: whether to show on which list pages are.
    """
    keys = key_columns(KEYS, by)
    amounts = _AMOUNTS[1:] if "file" in by else _AMOUNTS
    shown = (*amounts, *(_AGE_COLUMNS if ages else ()))
    labels = tuple(column for column in keys if column.kind != "path")
    paths = tuple(column for column in keys if column.kind == "path")
    return tuple(sized(column, kind) for column in (*labels, *shown, *paths))
