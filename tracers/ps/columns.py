"""The keys and columns of ps and pmap."""

from __future__ import annotations

from dataclasses import replace

from memtap.tracers.model.keys import ARGS, CGROUP, COMM, PID, UID, USER
from memtap.tracers.model.report import Column, Kind, key_columns, sized

_USER = replace(USER, kind="user")

# What identifies a row, by what the user groups by.
PS_KEYS: dict[str, tuple[Column, ...]] = {
    "process": (PID, UID, _USER, *COMM, ARGS),
    "user": (UID, _USER),
    "cgroup": CGROUP,
    "comm": COMM,
}

_PROCESSES = Column("processes", "PROCS", help="how many processes are in the row")
# The amounts, which can be added up.
_AMOUNTS = (
    Column(
        "virt_bytes",
        "VIRT",
        "kib",
        help="addresses in use, whether or not there is memory behind them",
    ),
    Column(
        "res_bytes",
        "RES",
        "kib",
        help="what is in memory (RSS); shared pages count in full in each process",
    ),
    Column("shr_bytes", "SHR", "kib", help="of RES, pages of files and shared memory"),
    Column(
        "pss_bytes",
        "PSS",
        "kib",
        unknown=True,
        help="a page that n processes map counts as 1/n; this adds up",
    ),
    Column(
        "uss_bytes",
        "USS",
        "kib",
        unknown=True,
        help="what no other process maps: what would be free if it ended",
    ),
    Column(
        "hugetlb_bytes",
        "HUGETLB",
        "kib",
        table=False,
        unknown=True,
        help="huge pages of hugetlbfs, in full in each process that maps them",
    ),
    Column(
        "swap_bytes",
        "SWAP",
        "kib",
        table=False,
        unknown=True,
        help="what is swapped out; shared by n processes counts as 1/n",
    ),
    Column("pgtables_bytes", "PGTABLES", "kib", table=False, help="its page tables"),
    Column(
        "minor",
        "MINOR",
        table=False,
        unknown=True,
        help="page faults that were answered from memory",
    ),
    Column(
        "major", "MAJOR", table=False, unknown=True, help="page faults that had to wait for storage"
    ),
    Column("threads", "THREADS", table=False, help="how many threads it has"),
)
# Those that cannot.
_SINGLE = (
    Column(
        "peak_bytes",
        "PEAK",
        "kib",
        table=False,
        help="the most that RES has been since its program began",
    ),
    Column("oom_score", "OOM", table=False, help="how likely the OOM killer takes it (0 to 2000)"),
    Column(
        "oom_score_adj", "OOM_ADJ", table=False, help="what its owner adds to that (-1000 to 1000)"
    ),
)
_THREAD_NAMES = Column(
    "thread_names",
    "THREAD_NAMES",
    "path",
    table=False,
    unknown=True,
    help="the names of its threads, and how many have each; those that most have",
)
SUMMED = ("processes", *(column.name for column in _AMOUNTS))
FAULTS = ("minor", "major")


def ps_columns(
    by: tuple[str, ...], kind: Kind, changes: bool, tree: bool, wide: bool = False
) -> tuple[Column, ...]:
    """The columns of the report.

    Args:
        by: the keys that the user groups by.
        kind: how the table shows sizes, `kib` or `human`.
        changes: whether rows have changes of amounts, not amounts.
        tree: whether processes stand below their parents.
        wide: whether to show the names of threads as well.
    """
    keys = key_columns(PS_KEYS, by)
    if tree:
        keys = (
            keys[0],
            Column("ppid", "PPID", table=False, help="its parent"),
            *keys[1:3],
            replace(COMM[0], kind="tree"),
            *keys[4:],
        )
    is_each = "process" in by
    counts = (*_AMOUNTS, *_SINGLE) if is_each else (_PROCESSES, *_AMOUNTS)
    shown = (sized(_of_change(column) if changes else column, kind) for column in counts)
    return (*keys, *shown, *([_THREAD_NAMES] if is_each and wide else []))


