"""malloc: which path it took to the kernel, how much it got and gave back, and what that cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from memtap.bpf.stream import Events
from memtap.tracers.code.intervals import Space, Waiting, locate_in
from memtap.tracers.faults.probes import Kind
from memtap.tracers.faults.times import merged, notes_of_times, tally
from memtap.tracers.malloc.allocator import Allocator, Asked, Path, Rule, Step, owners_of
from memtap.tracers.malloc.columns import HEAPS, MALLOC_KEYS, malloc_columns
from memtap.tracers.malloc.explain import of_heaps
from memtap.tracers.malloc.heaps import Heaps
from memtap.tracers.malloc.probes import Call, CallMark
from memtap.tracers.malloc.rows import ROW, Fact
from memtap.tracers.malloc.sizes import Sizes
from memtap.tracers.model.arrays import first_of_each, group_numbers
from memtap.tracers.model.audit import audit
from memtap.tracers.model.chunk import Chunk, Interval, Origin
from memtap.tracers.model.enricher import forget_first, tell
from memtap.tracers.model.frames import pl
from memtap.tracers.model.keys import identity
from memtap.tracers.model.process import UNKNOWN_PROCESS, Process
from memtap.tracers.model.report import Report, Row, Section

# The allocator whose threshold is known.
GLIBC = "glibc"

# An overtaken call is searched for among this many rows. More would take too long with a program
# that causes overtaking all the time.
_BEHIND = 2048

# Faults and the owner of their memory: as in faults.rows.ROW, but `site` is the code that got the
# memory, and `path` the path by which it got it.
_FAULT = np.dtype(
    [
        *((name, ROW[name]) for name in ("tgid", "site", "region", "cause", "kind", "switched")),
        *((name, ROW[name]) for name in ("count", "time_ns", "room_ns")),
        ("path", "u1"),
    ]
)
_OWNER = ["tgid", "path", "site"]
_SUMMED = ["count", "timed", "time_ns"]

# Which part of a Key each key of the report comes from.
_PLACES = {"process": 0, "comm": 0, "path": 1, "site": 2}

_FACTS = frozenset(Fact)

# A process, a path, and the number of the code that took it.
Key = tuple[int, Path, int]


@dataclass
class Tally:
    """The counts of a process, a path and a site.

    Attributes:
        taken, given: bytes.
        timed, time_ns: how many faults were timed, and how long all took; see faults/times.py.
        ended, life_ns: how many mappings were unmapped as they had been mapped, and how long they
            were kept.
    """

    calls: int = 0
    taken: int = 0
    given: int = 0
    faults: int = 0
    timed: int = 0
    time_ns: int = 0
    ended: int = 0
    life_ns: int = 0

    def __iadd__(self, other: Tally) -> Tally:
        self.calls += other.calls
        self.taken += other.taken
        self.given += other.given
        self.faults += other.faults
        self.timed += other.timed
        self.time_ns += other.time_ns
        self.ended += other.ended
        self.life_ns += other.life_ns
        return self

    @property
    def fault_time_ns(self) -> int | None:
        """How long all faults took; None if none was timed."""
        return self.time_ns if self.timed else None

    @property
    def mean_life_ns(self) -> int | None:
        """How long a mapping was kept on average until it was unmapped."""
        return self.life_ns // self.ended if self.ended else None


@dataclass(frozen=True)
class Decision:
    """A call and what it did.

    Attributes:
        row: the call, with the members of malloc.rows.ROW.
        step: what the process's allocator did with it.
        allocator: the process's allocator, after the call.
    """

    row: Row
    step: Step
    allocator: Allocator


class Allocators:
    """The allocators of all processes: takes rows, gives decisions, and tallies them."""

    def __init__(self) -> None:
        self.known: dict[int, Allocator] = {}
        self.tallies: dict[Key, Tally] = defaultdict(Tally)
        self._faults: list[pl.DataFrame] = []
        self._homes: dict[int, int] = {}  # for a process in another's memory: that other
        self._ended: list[int] = []

    def count_faults(self) -> pl.DataFrame:
        """Adds the faults to the tallies; returns them by owner, as times.merged() does."""
        counted, self._faults = merged(self._faults, _OWNER), []
        column = {name: counted[name].to_numpy() for name in (*_OWNER, *_SUMMED)}
        group = group_numbers(*(column[name] for name in _OWNER))
        one = first_of_each(group)
        owners = [column[name][one].tolist() for name in _OWNER]
        sums = [np.bincount(group, column[name], len(one)).astype(int) for name in _SUMMED]
        for tgid, path, site, faults, timed, time_ns in zip(
            *owners, *(each.tolist() for each in sums), strict=True
        ):
            self.tallies[tgid, Path(path), site] += Tally(
                faults=faults, timed=timed, time_ns=time_ns
            )
        return counted

    def end_interval(self) -> None:
        """Begins new counts, and forgets processes that ended."""
        self.tallies.clear()
        for tgid in self._ended:
            self.known.pop(tgid, None)
            self._homes.pop(tgid, None)
        self._ended.clear()

    def of(self, tgid: int) -> Allocator:
        """The allocator of a process, a new one if it was not known."""
        allocator = self.known.get(tgid)
        if allocator is None:
            allocator = self.known[tgid] = Allocator()
        return allocator

    def feed(self, rows: Events) -> Iterator[Decision]:
        """Goes through rows in order of time; faults that could not be completed do not count."""
        rows = rows[~np.isin(rows["kind"], (Kind.BAD, Fact.REQUESTED, Fact.WALKED))]
        rows = rows[np.argsort(self._homes_of(rows), kind="stable")]
        borders = np.flatnonzero(np.diff(rows["tgid"], prepend=-1, append=-1))
        is_call = rows["kind"] >= Call.BRK
        places = np.flatnonzero(is_call)
        calls = dict(zip(places.tolist(), _dicts(rows[places]), strict=True))
        owners = _Owners(rows["address"])
        borders = np.union1d(borders, np.concatenate([places, places + 1])).tolist()
        tgids = rows["tgid"][borders[:-1]].tolist()
        for (begin, end), tgid in zip(pairwise(borders), tgids, strict=True):
            if begin in calls:
                owners.settle(self.known.get(tgid))
                yield from self._calls(begin, calls)
            else:
                owners.add(self.of(tgid), begin, end)
        owners.finish()
        if not is_call.all():
            self._faults.append(tally(_faults(rows, owners.numbers)[~is_call], _OWNER))

    def _homes_of(self, rows: Events) -> npt.NDArray[np.uint32]:
        """One number for all processes that share an address space: their calls have one order."""
        births = rows[np.isin(rows["kind"], (Fact.FORK, Fact.SHARE))]
        for kind, tgid, parent in births[["kind", "tgid", "parent"]].tolist():
            self._homes.pop(tgid, None)
            if kind == Fact.SHARE:
                self._homes[tgid] = self._homes.get(parent, parent)
        tgids, which = np.unique(rows["tgid"], return_inverse=True)
        homes = np.array([self._homes.get(tgid, tgid) for tgid in tgids.tolist()], np.uint32)
        return homes[which]

    def _calls(self, place: int, calls: dict[int, Row]) -> Iterator[Decision]:
        """Decides the call at a place, after those that it has overtaken.

        A call is recorded when it returns. If a thread is preempted in munmap(2) or mremap(2) after
        the memory is unmapped, another thread can map the same addresses and return first.
        """
        while calls[place] and (behind := self._overtaken(place, calls)):
            yield from self._decide(behind, calls)
        yield from self._decide(place, calls)

    def _decide(self, place: int, calls: dict[int, Row]) -> Iterator[Decision]:
        row, calls[place] = calls[place], {}  # or it would be decided again where it stands
        if row and (decision := self._call(row)):
            yield decision

    def _overtaken(self, place: int, calls: dict[int, Row]) -> int | None:
        """The index of the later call that unmapped what is in the way of a mapping."""
        row = calls[place]
        if row["kind"] != Call.MMAP or row["call_marks"] & CallMark.REFUSED:
            return None
        allocator = self.known.get(row["tgid"])
        if not allocator or not allocator.has_in_its_way(_asked(row)):
            return None
        for at in range(place + 1, place + _BEHIND):
            other = calls.get(at)
            if not other or other["kind"] not in (Call.MUNMAP, Call.MOVED_FROM):
                continue
            if self.known.get(other["tgid"]) is allocator and _is_about(other, row):
                return at
        return None

    def _call(self, row: Row) -> Decision | None:
        if row["kind"] in _FACTS:
            self._take(Fact(row["kind"]), row)
            return None
        call, tgid = Call(row["kind"]), row["tgid"]
        allocator = self.of(tgid)
        step = _step(allocator, call, row)
        if call is Call.MOVED_FROM:  # it is one system call with MOVED_TO
            return None
        self._count(tgid, step, row["site"])
        return Decision(row, step, allocator)

    def _take(self, fact: Fact, row: Row) -> None:
        tgid = row["tgid"]
        if fact is Fact.FORK:
            self.known[tgid] = self.of(row["parent"]).copy()
        elif fact is Fact.SHARE:
            self.known[tgid] = self.of(row["parent"])
        elif fact is Fact.EXEC:
            self.known[tgid] = Allocator()
            self._homes.pop(tgid, None)
        elif fact is Fact.EXIT:
            self._ended.append(tgid)
        elif fact is Fact.HEAP:
            self.of(tgid).heap = row["address"], row["address"] + row["length"]

    def _count(self, tgid: int, step: Step, site: int) -> None:
        """Memory given back counts for the code that got it; so does a call without known code."""
        owner = site or max(step.back, key=lambda site: step.back[site], default=0)
        tally = self.tallies[tgid, step.path, owner]
        tally.calls += 1
        tally.taken += step.taken
        if step.life_ns is not None:
            tally.ended += 1
            tally.life_ns += step.life_ns
        for maker, given in step.back.items():
            self.tallies[tgid, step.path, maker].given += given


class _Owners:
    """The owners of the memory that faults are in.

    Calls change the use of memory, so a process's faults wait until its next call: then those of
    many processes are looked up at once.

    Attributes:
        numbers: the owner of each address, as a number; see Allocator.space.
    """

    def __init__(self, addresses: npt.NDArray[np.uint64]) -> None:
        self._addresses = np.ascontiguousarray(addresses)
        self.numbers = np.zeros(len(addresses), np.uint32)
        self._waiting: dict[Allocator, list[npt.NDArray[np.intp]]] = {}
        self._settled = Waiting()

    def add(self, allocator: Allocator, begin: int, end: int) -> None:
        """Adds faults of this process, up to its next call."""
        self._waiting.setdefault(allocator, []).append(np.arange(begin, end))

    def settle(self, allocator: Allocator | None) -> None:
        """Looks up the faults that wait for this process, if any, before its memory changes."""
        if allocator:
            for rows in self._waiting.pop(allocator, ()):
                self._look(allocator.space, rows)

    def finish(self) -> None:
        """Looks up the rest."""
        for allocator in list(self._waiting):
            self.settle(allocator)
        arrays, which, rows = self._settled.take()
        if arrays:
            self.numbers[rows] = locate_in(arrays, which, self._addresses[rows])[0]

    def _look(self, space: Space, rows: npt.NDArray[np.intp]) -> None:
        if space.are_few(len(rows)):
            self.numbers[rows] = space.locate(self._addresses[rows])[0]
        else:
            self._settled.add(space, rows)


def _dicts(rows: Events) -> list[Row]:
    """Rows as dicts of their members, to look at one by one."""
    names = rows.dtype.names or ()
    return [dict(zip(names, row, strict=True)) for row in rows.tolist()]


def _faults(rows: Events, owners: npt.NDArray[np.uint32]) -> Events:
    """Rows and the owners of their memory, as _FAULT."""
    faults = np.zeros(len(rows), _FAULT)
    for name in (_FAULT.names or ())[:-1]:
        faults[name] = rows[name]
    faults["path"], faults["site"] = owners_of(owners, rows["region"])
    return faults


def _step(allocator: Allocator, call: Call, row: Row) -> Step:
    marks = row["call_marks"]
    if marks & CallMark.IS_32_BIT:
        allocator.runs_32_bits()
    if marks & CallMark.TELLS_THRESHOLD:
        allocator.set_threshold(row["threshold"])
    asked = _asked(row)
    if call is Call.BRK:
        return allocator.call(call, asked)
    if marks & CallMark.REFUSED:
        return Step(Path.OTHER, Rule.FAILED)
    if marks & CallMark.BY_LOADER:
        return Step(Path.OTHER, Rule.LOADER)
    if marks & CallMark.BY_OTHERS and call is Call.MMAP:
        return allocator.map_other(asked)
    return allocator.call(call, asked)


def _asked(row: Row) -> Asked:
    return Asked(
        row["address"],
        row["length"],
        row["prot"],
        row["flags"],
        row["advice"],
        row["call_marks"],
        row["site"],
        row["ns"],
        row["tid"],
    )


def _is_about(row: Row, other: Row) -> bool:
    """Whether two calls of two threads are about the same memory."""
    is_before = row["address"] + row["length"] <= other["address"]
    is_behind = other["address"] + other["length"] <= row["address"]
    return row["tid"] != other["tid"] and not is_before and not is_behind


class Malloc:
    """Chunks in, a report out at the end of each interval."""

    def __init__(
        self, origin: Origin, by: tuple[str, ...] = ("process",), explains: bool = False
    ) -> None:
        self.by, self._explains = by, explains
        self._origin = origin
        self._allocators = Allocators()
        self._processes: dict[int, Process] = {}
        self._names: dict[int, str] = {}
        self._sites: dict[int, str] = {}
        self._sizes, self._heaps = Sizes(), Heaps()
        self._events = 0

    def feed(self, chunk: Chunk) -> Report | None:
        """Counts a chunk; returns the report if an interval ends with it."""
        tell(self._processes, chunk.processes)
        tell(self._names, chunk.texts.get("allocator", {}))
        self._sites |= chunk.texts.get("site", {})
        is_call = chunk.rows["kind"] >= Call.BRK
        self._events += int(is_call.sum()) + int(chunk.rows["count"][~is_call].sum())
        self._sizes.feed(chunk.rows)
        self._heaps.feed(chunk.rows)
        for decision in self._allocators.feed(chunk.rows):
            self._sizes.note(decision.row, decision.step)
        return self._report(chunk.interval) if chunk.interval else None

    def _report(self, interval: Interval) -> Report:
        notes = list(notes_of_times(self._origin.way, self._allocators.count_faults()))
        rows = self._rows()
        heaps = self._heaps.take(self._processes)
        self._allocators.end_interval()
        forget_first(self._processes)
        forget_first(self._names)
        events, self._events = self._events, 0
        return Report(
            "malloc",
            interval.time,
            interval.seconds,
            malloc_columns(self.by),
            rows,
            audit(self._origin, interval, events, notes=notes),
            sections=tuple(_sections(self._sizes.take(), heaps, self._explains)),
        )

    def _rows(self) -> list[Row]:
        names = [column.name for key in self.by for column in MALLOC_KEYS[key]]
        groups: dict[tuple[Any, ...], list[Key]] = defaultdict(list)
        parts: dict[tuple[str, int], tuple[Any, ...]] = {}
        for key in sorted(self._allocators.tallies):
            groups[self._group(key, parts)].append(key)
        return [
            dict(zip(names, group, strict=True)) | self._sums(of) for group, of in groups.items()
        ]

    def _group(self, key: Key, parts: dict[tuple[str, int], tuple[Any, ...]]) -> tuple[Any, ...]:
        """The values that identify the row of a key; `parts` caches those already worked out."""
        group: tuple[Any, ...] = ()
        for by in self.by:
            number = key[_PLACES[by]]
            if (part := parts.get((by, number))) is None:
                identity = self._identity(*key)
                part = parts[by, number] = tuple(identity[c.name] for c in MALLOC_KEYS[by])
            group += part
        return group

    def _identity(self, tgid: int, path: Path, site: int) -> Row:
        return identity(tgid, self._processes.get(tgid, UNKNOWN_PROCESS)) | {
            "allocator": self._names.get(tgid, "?"),
            "path": path.text,
            "site": self._sites.get(site, "?"),
        }

    def _sums(self, group: list[Key]) -> Row:
        total = Tally()
        for key in group:
            total += self._allocators.tallies[key]
        return {
            "calls": total.calls,
            "requested_bytes": total.taken,
            "returned_bytes": total.given,
            "live_bytes": self._live(group),
            "faults": total.faults,
            "fault_time_ns": total.fault_time_ns,
            "timed": total.timed,
            "threshold_bytes": self._threshold({tgid for tgid, _, _ in group}),
            "life_ns": total.mean_life_ns,
        }

    def _live(self, group: list[Key]) -> int:
        """The bytes held by these paths and sites; by whole processes if rows have neither."""
        paths = {path for _, path, _ in group} if "path" in self.by else None
        sites = {site for _, _, site in group} if "site" in self.by else None
        allocators = {self._allocators.of(tgid): None for tgid, _, _ in group}
        return sum(
            size
            for allocator in allocators
            for (path, site), size in allocator.live().items()
            if (paths is None or path in paths) and (sites is None or site in sites)
        )

    def _threshold(self, tgids: set[int]) -> int | None:
        """The threshold of one process that uses glibc; None for several, or another allocator."""
        if len(tgids) > 1 or self._names.get(min(tgids)) != GLIBC:
            return None
        return self._allocators.of(min(tgids)).least_mapped


def _sections(
    sizes: list[dict[str, int]] | None, heaps: list[Row] | None, explains: bool
) -> Iterator[Section]:
    """The sections on request sizes and heaps, if the user asked for them."""
    if sizes is not None:
        yield Section("sizes", "sizes", sizes)
    if heaps is not None:
        yield Section("heaps", "rows", heaps, HEAPS)
        if explains:
            yield Section("explanation", "text", of_heaps(heaps))
