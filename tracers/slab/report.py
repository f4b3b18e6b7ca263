"""slab: which kernel caches, code and processes allocate, waste and keep."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers.model.audit import audit
from memtap.tracers.model.chunk import Chunk, Interval, Origin
from memtap.tracers.model.enricher import (
    BETWEEN,
    OTHERS,
    Owner,
    are_many,
    fold_least,
    forget_first,
    tell,
)
from memtap.tracers.model.keys import identity
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Report, Row, Section, percentage
from memtap.tracers.slab.columns import LEAKS, SLAB_KEYS, slab_columns
from memtap.tracers.slab.rows import Kind

# As in the C program: the process of objects that are older than tracing.
NO_PROCESS = 0xFFFFFFFF

# Rows without a process; 0 is the idle task, in which interrupts of an idle CPU run.
_NO_PROCESS = {
    0: Process("[interrupt]", 0, "root", "/"),
    NO_PROCESS: Process("[earlier]", -1, "-", "-"),
    OTHERS: Process("[others]", -1, "-", "-"),
}

# Which number of an owner each key comes from.
_PLACES = {"process": 0, "comm": 0, "cache": 1, "site": 2}

# How many caches a note names.
_NAMED = 3

# How many leaks a table shows by default.
_SHOWN = 10


@dataclass(slots=True)
class Tally:
    """The counts of some owners; bytes that were asked for, allocated for that, freed."""

    allocs: int = 0
    frees: int = 0
    requested: int = 0
    allocated: int = 0
    freed: int = 0

    def __iadd__(self, other: Tally) -> Tally:
        self.allocs += other.allocs
        self.frees += other.frees
        self.requested += other.requested
        self.allocated += other.allocated
        self.freed += other.freed
        return self

    @property
    def live(self) -> int:
        """How many more objects were allocated than freed."""
        return self.allocs - self.frees

    @property
    def live_bytes(self) -> int:
        """How many more bytes were allocated than freed."""
        return self.allocated - self.freed

    @property
    def has_something(self) -> bool:
        """Whether allocations and frees differ."""
        return bool(self.live or self.live_bytes)


class Slab:
    """Chunks in, a report out at the end of each interval."""

    def __init__(self, origin: Origin, by: tuple[str, ...] = ("cache",), leaks: bool = False):
        self.by = by
        self._origin, self._leaks = origin, leaks
        self._processes: dict[int, Process] = {}
        kinds = ("cache", "site", "stack", "unseen", "unbounded")
        self._texts: dict[str, dict[int, str]] = {kind: {} for kind in kinds}
        self._tallies: dict[Owner, Tally] = defaultdict(Tally)
        self._live: defaultdict[Owner, Tally] = defaultdict(Tally)  # since it began
        self._seen: set[int] = set()  # caches with any object so far
        self._kept: Events = np.empty(0, np.void)
        self._names = [column.name for key in by for column in SLAB_KEYS[key]]

    def feed(self, chunk: Chunk) -> Report | None:
        """Counts a chunk; returns the report if an interval ends with it."""
        tell(self._processes, chunk.processes)
        for name, texts in self._texts.items():
            texts |= chunk.texts.get(name, {})
        kind = chunk.rows["kind"]
        self._count(chunk.rows[kind == Kind.COUNTED])
        self._kept = chunk.rows[kind == Kind.KEPT]
        return self._report(chunk.interval, chunk.until_ns) if chunk.interval else None

    def _count(self, rows: Events) -> None:
        names = [field.name for field in fields(Tally)]
        owners = zip(*(rows[name].tolist() for name in ("tgid", "cache", "site")), strict=True)
        counts = zip(*(rows[name].tolist() for name in names), strict=True)
        for owner, count in zip(owners, counts, strict=True):
            self._tallies[owner] += Tally(*count)

    def _report(self, interval: Interval, until_ns: int) -> Report:
        events = sum(tally.allocs + tally.frees for tally in self._tallies.values())
        rows = self._rows()
        off, unbounded = self._off(), self._unbounded()
        return Report(
            "slab",
            interval.time,
            interval.seconds,
            slab_columns(self.by),
            rows,
            audit(
                self._origin,
                interval,
                events,
                unseen=sum(off.values()) + len(unbounded),
                notes=[*_notes(rows, off, unbounded), *self._own_notes(interval)],
            ),
            sections=self._sections(until_ns),
        )

    def _sections(self, until_ns: int) -> tuple[Section, ...]:
        if not self._leaks:
            return ()
        return (Section("leaks", "rows", self._leak_rows(until_ns), LEAKS, _SHOWN),)

    def _off(self) -> Counter[str]:
        """By how many objects LIVE can be wrong, by cache: those whose free may not be seen."""
        off: Counter[str] = Counter()
        bounded = self._texts["unseen"].keys() - self._texts["unbounded"].keys()
        for (_, cache, _), tally in self._live.items():
            if cache in bounded:
                off[self._texts["unseen"][cache]] += abs(tally.live)
        return +off

    def _unbounded(self) -> list[str]:
        """The caches with objects of which others may have been allocated unseen."""
        unbounded = self._texts["unbounded"]
        return sorted(unbounded[cache] for cache in self._seen & unbounded.keys())

    def _own_notes(self, interval: Interval) -> list[str]:
        """The note that counts without processes include memtap's own objects."""
        if not self._origin.own or interval.own.get("events", 0):
            return []
        return ["what memtap itself allocates is in it; -b process leaves that out"]

    def _rows(self) -> list[Row]:
        """A row for each group that allocated, freed, or has something left."""
        for owner, tally in self._tallies.items():
            self._live[owner] += tally
            self._seen.add(owner[1])
        self._fold()
        groups: dict[tuple[Any, ...], tuple[Tally, Tally]] = defaultdict(lambda: (Tally(), Tally()))
        parts: dict[tuple[str, int], tuple[Any, ...]] = {}
        for owner, ever in self._live.items():
            now, since = groups[self._group(owner, parts)]
            since += ever
            if news := self._tallies.get(owner):
                now += news
        self._tallies.clear()
        for owner in [owner for owner, tally in self._live.items() if not tally.has_something]:
            del self._live[owner]
        return [
            dict(zip(self._names, group, strict=True)) | _sums(now, since)
            for group, (now, since) in sorted(groups.items(), key=lambda item: item[0])
            if now.allocs or now.frees or since.has_something
        ]

    def _fold(self) -> None:
        """Folds the owners that hold least, and forgets processes that no row names any more."""
        fold_least(self._live, self._tallies, lambda tally: tally.live_bytes)
        if are_many(self._processes):
            named = {tgid for tgid, _, _ in self._live} | set(self._kept["tgid"].tolist())
            forget_first(self._processes, named)

    def _group(self, owner: Owner, parts: dict[tuple[str, int], tuple[Any, ...]]) -> Any:
        """The values that identify the row of an owner; `parts` caches those already worked out."""
        group: tuple[Any, ...] = ()
        for key in self.by:
            number = owner[_PLACES[key]]
            if (part := parts.get((key, number))) is None:
                identity = self._identity(*owner)
                part = parts[key, number] = tuple(identity[c.name] for c in SLAB_KEYS[key])
            group += part
        return group

    def _identity(self, tgid: int, cache: int, site: int) -> Row:
        process = _NO_PROCESS.get(tgid) or self._processes.get(tgid, Process())
        return identity(0 if tgid in _NO_PROCESS else tgid, process) | {
            "cache": self._texts["cache"].get(cache, "?"),
            "site": self._texts["site"].get(site, "?"),
        }

    def _leak_rows(self, until_ns: int) -> list[Row]:
        """What was allocated since tracing began and is still there, the oldest first."""
        return [
            self._identity(int(row["tgid"]), int(row["cache"]), int(row["site"]))
            | {
                "objects": int(row["allocs"]),
                "bytes": int(row["allocated"]),
                "age_ns": max(0, until_ns - int(row["ns"])),
                "frames": self._frames(int(row["stack"])),
            }
            for row in self._kept[np.argsort(self._kept["ns"], kind="stable")]
        ]

    def _frames(self, stack: int) -> list[str]:
        """A stack from the outermost frame on."""
        text = self._texts["stack"].get(stack, "")
        return text.split(BETWEEN) if text else []


