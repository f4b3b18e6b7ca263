"""Rows of malloc: faults, system calls that map or unmap memory, forks, execs and exits."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from memtap.bpf.session import Drained
from memtap.bpf.sideband import Began, Ended, Forked
from memtap.bpf.stream import Events
from memtap.tracers.code.mappings import Heard, Place, Region, Shares, parse_maps, read_maps
from memtap.tracers.faults.enrich import FaultEnricher, Settled
from memtap.tracers.malloc import heapwalk
from memtap.tracers.malloc.callsites import CallSites
from memtap.tracers.malloc.libraries import ALLOCATORS, allocator_of, is_loader, rank_of
from memtap.tracers.malloc.probes import Call, CallMark
from memtap.tracers.malloc.requests import SIZES, Requests
from memtap.tracers.malloc.rows import BEYOND, ROW, Fact
from memtap.tracers.malloc.thresholds import Thresholds
from memtap.tracers.model.arrays import chain, first_of_each, group_numbers, in_order
from memtap.tracers.model.enricher import REMEMBERED, Enricher, Source, Taken

# Members of calls: possible return addresses, the innermost first.
CALLERS = ("caller_0", "caller_1", "caller_2")

# Members of calls that rows have unchanged.
_COPIED = (
    *("ns", "tgid", "tid", "kind", "address", "length"),
    *("prot", "flags", "advice", "call_marks", "threshold"),
)

# A map that the C program has if it sends the stacks of calls.
FRAMES = "frame_records"


class MallocEnricher(Enricher):
    """See Enricher."""

    row = ROW
    most_batches = FaultEnricher.most_batches

    def __init__(
        self, session: Source, walks_heaps: bool, program: Sequence[str] | None = None
    ) -> None:
        self._session, self._walks_heaps = session, walks_heaps
        self._faults = FaultEnricher(session, names_code=False, callers=CALLERS)
        self._sites = CallSites(self._faults.mappings) if FRAMES in session.maps else None
        counts = SIZES in session.maps
        self._requests = Requests(session, program) if counts else None
        self._thresholds = Thresholds(session)
        self._pending: Events = np.empty(0, np.void)
        self._site_of: dict[tuple[int, int], int] = {}
        self._seen: list[tuple[int, int, int]] = []
        self._allocators: dict[int, str] = {}
        self._rank_of: dict[int, int] = {}  # of places, see libraries.rank_of()
        self._known: set[int] = set()

    def follow(self, tgid: int) -> None:
        """Reads a process's mappings, and where its heap is, before they change."""
        self._faults.follow(tgid)
        self._thresholds.follow(tgid)
        self._known.add(tgid)
        if self._requests:
            self._requests.follow(tgid)
        try:
            maps = read_maps(tgid)
        except OSError:
            return
        heaps = [mapped for mapped in parse_maps(maps, tgid) if mapped.path == "[heap]"]
        if heaps:
            self._seen.append((tgid, heaps[0].start, heaps[-1].end - heaps[0].start))

    def polled(self) -> float:
        """See Enricher."""
        return self._faults.polled()

    def enrich(self, drained: Drained, last: bool) -> Taken:
        """See Enricher."""
        settled = self._faults.settle(drained, last)
        if self._sites:
            self._find_sites(drained, last)
        faults = np.zeros(len(settled.faults), ROW)
        for name in settled.faults.dtype.names or ():
            faults[name] = settled.faults[name]
        calls = self._calls(settled)
        self._known.update(calls["tgid"].tolist(), faults["tgid"].tolist())
        parts = [self._heaps(), faults, calls, self._lives(settled.heard)]
        texts = self._faults.texts(settled.faults) | {"allocator": self._news(settled)}
        if self._sites:
            texts["site"] = self._sites.texts.take()
        if self._requests:
            self._requests.look(settled.heard)
            parts.append(self._requests.take(drained.until_ns))
        notes = self._sites.notes() if self._sites else []
        if self._walks_heaps:
            parts += self._walked(drained.until_ns, notes)
        return Taken(in_order(np.concatenate(parts), "ns"), texts=texts, notes=notes)

    def _walked(self, ns: int, notes: list[str]) -> list[Events]:
        """Reads the heaps of followed processes; appends notes on them."""
        until_s, rows = time.monotonic() + heapwalk.INTERVAL_S, []
        followed = sorted(self._session.followed())
        while followed and (left_s := until_s - time.monotonic()) > 0:
            tgid = followed.pop()
            found = heapwalk.look(tgid, left_s)
            rows.append(heapwalk.rows_of(tgid, ns, found))
            notes += found.notes_of(tgid)
        if followed:
            notes.append(f"the heaps of {len(followed)} processes were not looked at: no time left")
        return rows

    def units_of(self, events: Events) -> int:
        """See Divisible. Of the two events of an mremap(2) the second counts."""
        first_halves = int((events["kind"] == Call.MOVED_FROM).sum())
        return self._faults.units_of(events) - first_halves

    def _find_sites(self, drained: Drained, last: bool) -> None:
        """Finds the sites of calls that are settled now; the frames of others wait with them."""
        assert self._sites
        frames = chain(self._pending, drained.frames)
        settled = (frames["ns"] <= drained.until_ns) | last if len(frames) else np.zeros(0, bool)
        self._pending = frames[~settled]
        calls = frames[settled]
        if len(calls):
            keys = zip(calls["tid"].tolist(), calls["ns"].tolist(), strict=True)
            self._site_of |= dict(zip(keys, self._sites.of(calls, last).tolist(), strict=True))

    def _heaps(self) -> Events:
        """The heaps of processes that ran before tracing."""
        seen, self._seen = self._seen, []
        rows = np.zeros(len(seen), ROW)
        for row, (tgid, start, length) in zip(rows, seen, strict=True):
            row["kind"], row["tgid"], row["address"], row["length"] = Fact.HEAP, tgid, start, length
        return rows

    def _calls(self, settled: Settled) -> Events:
        calls, where = settled.calls, settled.where
        rows = np.zeros(len(calls), ROW)
        for name in _COPIED:
            rows[name] = calls[name]
        rows["address"][rows["address"] >= BEYOND] = 0  # an error, or an empty range
        if self._requests:
            for name in ("request", "request_number"):
                rows[name] = calls[name]
        keys = zip(calls["tid"].tolist(), calls["ns"].tolist(), strict=True)
        rows["site"] = [self._site_of.pop(key, 0) for key in keys]
        rows["call_marks"] |= self._makers(where)
        return rows

    def _makers(self, where: Events) -> npt.NDArray[np.uint16]:
        """What made each call, by the places of its code and of the possible callers."""
        group = group_numbers(where["place"], *where["callers"].T)
        one = first_of_each(group)
        makers = list(
            map(self._maker, where["place"][one].tolist(), where["callers"][one].tolist())
        )
        return np.array(makers, np.uint16)[group]

    def _maker(self, code: int, callers: list[int]) -> int:
        """What made a call, by the places of its code and of the possible callers."""
        path = self._place(code).path
        if is_loader(path):
            return CallMark.BY_LOADER
        called = (self._place(number) for number in callers)
        by = next((place.path for place in called if place.region is Region.TEXT), path)
        return 0 if by == path or allocator_of([by]) != "?" else CallMark.BY_OTHERS

    def _place(self, number: int) -> Place:
        return self._faults.mappings.places[number]

    def _news(self, settled: Settled) -> dict[int, str]:
        """The allocators of processes in which they are new or have changed."""
        for each in settled.heard:
            if isinstance(each, Began):
                self._allocators.pop(each.tgid, None)
        if len(self._allocators) > REMEMBERED:
            self._allocators.clear()
        news = {}
        for tgid in np.unique(settled.calls["tgid"]).tolist():
            name = self._allocator_in(self._faults.mappings.numbers_of(tgid))
            if self._allocators.get(tgid) != name:
                news[tgid] = self._allocators[tgid] = name
        for each in settled.heard:
            if isinstance(each, Ended):
                self._allocators.pop(each.tgid, None)
        return news

    def _allocator_in(self, mapped: set[int]) -> str:
        """The allocator of a process that has these places mapped."""
        if len(self._rank_of) > REMEMBERED:
            self._rank_of.clear()
        for number in mapped - self._rank_of.keys():
            self._rank_of[number] = rank_of(self._place(number).path)
        return ALLOCATORS[min(map(self._rank_of.__getitem__, mapped), default=-1)]

    def _lives(self, heard: Iterable[Heard]) -> Events:
        """Forks, execs and exits of processes that we know."""
        lives = [
            (each.ns, each.tgid, _LIVES[type(each)], getattr(each, "parent", 0))
            for each in heard
            if self._concerns(each)
        ]
        rows = np.zeros(len(lives), ROW)
        if lives:
            rows["ns"], rows["tgid"], rows["kind"], rows["parent"] = zip(*lives, strict=True)
        return rows

    def _concerns(self, event: Heard) -> bool:
        if isinstance(event, Forked) and event.parent in self._known:
            self._known.add(event.tgid)
        known = event.tgid in self._known
        if isinstance(event, Ended):
            self._known.discard(event.tgid)
        return known and type(event) in _LIVES


_LIVES: dict[type, Fact] = {
    Forked: Fact.FORK,
    Shares: Fact.SHARE,
    Began: Fact.EXEC,
    Ended: Fact.EXIT,
}
