"""files: what the page cache holds, found by a walk through all inodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import numpy as np

from memtap.bpf.cache import Cache
from memtap.bpf.kernel import Kernel
from memtap.bpf.loading import Attempts, Request
from memtap.bpf.session import Session
from memtap.tracers.files.columns import COUNTS, KEYS
from memtap.tracers.files.gather import MOST_FILES, Gatherer
from memtap.tracers.files.named import Namer, comm_of
from memtap.tracers.files.probes import FOLIOS, PLAN
from memtap.tracers.files.walk import Walker
from memtap.tracers.host import procfs
from memtap.tracers.host.counters import Counters, meminfo
from memtap.tracers.model.report import Column, Report, Row, key_columns, now
from memtap.tracers.model.tracer import Inspection, Query

_COMPARED = ("Cached", "Buffers", "Shmem", "Dirty", "Writeback")
_MGLRU = Path("/sys/kernel/mm/lru_gen/enabled")


class FilesInspection(Inspection):
    """Inspects all that is cached; see Inspection."""

    def __init__(self, query: Query, columns: tuple[Column, ...]) -> None:
        self._query, self._columns = query, columns
        self._ages = any(column.name == "active_bytes" for column in columns)
        self._looks_at_folios = self._ages or "cgroup" in query.by

    def report(self) -> Report:
        """The present state. Raises MemtapError if this kernel cannot run the walk."""
        settings = (FOLIOS,) if self._looks_at_folios else ()
        kernel = Kernel()
        request = Request(PLAN, settings=settings, notes_processes=False)
        attempts = Attempts(request, kernel, Cache())
        with Session(attempts.wait(), kernel) as session:
            return self._report(session)

    def _report(self, session: Session) -> Report:
        by, began = self._query.by, time.monotonic()
        walker, counters = Walker(session), compared()
        holders = walker.holders() if "process" in by else np.empty(0, [("tgid", "u8")])
        comms = {pid: comm_of(pid) for pid in np.unique(holders["tgid"]).tolist()}
        gatherer = Gatherer(by, holders, *self._most(), self._looks_at_folios)
        supers = walker.supers()
        for each in supers:
            for found in walker.files(each):
                gatherer.add(found, each.number, walker.open_inode)
        groups = gatherer.groups()
        took_s = time.monotonic() - began
        namer = Namer(walker, supers, by, comms)
        named = zip(namer.rows(groups), groups, strict=True)
        rows = [keys | amounts({name: int(g[name]) for name in _SUMMED}) for keys, g in named]
        if "cgroup" in by:  # an evicted page no longer has a cgroup
            rows = [row | {"evicted_bytes": None} for row in rows if row["resident_bytes"]]
        notes = [
            *_notes_of_walk(walker, took_s),
            *_notes_of_rows(gatherer, namer, self._query.rows),
            *(_notes_of_ages() if self._ages else ()),
        ]
        return Report(
            name="files",
            time=now(),
            interval_s=0.0,
            columns=self._columns,
            rows=rows,
            audit=_audit(session, walker, gatherer.totals["files"], counters, notes),
            totals=self._totals(gatherer) if len(rows) > 1 else None,
        )

    def _most(self) -> tuple[str, int]:
        """Which files have rows: those with the most of a column, and how many."""
        wanted = (self._query.sort or COUNTS[0]).lower()
        sort = next((name for name in COUNTS if wanted.startswith(name[:7])), None)
        rows = self._query.rows if sort else None
        return sort or COUNTS[0], min(rows or MOST_FILES, MOST_FILES)

    def _totals(self, gatherer: Gatherer) -> Row:
        last = next(c for c in reversed(key_columns(KEYS, self._query.by)) if c.kind in _TEXTS)
        said = f"total of {gatherer.totals['files']} files"
        return amounts(gatherer.totals) | {last.name: said}


_SUMMED = ("files", *COUNTS)
_TEXTS = ("path", "text")


def amounts(sums: dict[str, int]) -> Row:
    """Counts of pages as columns of bytes, and how many files there are."""
    bytes_of: Row = {f"{name}_bytes": sums[name] * PAGESIZE for name in COUNTS}
    return {"files": sums["files"], **bytes_of, "recently_evicted_bytes": None}


def compared() -> Counters:
    """From /proc/meminfo (KiB): what sums over all files can be compared with."""
    memory = meminfo()
    return {name: memory[name] for name in _COMPARED}


def _audit(
    session: Session, walker: Walker, files: int, kernel: Counters, notes: Sequence[str]
) -> dict[str, Any]:
    made = procfs.audit(files, 1, kernel, [*session.loaded.notes, *notes])
    accuracy = "estimated" if walker.given_up else session.loaded.variant.accuracy
    return made | {"accuracy": accuracy, "probes": list(session.loaded.probes)}


def _notes_of_walk(walker: Walker, took_s: float) -> list[str]:
    """The notes on when files were looked at, and what may be missing."""
    notes = [
        f"{walker.seen} inodes were looked at one after the other, without a lock, in "
        f"{took_s:.2f} s: each row is of a moment of its own in that, and files that were made "
        "meanwhile may be missing"
    ]
    if walker.restarts:
        notes.append(
            f"{walker.restarts} times the inode to go on from was gone: a file that was looked at "
            "then may be missing"
        )
    if walker.given_up:
        notes.append(
            f"{walker.given_up} file systems were not gone through to the end, as their inodes "
            "went faster than they were looked at"
        )
    return notes


def _notes_of_rows(gatherer: Gatherer, namer: Namer, asked: int | None) -> list[str]:
    notes = []
    if gatherer.left_out and asked is None:
        notes.append(
            f"{gatherer.left_out} files have no row, only a part in the totals: the {MOST_FILES} "
            "with the most have"
        )
    if namer.nameless:
        notes.append(
            f"of {namer.nameless} rows the kernel has no name in memory, only device and inode "
            "number (--wide): find -inum tells it"
        )
    return notes


def _notes_of_ages() -> list[str]:
    if not _MGLRU.exists() or int(_MGLRU.read_text(), 16) & 1 == 0:
        return []
    return ["pages are kept in generations here (MGLRU): ACTIVE has few of those in use"]
