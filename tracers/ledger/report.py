"""The account as reports: of sizes, or of changes since."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from memtap.tracers.host import procfs
from memtap.tracers.host.counters import Counters, difference
from memtap.tracers.ledger import cgroups, explain, memory, spaces
from memtap.tracers.ledger.account import BESIDE, Facts, Line, account, untold
from memtap.tracers.ledger.columns import CHARGED, PARTS, SUMMED
from memtap.tracers.ledger.kept import Look, keep, kept, seconds_between
from memtap.tracers.ledger.memory import Memory
from memtap.tracers.ledger.spaces import Space
from memtap.tracers.model.report import Column, Report, Row, Section, now, percentage
from memtap.tracers.model.tracer import Inspection, Query

# From /proc/meminfo, in KiB: what sums can be compared with.
_COMPARED = ("MemTotal", "MemFree", "MemAvailable", "AnonPages", "Mapped", "Shmem", "PageTables")


class LedgerInspection(Inspection):
    """Inspects all memory; see Inspection."""

    def __init__(self, query: Query, columns: tuple[Column, ...], root: Path = Path("/")) -> None:
        (self._by,) = query.by
        self._columns, self._root = columns, root
        self._changes = query.interval_s is not None
        self._explains = query.has("explain")
        self._record: Path | None = query.flags.get("record")
        since: Path | None = query.flags.get("since")
        self._since = kept(since, self._by) if since else None

    def begin(self) -> Sequence[str]:
        """Takes the first look."""
        self._seen = self._look()
        hint = "; run it with sudo" if os.geteuid() else ""
        return [said + hint for said in _unread(self._seen)]

    def report(self) -> Report:
        """The account at the first look; or the changes since the last one, or one in a file."""
        before = self._since
        if self._changes:
            before, self._seen = before or self._seen, self._look()
        if before is None:
            return report_of(self._seen, self._columns, self._explains)
        return change_of(before, self._seen, self._columns, self._explains)

    def _look(self) -> Look:
        seen = look(self._by, self._root)
        if self._record:
            keep(seen, self._record)
        return seen


def look(by: str, root: Path = Path("/")) -> Look:
    """The account now, a row for each value of the key."""
    seen = memory.look(root)
    if by == "cgroup":
        where = cgroups.hierarchy(root)
        rows, lacking = cgroups.rows(seen, where, root), cgroups.untold(where)
        read, unread = len(rows), len(rows) if lacking else 0
    else:
        found = spaces.look(root, whole=by != "line")
        rows, lacking = _ROWS[by](seen, found), []
        read, unread = len(found), sum(not space.is_known for space in found)
    return Look(
        by=by,
        time=now(),
        at_s=time.monotonic(),
        total=seen.total,
        rows=rows,
        read=read,
        unread=unread,
        untold=(*untold(seen), *(f"{name} (of KERNEL)" for name in lacking)),
        kernel={name: seen.kib[name] for name in _COMPARED},
    )


def _line_rows(seen: Memory, found: list[Space]) -> list[Row]:
    lines = account(Facts(seen, spaces.sums_of(found)))
    return [_line_row(line, size, seen.total) for line, size in lines]


def _line_row(line: Line, size: int, total: int) -> Row:
    return {
        "group": line.group,
        "line": line.name,
        "size_bytes": size,
        "share_pct": None if line.group == BESIDE else percentage(size, total),
        "more": line.more or None,
        "source": line.source,
    }


def _process_rows(seen: Memory, found: list[Space]) -> list[Row]:
    rows = [_space_row(space, seen.total) for space in found]
    return sorted(rows, key=lambda row: -(row["total_bytes"] or 0))


def _space_row(space: Space, total: int) -> Row:
    row = {
        "pid": space.pid,
        "start": space.start,
        "uid": space.uid,
        "user": procfs.user_name(space.uid),
        "comm": space.comm,
        "processes": 1,
        "anon_bytes": space.anon,
        "file_bytes": space.file,
        "shmem_bytes": space.shmem,
        "pgtables_bytes": space.pgtables,
        "rings_bytes": space.rings,
        "swap_bytes": space.swap,
        "hugetlb_bytes": space.hugetlb,
    }
    return _with_total(row, total)


def _user_rows(seen: Memory, found: list[Space]) -> list[Row]:
    users: dict[int, list[Row]] = {}
    for row in _process_rows(seen, found):
        users.setdefault(row["uid"], []).append(row)
    rows = [
        _with_total({"uid": uid, "user": procfs.user_name(uid), **summed(group)}, seen.total)
        for uid, group in users.items()
    ]
    return sorted(rows, key=lambda row: -(row["total_bytes"] or 0))


def _with_total(row: Row, total: int) -> Row:
    """The row with the sum of its known parts, and the share of that in MemTotal."""
    known = [row[name] for name in PARTS if row[name] is not None]
    taken = None if row["anon_bytes"] is None else sum(known)
    return row | {
        "total_bytes": taken,
        "share_pct": None if taken is None else percentage(taken, total),
    }


_ROWS: dict[str, Callable[[Memory, list[Space]], list[Row]]] = {
    "line": _line_rows,
    "process": _process_rows,
    "user": _user_rows,
}

# The columns that identify a row, for any key; and those that are added up.
_IDENTITY = ("group", "line", "cgroup", "pid", "start", "uid")
_AMOUNTS = tuple(dict.fromkeys((*CHARGED, *SUMMED)))


def summed(rows: Iterable[Row]) -> Row:
    """The sums of the amounts, over the known values; None if none is known."""
    rows = list(rows)
    return {name: _sum(row.get(name) for row in rows) for name in SUMMED}


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def report_of(seen: Look, columns: tuple[Column, ...], explains: bool = False) -> Report:
    """The report of a look."""
    words = explain.WORDS[seen.by](seen.rows, seen.total) if explains else None
    return _report(seen, columns, seen.rows, seen.kernel, 0.0, words)


def change_of(
    before: Look, seen: Look, columns: tuple[Column, ...], explains: bool = False
) -> Report:
    """The report of changes between two looks."""
    rows = changes(before.rows, seen.rows, seen.total)
    kernel = difference(seen.kernel, before.kernel)
    seconds = seconds_between(before, seen)
    words = explain.CHANGED[seen.by](rows, seconds) if explains else None
    return _report(seen, columns, rows, kernel, seconds, words)


def _report(
    seen: Look,
    columns: tuple[Column, ...],
    rows: list[Row],
    kernel: Counters,
    interval_s: float,
    words: list[str] | None,
) -> Report:
    return Report(
        name="ledger",
        time=seen.time,
        interval_s=round(interval_s, 3),
        columns=columns,
        rows=rows,
        audit=procfs.audit(seen.read, seen.unread, kernel, _notes(seen)),
        sections=() if words is None else (Section("explanation", "text", words),),
        totals=_totals(rows, columns, seen.total) if len(rows) > 1 else None,
    )


def _totals(rows: list[Row], columns: tuple[Column, ...], total: int) -> Row | None:
    """The totals; for lines that is MemTotal, and for cgroups the first row."""
    names = {column.name for column in columns}
    if "cgroup" in names:
        return None
    if "line" in names:
        size = sum(row["size_bytes"] for row in rows if row["group"] != BESIDE)
        return {"line": "MemTotal", "size_bytes": size, "share_pct": percentage(size, total)}
    sums = summed(rows)
    return {**sums, "user": "total", "share_pct": percentage(sums["total_bytes"] or 0, total)}


def changes(before: Iterable[Row], after: Iterable[Row], total: int) -> list[Row]:
    """The changes of sizes; only of rows with a change.

    What is new had nothing before, and what ended has nothing left.
    """
    old = {_identity(row): row for row in before}
    rows = [_difference(row, old.pop(_identity(row), {}), total) for row in after]
    rows += [_difference(dict.fromkeys(_AMOUNTS, 0), row, total, row) for row in old.values()]
    return [row for row in rows if any(row.get(name) for name in _AMOUNTS)]


def _identity(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in _IDENTITY)


def _difference(row: Row, old: Row, total: int, named: Row | None = None) -> Row:
    """The changes of a row's amounts; None for those that either look does not know."""
    named = named or row
    amounts = {name: _minus(row[name], old.get(name, 0)) for name in _AMOUNTS if name in named}
    of = amounts.get("size_bytes", amounts.get("total_bytes"))
    is_part = named.get("group") != BESIDE and of is not None
    return (
        named
        | amounts
        | {"share_pct": percentage(of, total) if is_part and of is not None else None}
    )


def _minus(value: int | None, old: int | None) -> int | None:
    return None if value is None or old is None else value - old


def _unread(seen: Look) -> list[str]:
    """The note on what is missing of processes that we may not read."""
    if not seen.unread or seen.by == "cgroup":
        return []
    of = "1 process is" if seen.unread == 1 else f"{seen.unread} processes are"
    return [f"{of} not ours to read: shared memory and buffers mapped there are not known"]


def _notes(seen: Look) -> list[str]:
    notes = _unread(seen)
    if seen.untold:
        notes.append(f"this kernel does not tell of {', '.join(seen.untold)}")
    return notes
