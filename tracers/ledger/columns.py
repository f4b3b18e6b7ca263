"""The keys and columns of the account."""

from __future__ import annotations

from dataclasses import replace

from memtap.tracers.model.keys import COMM, PID, UID, USER
from memtap.tracers.model.report import Column, Kind, sized

_USER = replace(USER, kind="user")

# What identifies a row, by what the user groups by.
LEDGER_KEYS: dict[str, tuple[Column, ...]] = {
    "line": (
        Column(
            "group",
            "GROUP",
            "text",
            help="what it belongs to: processes, cache, kernel, pools, free; `beside` is no part "
            "of MemTotal, or is in other lines as well",
        ),
        Column("line", "LINE", "text", help="what of it; docs/ledger.md tells what each is"),
    ),
    "cgroup": (
        Column("name", "CGROUP", "tree", help="it, below the one that it is in; / is the host"),
        Column(
            "cgroup", "PATH", "path", table=False, help="its path below the mount of its hierarchy"
        ),
    ),
    "process": (PID, UID, _USER, *COMM),
    "user": (UID, _USER),
}

_SIZE = Column(
    "size_bytes", "SIZE", "kib", help="how much it is; of a cgroup with all below it, of / all used"
)
_SHARE = Column("share_pct", "SHARE", "pct", help="of MemTotal; a dash if it is no part of it")
_LINE = (
    _SIZE,
    _SHARE,
    Column(
        "more", "MORE", "text", unknown=True, help="the command that shows more of it: memtap ..."
    ),
    Column("source", "FROM", "line", help="the file and fields that it is from"),
)
_KINDS = (
    Column("anon_bytes", "ANON", "kib", unknown=True, help="anonymous pages: heap, stack"),
    Column("file_bytes", "FILE", "kib", unknown=True, help="pages of files"),
    Column("shmem_bytes", "SHMEM", "kib", unknown=True, help="shared memory, files on tmpfs"),
)
_TABLES = Column("pgtables_bytes", "TABLES", "kib", unknown=True, help="its page tables")
_SWAP = Column("swap_bytes", "SWAP", "kib", unknown=True, help="what of its own is swapped out")
_SPACE = (
    Column(
        "total_bytes", "TOTAL", "kib", unknown=True, help="all of ANON, FILE, SHMEM, TABLES, RINGS"
    ),
    _SHARE,
    *_KINDS,
    _TABLES,
    Column(
        "rings_bytes",
        "RINGS",
        "kib",
        unknown=True,
        help="buffers of the kernel that it maps: of perf events, io_uring, packet sockets",
    ),
    _SWAP,
    Column(
        "hugetlb_bytes",
        "HUGETLB",
        "kib",
        table=False,
        unknown=True,
        help="huge pages of hugetlbfs, in full in each that maps them",
    ),
)
_CGROUP = (
    _SIZE,
    _SHARE,
    Column(
        "own_bytes",
        "OWN",
        "kib",
        help="what of that none below it has: its own, and that of cgroups that are gone",
    ),
    Column("limit_bytes", "LIMIT", "kib", unknown=True, help="the most that it may have"),
    Column(
        "high_bytes",
        "HIGH",
        "kib",
        table=False,
        unknown=True,
        help="what it is slowed down above (memory.high)",
    ),
    *_KINDS,
    Column("kernel_bytes", "KERNEL", "kib", unknown=True, help="what the kernel took for it"),
    Column("slab_bytes", "SLAB", "kib", table=False, unknown=True, help="of KERNEL, its objects"),
    replace(_TABLES, table=False),
    Column("sockets_bytes", "SOCK", "kib", table=False, unknown=True, help="buffers of sockets"),
    _SWAP,
    Column(
        "refaults",
        "REFAULTS",
        table=False,
        unknown=True,
        help="pages that it needed again soon after they had been evicted",
    ),
    Column(
        "max_events",
        "MAX_HITS",
        table=False,
        unknown=True,
        help="how often it would have gone above its limit",
    ),
    Column(
        "high_events",
        "HIGH_HITS",
        table=False,
        unknown=True,
        help="how often it was slowed down above memory.high",
    ),
    Column(
        "oom_kills", "KILLS", unknown=True, help="processes that were killed for lack of memory"
    ),
    Column(
        "stalled_pct",
        "STALL",
        "pct",
        unknown=True,
        help="of the last 10 s, when some of it waited for memory (PSI)",
    ),
    Column(
        "dying",
        "DYING",
        unknown=True,
        help="cgroups below it that were removed and are still charged",
    ),
    Column("called", "IS", "path", unknown=True, help="container, pod or unit, as its path tells"),
)
_PROCESSES = Column("processes", "PROCS", help="how many processes are in the row")

# The amounts of a process that are part of MemTotal, each page in one process.
PARTS = ("anon_bytes", "file_bytes", "shmem_bytes", "pgtables_bytes", "rings_bytes")
# The amounts of a cgroup that change.
CHARGED = (
    "size_bytes",
    "own_bytes",
    *("anon_bytes", "file_bytes", "shmem_bytes", "kernel_bytes", "slab_bytes"),
    *("pgtables_bytes", "sockets_bytes", "swap_bytes"),
    *("refaults", "max_events", "high_events", "oom_kills", "dying"),
)
SUMMED = ("processes", "total_bytes", *PARTS, "swap_bytes", "hugetlb_bytes")


def ledger_columns(by: str, kind: Kind, changes: bool) -> tuple[Column, ...]:
    """The columns of the report.

    Args:
        by: the key that the user groups by.
        kind: how the table shows sizes, `kib` or `human`.
        changes: whether rows have changes of sizes, not sizes.
    """
    columns = {
        "line": _LINE,
        "cgroup": _CGROUP,
        "process": _SPACE,
        "user": (_PROCESSES, *_SPACE),
    }[by]
    shown = (_of_change(column) if changes else column for column in columns)
    return (*LEDGER_KEYS[by], *(sized(column, kind) for column in shown))


def _of_change(column: Column) -> Column:
    amounts = (*CHARGED, *SUMMED)
    return replace(column, change=column.name in amounts)