def _notes(rows: list[Row], off: Counter[str], unbounded: list[str]) -> list[str]:
    """The notes on numbers of a report that are not plain."""
    notes = []
    if off:
        named = ", ".join(name for name, _ in off.most_common(_NAMED))
        notes.append(
            f"LIVE can be off by {sum(off.values()):,} objects, of {named}: these are also "
            "freed in bulk or by kfree_rcu(), where no tracepoint tells"
        )
    if unbounded:
        notes.append(
            f"how far LIVE of {', '.join(unbounded)} can be off is not known: these are also "
            "allocated in bulk, where no tracepoint tells"
        )
    if any(row["live"] < 0 for row in rows):
        notes.append("LIVE below 0: what was there before it began was freed")
    return notes


def _sums(now: Tally, since: Tally) -> Row:
    """The counts of a row: of the interval, and since it began."""
    return {
        "allocs": now.allocs,
        "frees": now.frees,
        "live": since.live,
        "requested_bytes": now.requested,
        "allocated_bytes": now.allocated,
        "waste_pct": waste(now.requested, now.allocated),
        "live_bytes": since.live_bytes,
    }


def waste(requested: int, allocated: int) -> float | None:
    """How much of the allocated bytes was not asked for, in per cent; None if there are none."""
    return percentage(allocated - requested, allocated)
