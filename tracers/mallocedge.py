"""The edge of malloc: faults, the calls that get and give memory, forks, new programs, ends."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from memtap.bpf.session import Cut, Session
from memtap.bpf.sideband import Began, Ended, Forked, Told
from memtap.bpf.stream import Events
from memtap.tracers.allocations import Call
from memtap.tracers.edge import Taken
from memtap.tracers.faultedge import FaultEdge, Ripe
from memtap.tracers.grouping import in_order
from memtap.tracers.mallocrows import FOREIGN, LOADER, ROW
from memtap.tracers.mappings import Region, parse_maps

# The object that malloc comes from, the one that takes the place of others first.
_ALLOCATORS = (
    ("jemalloc", re.compile(r"/libjemalloc")),
    ("tcmalloc", re.compile(r"/libtcmalloc")),
    ("mimalloc", re.compile(r"/libmimalloc")),
    ("musl", re.compile(r"/(ld-musl-|libc\.musl-)")),
    ("glibc", re.compile(r"/libc(\.so\.6|-2\.\d+\.so)$")),
)
_LOADER = re.compile(r"/ld(-linux[^/]*|-musl[^/]*|-2\.\d+|64)?\.so[^/]*$")


def allocator_of(paths: Iterable[str]) -> str:
    """Whose malloc a process has that maps these files; "?" if none of those we know."""
    mapped = [path.removesuffix(" (deleted)") for path in paths]
    return next((name for name, like in _ALLOCATORS if any(map(like.search, mapped))), "?")


class MallocEdge:
    """See Edge."""

    row = ROW
    most_batches = FaultEdge.most_batches

    def __init__(self, session: Session, names_code: bool) -> None:
        self._faults = FaultEdge(session, names_code)
        self._seen: list[tuple[int, int, int]] = []
        self._allocators: dict[int, str] = {}
        self._known: set[int] = set()

    def follow(self, tgid: int) -> None:
        """Looks what a process has mapped, and where its heap is, before it changes that."""
        self._faults.follow(tgid)
        self._known.add(tgid)
        try:
            maps = Path(f"/proc/{tgid}/maps").read_bytes()
        except OSError:
            return
        heaps = [mapped for mapped in parse_maps(maps, tgid) if mapped.path == "[heap]"]
        if heaps:
            self._seen.append((tgid, heaps[0].start, heaps[-1].end - heaps[0].start))

    def consumed(self) -> None:
        """See Edge."""
        self._faults.consumed()

    def take(self, cut: Cut, last: bool) -> Taken:
        """See Edge."""
        ripe = self._faults.ripen(cut, last)
        faults = np.zeros(len(ripe.faults), ROW)
        for name in ripe.faults.dtype.names or ():
            faults[name] = ripe.faults[name]
        calls = self._calls(ripe)
        self._known.update(calls["tgid"].tolist(), faults["tgid"].tolist())
        parts = [self._heaps(), faults, calls, self._lives(ripe.told)]
        texts = self._faults.texts() | {"allocator": self._news(ripe)}
        return Taken(in_order(np.concatenate(parts), "ns"), texts=texts)

    def learn(self, reporter: object) -> None:
        """There is nothing that the kernel could leave out."""

    def _heaps(self) -> Events:
        """Of processes that were there before."""
        seen, self._seen = self._seen, []
        rows = np.zeros(len(seen), ROW)
        for row, (tgid, start, length) in zip(rows, seen, strict=True):
            row["kind"], row["tgid"], row["address"], row["length"] = Call.HEAP, tgid, start, length
        return rows

    def _calls(self, ripe: Ripe) -> Events:
        calls, numbers = ripe.calls, ripe.numbers
        rows = np.zeros(len(calls), ROW)
        for name in ("ns", "tgid", "tid", "kind", "address", "length", "marks"):
            rows[name] = calls[name]
        rows["flags"], rows["stack"] = calls["seen"], numbers[:, 2]
        for made in np.unique(numbers[:, [0, 4, 5, 6]], axis=0):
            same = (numbers[:, [0, 4, 5, 6]] == made).all(axis=1)
            rows["marks"][same] |= self._maker(*map(int, made))
        return rows

    def _maker(self, code: int, *callers: int) -> int:
        """Who made a call, by the places of its code and of what may have called that."""
        path = self._faults.place(code).path
        if _LOADER.search(path):
            return LOADER
        called = (self._faults.place(number) for number in callers)
        by = next((place.path for place in called if place.region is Region.TEXT), path)
        return 0 if by == path or allocator_of([by]) != "?" else FOREIGN

    def _news(self, ripe: Ripe) -> dict[int, str]:
        """The allocators of processes that have one now, and had not, or another."""
        for each in ripe.told:
            if isinstance(each, Began):
                self._allocators.pop(each.tgid, None)
        news = {}
        for tgid in np.unique(ripe.calls["tgid"]).tolist():
            name = allocator_of(self._faults.paths_of(tgid))
            if self._allocators.get(tgid) != name:
                news[tgid] = self._allocators[tgid] = name
        for each in ripe.told:
            if isinstance(each, Ended):
                self._allocators.pop(each.tgid, None)
        return news

    def _lives(self, told: Iterable[Told]) -> Events:
        """Births, new programs and ends of processes that we know; see Call."""
        lives = [each for each in told if self._concerns(each)]
        rows = np.zeros(len(lives), ROW)
        for row, each in zip(rows, lives, strict=True):
            row["ns"], row["tgid"], row["kind"] = each.ns, each.tgid, _LIVES[type(each)]
            row["address"] = each.parent if isinstance(each, Forked) else 0
        return rows

    def _concerns(self, told: Told) -> bool:
        if isinstance(told, Forked) and told.parent in self._known:
            self._known.add(told.tgid)
        known = told.tgid in self._known
        if isinstance(told, Ended):
            self._known.discard(told.tgid)
        return known and type(told) in _LIVES


_LIVES: dict[type, Call] = {Forked: Call.FORK, Began: Call.EXEC, Ended: Call.EXIT}
