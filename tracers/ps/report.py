"""ps: what every process takes of memory, or what it took in an interval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from memtap.tracers.host import procfs
from memtap.tracers.host.counters import difference
from memtap.tracers.model.keys import CGROUP, COMM, PID, UID, USER
from memtap.tracers.model.report import Column, Kind, Report, Row, key_columns, sized
from memtap.tracers.model.schema import Shape
from memtap.tracers.ps.snapshot import Snapshot

_USER = replace(USER, kind="user")

# What identifies a row, by what the user groups by.
PS_KEYS: dict[str, tuple[Column, ...]] = {
    "process": (PID, UID, _USER, *COMM),
    "user": (UID, _USER),
    "cgroup": CGROUP,
    "comm": COMM,
}

_PROCESSES = Column("processes", "PROCS", help="how many processes are in the row")
# What can be added up.
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
        help="what nobody else maps: what would be free if it ended",
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
)
# What cannot.
_SCORES = (
    Column("oom_score", "OOM", table=False, help="how likely the OOM killer takes it (0 to 2000)"),
    Column(
        "oom_score_adj", "OOM_ADJ", table=False, help="what its owner adds to that (-1000 to 1000)"
    ),
)
_SUMMED = ("processes", *(column.name for column in _AMOUNTS))
_FAULTS = ("minor", "major")


def ps_columns(by: tuple[str, ...], kind: Kind, changes: bool, tree: bool) -> tuple[Column, ...]:
    """The columns of the report.

    Args:
        by: the keys that the user groups by.
        kind: how the table shows sizes, `kib` or `human`.
        changes: whether rows tell how far amounts came, not how high they are.
        tree: whether processes stand below their parents.
    """
    keys = key_columns(PS_KEYS, by)
    if tree:
        keys = (
            keys[0],
            Column("ppid", "PPID", table=False, help="its parent"),
            *keys[1:3],
            replace(COMM[0], kind="tree"),
        )
    amounts = tuple(sized(column, kind) for column in _AMOUNTS)
    counts = (*amounts, *_SCORES) if "process" in by else (_PROCESSES, *amounts)
    return (*keys, *(map(_of_change, counts) if changes else counts))


SHAPES = [
    Shape(
        "ps",
        [ps_columns((key,), "kib", changes=False, tree=False) for key in PS_KEYS]
        + [ps_columns(("process",), "kib", changes=False, tree=True)],
    )
]


def _of_change(column: Column) -> Column:
    """How far it came. Faults are what most want to see then, and shared memory is not."""
    if column in _SCORES:
        return column
    table = column.name in _FAULTS or (column.table and column.name != "shr_bytes")
    return replace(column, table=table, change=column.name not in _FAULTS)


class Ps:
    """Makes reports of snapshots: of what there is, or of what changed since the last one."""

    def __init__(self, by: tuple[str, ...], columns: tuple[Column, ...]) -> None:
        self._by, self._columns = by, columns

    def report(self, seen: Snapshot) -> Report:
        """What there is."""
        return self._report(seen, 0.0, seen.rows, seen.kernel)

    def change(self, before: Snapshot, seen: Snapshot) -> Report:
        """What changed."""
        kernel = difference(seen.kernel, before.kernel)
        rows = changes(before.rows, seen.rows)
        return self._report(seen, seen.at_s - before.at_s, rows, kernel)

    def _report(
        self, seen: Snapshot, interval_s: float, rows: list[Row], kernel: dict[str, int]
    ) -> Report:
        shown = rows if "process" in self._by else grouped(rows, self._names())
        label = next(c.name for c in reversed(self._columns) if c.kind in _LABELLED)
        totals = {**summed(rows), label: f"total of {len(shown)}", "depth": 0}
        return Report(
            name="ps",
            time=seen.time,
            interval_s=round(interval_s, 3),
            columns=self._columns,
            rows=shown,
            audit=procfs.audit(len(seen.rows), seen.unread, kernel, notes_of(seen)),
            totals=totals if len(shown) > 1 else None,
        )

    def _names(self) -> list[str]:
        return [column.name for column in key_columns(PS_KEYS, self._by)]


_LABELLED = ("text", "user", "path", "tree")


def unread_note(unread: int) -> str:
    """Why PSS, USS and SWAP are missing."""
    of = "1 process is" if unread == 1 else f"{unread} processes are"
    return f"PSS, USS and SWAP of {of} not ours to read, so their totals are lower bounds"


def notes_of(seen: Snapshot) -> list[str]:
    """What a snapshot does not show."""
    notes = []
    if seen.unread:
        notes.append(unread_note(seen.unread))
    if seen.without_memory:
        notes.append(
            f"{seen.without_memory} kernel threads and zombies are left out: they have no memory "
            "of their own; --pid shows them"
        )
    return notes


def summed(rows: Iterable[Row]) -> Row:
    """The sums of what can be added up; of what is known, and None if nothing is."""
    rows = list(rows)
    return {name: _sum([row[name] for row in rows]) for name in _SUMMED}


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known or not values else None


def grouped(rows: Iterable[Row], names: list[str]) -> list[Row]:
    """A row of sums for all that agree in the columns of these names."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return [
        {**dict(zip(names, key, strict=True)), **summed(group)} for key, group in groups.items()
    ]


def changes(before: Iterable[Row], after: Iterable[Row]) -> list[Row]:
    """How far the amounts of each process came; only of those of which something changed.

    A process that began had nothing before, and one that ended has nothing left; of its last
    faults nobody knows. Scores are as they are now.
    """
    old = {_identity(row): row for row in before}
    rows = [_difference(row, old.pop(_identity(row), None)) for row in after]
    rows += [_ended(row) for row in old.values()]
    return [row for row in rows if any(row[name] for name in _SUMMED)]


def _identity(row: Row) -> tuple[int, int]:
    """A process; numbers are used again."""
    return row["pid"], row["start"]


def _difference(row: Row, was: Row | None) -> Row:
    if was is None:
        return row
    return row | {name: _minus(row[name], was[name]) for name in _SUMMED}


def _minus(now: int | None, then: int | None) -> int | None:
    return None if now is None or then is None else now - then


def _ended(row: Row) -> Row:
    lost = {name: _minus(0, row[name]) for name in _SUMMED}
    return row | lost | dict.fromkeys(_FAULTS)