def _of_change(column: Column) -> Column:
    """The column for changes. Then most users want to see faults, and not shared memory."""
    if column in _SINGLE:
        return column
    table = column.name in FAULTS or (column.table and column.name != "shr_bytes")
    return replace(column, table=table, change=column.name not in FAULTS)


_MAPPING = (
    Column("start", "START", "hex", help="the address of its first byte"),
    Column("end", "END", "hex", table=False, help="the address behind its last"),
    Column("size_bytes", "SIZE", "kib", help="addresses it takes"),
    Column("rss_bytes", "RSS", "kib", help="what of it is in memory"),
    Column("pss_bytes", "PSS", "kib", help="the same, a page that n processes map counted as 1/n"),
    Column("uss_bytes", "USS", "kib", help="what of it no other process maps"),
    Column(
        "dirty_bytes",
        "DIRTY",
        "kib",
        help="what of it was written, so that it cannot just be dropped",
    ),
    Column(
        "hugetlb_bytes",
        "HUGETLB",
        "kib",
        table=False,
        help="huge pages of hugetlbfs in it, which are in no RSS",
    ),
    Column("swap_bytes", "SWAP", "kib", table=False, help="what of it is swapped out"),
    Column("mode", "MODE", "text", help="read, write, execute, shared"),
    Column(
        "region",
        "REGION",
        "text",
        help="what it is for, as in memtap faults: heap, stack, thread-stack, anon, file, shm, "
        "text, data, vdso, hugetlb",
    ),
    Column("mapping", "MAPPING", "path", help="its file, or the kernel's name for it"),
)
_HUGE = Column("huge_bytes", "HUGE", "kib", table=False, help="what of it is mapped by huge pages")

# The columns of --numa.
_NODE = (
    Column("node", "NODE", unknown=True, help="the number of the memory node"),
    Column(
        "mapped_bytes",
        "MAPPED",
        "kib",
        unknown=True,
        help="what is mapped of its memory, shared pages in full, huge pages of hugetlbfs included",
    ),
)
PS_NODES = (
    *PS_KEYS["process"],
    *_NODE,
    Column("share_pct", "SHARE", "pct", help="the part of all that the process has mapped"),
)
PMAP_NODES = (
    _MAPPING[0],
    *_NODE,
    Column("policy", "POLICY", "text", help="from which nodes its pages are to be taken"),
    _MAPPING[-1],
)

# The columns of --tables.
TABLES = (
    Column(
        "level", "LEVEL", "text", help="pud, pmd or pte; empty: of those, tables without entries"
    ),
    Column("tables", "TABLES", help="how many tables of this level it has"),
    Column("size_bytes", "SIZE", "kib", help="what they take"),
    Column("span_bytes", "SPAN", "kib", unknown=True, help="the addresses that one table is for"),
    Column("saved_bytes", "SAVED", "kib", help="what more there would be without huge pages"),
)

# The columns of procps' `pmap -x`, and their headings there.
_EXTENDED = {
    "start": "Address",
    "size_bytes": "Kbytes",
    "rss_bytes": "RSS",
    "dirty_bytes": "Dirty",
    "mode": "Mode",
    "mapping": "Mapping",
}


def pmap_columns(kind: Kind, wide: bool, extended: bool) -> tuple[Column, ...]:
    """The columns of the report.

    Args:
        kind: how the table shows sizes, `kib` or `human`.
        wide: whether to show huge pages as well.
        extended: whether the table looks like that of `pmap -x`.
    """
    columns = (*_MAPPING[:-3], _HUGE, *_MAPPING[-3:]) if wide else _MAPPING
    if extended:
        return tuple(
            _extended(replace(c, kind=kind if c.kind == "kib" else c.kind)) for c in columns
        )
    return tuple(sized(column, kind) for column in columns)


def _extended(column: Column) -> Column:
    shown = column.name in _EXTENDED
    return replace(column, heading=_EXTENDED.get(column.name, column.heading), table=shown)
