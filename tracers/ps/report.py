"""ps: how much memory every process takes, or took in an interval."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from memtap.tracers.host import procfs
from memtap.tracers.host.counters import difference
from memtap.tracers.live.processes import process_of
from memtap.tracers.model.report import Column, Report, Row, key_columns
from memtap.tracers.model.tracer import Inspection, Query
from memtap.tracers.ps import nodes
from memtap.tracers.ps.columns import FAULTS, PS_KEYS, SUMMED
from memtap.tracers.ps.snapshot import BUDGET_S, Reader, Snapshot, Wanted


class PsInspection(Inspection):
    """Inspects the processes that a query asks for; see Inspection."""

    def __init__(self, query: Query, columns: tuple[Column, ...]) -> None:
        pids = tuple(dict.fromkeys(map(process_of, query.pids)))
        if query.has("numa"):
            nodes.require()
        is_each = "process" in query.by
        self._reader = Reader(
            Wanted(
                pids,
                query.comms,
                cgroups="cgroup" in query.by,
                args=is_each,
                threads=is_each and query.wide,
                nodes=query.has("numa"),
            )
        )
        self._reports = Ps(query.by, columns)
        self._changes = query.interval_s is not None
        self._by_node, self._columns = query.has("numa"), columns
        self._what = _BY_NODE if self._by_node else _SHARES

    def begin(self) -> Sequence[str]:
        """Takes the first look."""
        self._seen = self._reader.look()
        hint = "; run it with sudo" if os.geteuid() else ""
        notes = [unread_note(self._seen.unread, self._what) + hint] if self._seen.unread else []
        return notes + ([late_note(self._seen.late, self._what)] if self._seen.late else [])

    def report(self) -> Report:
        """The first snapshot; or what changed since the last one."""
        if self._by_node:
            return node_report(self._seen, self._columns)
        if not self._changes:
            return self._reports.report(self._seen)
        before, self._seen = self._seen, self._reader.look()
        return self._reports.change(before, self._seen)

    @property
    def has_ended(self) -> bool:
        """Whether all processes that were asked for have ended; they may still be zombies."""
        is_some = bool(self._reader.wanted.pids)
        return is_some and not any(row["virt_bytes"] for row in self._seen.rows)


class Ps:
    """Makes reports of snapshots, or of changes between two."""

    def __init__(self, by: tuple[str, ...], columns: tuple[Column, ...]) -> None:
        self._by, self._columns = by, columns

    def report(self, seen: Snapshot) -> Report:
        """The report of a snapshot."""
        return self._report(seen, 0.0, seen.rows, seen.kernel)

    def change(self, before: Snapshot, seen: Snapshot) -> Report:
        """The report of the changes between two snapshots."""
        kernel = difference(seen.kernel, before.kernel)
        rows = changes(before.rows, seen.rows)
        return self._report(seen, seen.at_s - before.at_s, rows, kernel)

    def _report(
        self, seen: Snapshot, interval_s: float, rows: list[Row], kernel: dict[str, int]
    ) -> Report:
        shown = rows if "process" in self._by else grouped(rows, self._names())
        label = next(c for c in reversed(self._columns) if c.table and c.kind in _LABELLED)
        said = "total" if label.kind == "user" else f"total of {len(shown)}"  # users have 8 places
        totals = {**summed(rows), label.name: said, "depth": 0}
        return Report(
            name="ps",
            time=seen.time,
            interval_s=round(interval_s, 3),
            columns=self._columns,
            rows=shown,
            audit=procfs.audit(len(seen.rows), seen.unread + seen.late, kernel, notes_of(seen)),
            totals=totals if len(shown) > 1 else None,
        )

    def _names(self) -> list[str]:
        return [column.name for column in key_columns(PS_KEYS, self._by)]


def node_report(seen: Snapshot, columns: tuple[Column, ...]) -> Report:
    """The report of a snapshot by memory nodes."""
    rows = [each for row in seen.rows for each in nodes.process_rows(row)]
    mapped = _sum([row["mapped_bytes"] for row in rows])
    missing = seen.unread + seen.late
    return Report(
        name="ps",
        time=seen.time,
        interval_s=0.0,
        columns=columns,
        rows=rows,
        audit=procfs.audit(len(seen.rows), missing, seen.kernel, notes_of(seen, _BY_NODE)),
        totals={"mapped_bytes": mapped, "comm": f"total of {len(rows)}"},
    )


_LABELLED = ("text", "user", "path", "tree")


# The columns that may be missing.
_SHARES, _BY_NODE = "PSS, USS and SWAP", "NODE and MAPPED"


def unread_note(unread: int, what: str = _SHARES) -> str:
    """Why these columns are missing."""
    of = "1 process is" if unread == 1 else f"{unread} processes are"
    return f"{what} of {of} not ours to read, so their totals are lower bounds"


def late_note(late: int, what: str = _SHARES) -> str:
    """Why these columns are missing of those that took too long."""
    of = "1 process was" if late == 1 else f"{late} processes were"
    return (
        f"{what} of {of} not read in time, so their totals are lower bounds: after "
        f"{BUDGET_S:.0f} s only those that -p or -c names are read"
    )


def notes_of(seen: Snapshot, what: str = _SHARES) -> list[str]:
    """The notes on what a snapshot does not show."""
    notes = []
    if seen.unread:
        notes.append(unread_note(seen.unread, what))
    if seen.late:
        notes.append(late_note(seen.late, what))
    if seen.without_memory:
        notes.append(
            f"{seen.without_memory} kernel threads and zombies are left out: they have no memory "
            "of their own; --pid shows them"
        )
    return notes


def summed(rows: Iterable[Row]) -> Row:
    """The sums of the amounts, over the known values; None if none is known."""
    rows = list(rows)
    return {name: _sum([row[name] for row in rows]) for name in SUMMED}


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known or not values else None


def grouped(rows: Iterable[Row], names: list[str]) -> list[Row]:
    """A row of sums for all rows that agree in these columns."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return [
        {**dict(zip(names, key, strict=True)), **summed(group)} for key, group in groups.items()
    ]


def changes(before: Iterable[Row], after: Iterable[Row]) -> list[Row]:
    """The changes of each process's amounts; only of processes with a change.

    A new process had nothing before. A process that ended has nothing left, and its last faults are
    not known. Scores are the present ones.
    """
    old = {_identity(row): row for row in before}
    rows = [_difference(row, old.pop(_identity(row), None)) for row in after]
    rows += [_ended(row) for row in old.values()]
    return [row for row in rows if any(row[name] for name in SUMMED)]


def _identity(row: Row) -> tuple[int, int]:
    """What identifies a process: its number, and its start, as numbers are used again."""
    return row["pid"], row["start"]


def _difference(row: Row, was: Row | None) -> Row:
    if was is None:
        return row
    return row | {name: _minus(row[name], was[name]) for name in SUMMED}


def _minus(now: int | None, then: int | None) -> int | None:
    return None if now is None or then is None else now - then


def _ended(row: Row) -> Row:
    lost = {name: _minus(0, row[name]) for name in SUMMED}
    return row | lost | dict.fromkeys(FAULTS)
