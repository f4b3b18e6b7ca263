"""Locates events: each in one place of the address space at its time, and in its code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from memtap.bpf.session import Drained
from memtap.bpf.sideband import Ended, SidebandEvent
from memtap.bpf.stream import Events, take
from memtap.tracers.code.intervals import PAGE_BYTES, U64, Numbers, Parts
from memtap.tracers.code.mappings import NO_FILE, Heard, Mappings, Moved, Shares
from memtap.tracers.faults.probes import FIRST_CALL, Kind, Mark
from memtap.tracers.faults.streaks import ends_apart, in_parts
from memtap.tracers.model.arrays import chain, group_numbers, in_order
from memtap.tracers.model.enricher import Source

if TYPE_CHECKING:
    from memtap.tracers.code.sites import Sites

# Where an event was: the offset in its file, the number of its place, and the numbers of the site
# and the stack of its code. For a call, place and offset are those of its code. `callers` are the
# places of the possible callers of that code, the innermost first.
WHERE = [("offset", "u8"), ("place", "u4"), ("site", "u4"), ("stack", "u4")]


def where_type(callers: int = 0) -> np.dtype[np.void]:
    """The type of WHERE with so many callers."""
    return np.dtype([*WHERE, ("callers", "u4", (callers,))] if callers else WHERE)


class _Asked(NamedTuple):
    """Addresses of processes at times, and the number of pages from each; parallel arrays."""

    tgids: Numbers
    ns: U64
    addresses: U64
    counts: npt.NDArray[np.uint16]


class _Found(NamedTuple):
    """For each address the number of its place, and the offset in it."""

    places: Numbers
    offsets: U64


def _single(events: Events, name: str) -> _Asked:
    """The addresses in a member of events, one page each."""
    return _Asked(events["tgid"], events["ns"], events[name], np.ones(len(events), np.uint16))


@dataclass
class _Stack:
    """The user stack of some events of a process.

    Attributes:
        ns: when it was first seen.
        frames: addresses, from the innermost on.
        events: the rows of its events.
    """

    tgid: int
    ns: int
    frames: list[int]
    events: npt.NDArray[np.intp]

    def asked(self) -> _Asked:
        """Its frames, as addresses to locate."""
        count = len(self.frames)
        tgids, ns = np.full(count, self.tgid, np.uint32), np.full(count, self.ns, np.uint64)
        return _Asked(tgids, ns, np.array(self.frames, np.uint64), np.ones(count, np.uint16))


@dataclass(frozen=True)
class Seen:
    """The events and side-band events up to the time for which all have arrived.

    Attributes:
        events: in order of time, each in one place.
        where: of each, see WHERE.
        heard: side-band events about processes meanwhile.
    """

    events: Events
    where: Events
    heard: list[Heard]


class Locator:
    """Takes events and side-band events as they come; returns events with where they were.

    Attributes:
        mappings: what processes have mapped, up to the last event that was taken.
        sites: names code; None if that is not wanted.
    """

    def __init__(self, session: Source, names_code: bool, callers: Sequence[str] = ()) -> None:
        """`callers` are members of calls: addresses that they may return to."""
        self._session, self._callers = session, callers
        self._type = where_type(len(callers))
        self.mappings = Mappings()
        self.sites = _make_sites() if names_code else None
        self._pending: Events = np.empty(0, np.void)
        self._pending_sideband: list[SidebandEvent] = []

    def locate(self, drained: Drained, last: bool) -> Seen:
        """Locates the events up to when the drain began: later ones may not all have arrived."""
        until = np.iinfo(np.uint64).max if last else drained.until_ns
        events = in_order(chain(self._pending, drained.events), "ns")
        settled = int(np.searchsorted(events["ns"], until, "right"))
        events, self._pending = events[:settled], events[settled:].copy()
        self._pending_sideband += drained.sideband
        sideband = [each for each in self._pending_sideband if each.ns <= until]
        self._pending_sideband = self._pending_sideband[len(sideband) :]
        sideband += [Ended(drained.until_ns, tgid) for tgid in self.mappings.gone()]
        events, heard = _apart(events, sideband)
        events, where = self._place(ends_apart(events), heard, last)
        return Seen(events, where, heard)

    def _place(self, events: Events, heard: list[Heard], last: bool) -> tuple[Events, Events]:
        """Events, each in one place, and their WHERE."""
        stacks = self._stacks_of(events)
        is_call = events["kind"] >= FIRST_CALL
        calls = np.flatnonzero(is_call)
        about = np.where(is_call, events["ip"], events["address"])
        asked = [_Asked(events["tgid"], events["ns"], about, events["count"])]
        asked += [_single(take(events, calls), name) for name in self._callers]
        if self.sites:
            asked += [_single(events, "ip"), *(stack.asked() for stack in stacks)]
        (own, *others), parts = self._find(asked, heard)
        where = np.zeros(len(events), self._type)
        where["place"], where["offset"] = own
        for number in range(len(self._callers)):
            where["callers"][calls, number] = others.pop(0).places
        if self.sites:
            self._name(self.sites, events, where, stacks, others, last)
        return in_parts(events, where, parts)

    def _name(
        self,
        sites: Sites,
        events: Events,
        where: Events,
        stacks: list[_Stack],
        codes: list[_Found],
        last: bool,
    ) -> None:
        """Sets sites and stacks; `codes` are of all events, and then of each stack."""
        known, (own, *of_stacks) = self.mappings.places, codes
        where["site"] = sites.of(events["tgid"], events["ip"], *own, known, last)
        taken = [
            (stack.tgid, stack.frames, *found)
            for stack, found in zip(stacks, of_stacks, strict=True)
        ]
        for stack, number in zip(stacks, sites.stacks_of(taken, known, last), strict=True):
            where["stack"][stack.events] = number

    def _find(
        self, asked: list[_Asked], heard: list[Heard]
    ) -> tuple[list[_Found], dict[int, Parts]]:
        """Locates all addresses at once; also gives the parts of sequential runs."""
        tgids, ns, addresses, counts = map(np.concatenate, zip(*asked, strict=True))
        order = np.argsort(ns, kind="stable")
        located = self.mappings.locate(
            tgids[order], ns[order], addresses[order], counts[order], heard
        )
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        numbers, offsets = located.numbers[back], located.offsets[back]
        ends = np.cumsum([len(each.ns) for each in asked])[:-1]
        found = map(_Found, np.split(numbers, ends), np.split(offsets, ends))
        return list(found), {int(order[row]): each for row, each in located.parts.items()}

    def _stacks_of(self, events: Events) -> list[_Stack]:
        """The stacks of events, each stack once per process."""
        if "stacks" not in self._session.maps or len(events) == 0:
            return []
        group = group_numbers(events["tgid"], events["stack"])
        found = []
        for number, first in enumerate(np.unique(group, return_index=True)[1]):
            frames = self._session.stack(int(events["stack"][first]))
            tgid, ns = int(events["tgid"][first]), int(events["ns"][first])
            if frames:
                found.append(_Stack(tgid, ns, frames, np.flatnonzero(group == number)))
        return found


def _make_sites() -> Sites:
    """Imports the ELF reader only if code is to be named."""
    from memtap.tracers.code.sites import Sites

    return Sites()


def _apart(events: Events, sideband: list[SidebandEvent]) -> tuple[Events, list[Heard]]:
    """Events without those about address spaces; and these, merged with the side-band events."""
    tells = (events["kind"] == Kind.MOVED) | (events["kind"] == Kind.SHARES)
    if not tells.any():
        return events, list(sideband)
    heard = [_heard(*each) for each in events[tells][_HEARD].tolist()]
    return take(events, ~tells), sorted([*sideband, *heard], key=lambda each: each.ns)


_HEARD = ["kind", "ns", "tgid", "address", "seen", "ip", "marks", "tid"]


def _heard(
    kind: int, ns: int, tgid: int, address: int, pages: int, source: int, marks: int, page: int
) -> Moved | Shares:
    if kind == Kind.SHARES:
        return Shares(ns, tgid, address)
    what = (page if marks & Mark.OF_FILE else NO_FILE) if marks & Mark.OF_ONE else None
    return Moved(ns, tgid, address, address + pages * PAGE_BYTES, source, what)
