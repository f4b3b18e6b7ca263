"""Faults become rows: each is told where it was, why, and from which code."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from memtap.bpf.session import Drained
from memtap.bpf.sideband import Began, Ended, SidebandEvent
from memtap.bpf.stream import Events, take
from memtap.tracers.code.intervals import PAGE_BYTES, Parts
from memtap.tracers.code.mappings import Heard, Mappings, Moved, Shares
from memtap.tracers.faults.match import Exceptions
from memtap.tracers.faults.probes import COUNTS, FIRST_CALL, SWAP, TIMING, Kind
from memtap.tracers.faults.rows import ROW, already_spilled, by_process, rows_of, spilled_rows
from memtap.tracers.faults.streaks import ends_apart, in_parts
from memtap.tracers.faults.threadstacks import ThreadStacks
from memtap.tracers.faults.userfault import Watched
from memtap.tracers.host import procfs
from memtap.tracers.host.hostile import one_line
from memtap.tracers.model.arrays import chain, group_numbers, in_order
from memtap.tracers.model.enricher import REMEMBERED, Enricher, Source, Taken

# Of a call: what may be the address that it returns to, the innermost first.
CALLERS = ("caller_0", "caller_1", "caller_2")

if TYPE_CHECKING:
    from memtap.tracers.code.sites import Sites

# After so many batches of events in a second, the timing of minor faults rests for the first time.
# When it has begun again it rests after fewer, of which there are no more in a second.
_FIRST_BATCHES = 32
_MORE_BATCHES = 2

# To begin costs up to a millisecond on each CPU; it rests so many times as long, but not for ever.
_REST = 64
_MOST_COST_S = 1 / _REST

# So soon it is seen whether there are enough.
_SOON_S = 0.001

# So many are worked on at a time: then all that is made of them fits into a CPU's cache.
_TOGETHER = 128


# Of /proc/PID/task/TID/stat, counted from the field behind the name.
_MINOR, _MAJOR = 7, 9


def faults_of(tgid: int, tid: int) -> int | None:
    """How many faults a thread has completed, by its stat in /proc; None if it is gone."""
    try:
        stat = procfs.read(f"/proc/{tgid}/task/{tid}/stat")
    except procfs.Gone:
        return None
    fields = procfs.stat_fields(stat)
    return int(fields[_MINOR]) + int(fields[_MAJOR])


def _sites() -> Sites:
    """Only what names code has to import what reads ELF files."""
    from memtap.tracers.code.sites import Sites

    return Sites()


class Throttle:
    """Has a part of the minor faults timed: in each second the first, then some every now and then.

    To time them costs more than all other probes together, and in a storm of faults some thousands
    tell as much as all of them. So timing rests as soon as there are enough. It begins again before
    long, and sooner where a process was born or began a program: so that whoever comes later has
    faults that are timed, too.
    """

    def __init__(self, session: Source) -> None:
        self._session = session
        self._second = self._began = self._rested = self._rest_s = 0.0
        self._received = self._births = 0
        self._allowed, self._rests, self._cost_s = _FIRST_BATCHES, False, 0.0

    def look(self, now: float) -> float:
        """Decides anew; gives seconds until it wants to look again. `now` is in seconds."""
        if now >= self._second + 1:
            self._second = now
            self._begin(now, _FIRST_BATCHES)
        elif self._rests and now >= self._wakes():
            self._begin(now, _MORE_BATCHES)
        elif not self._rests and self._timed() > self._allowed:
            self._rest(now)
        return self._patience(now)

    def _timed(self) -> int:
        """How many batches came in since it began."""
        return self._session.received - self._received

    def _begin(self, now: float, allowed: int) -> None:
        if self._rests:
            begin = time.monotonic()
            self._session.resume(TIMING)
            self._cost_s = min(time.monotonic() - begin, _MOST_COST_S)
        self._began, self._allowed, self._rests = now, allowed, False
        self._received = self._session.received

    def _rest(self, now: float) -> None:
        self._session.rest(TIMING)
        timed = 0 if self._allowed == _FIRST_BATCHES else self._timed() / _FIRST_BATCHES
        self._rests, self._births, self._rested = True, self._session.births, now
        self._rest_s = max(self._cost_s * _REST, timed)

    def _wakes(self) -> float:
        """When timing is to begin again: after a birth in a quarter of the time."""
        born = self._session.births > self._births
        return self._rested + (self._rest_s / 4 if born else self._rest_s)

    def _patience(self, now: float) -> float:
        if self._rests:
            return max(self._wakes() - now, 0)
        return math.inf if self._allowed == _FIRST_BATCHES else max(now - self._began, _SOON_S)


@dataclass
class Stack:
    """The user stack of some events of a process.

    Attributes:
        ns: when it was first seen.
        frames: addresses, from the innermost on.
        events: the places of the events.
    """

    tgid: int
    ns: int
    frames: list[int]
    events: npt.NDArray[np.intp]


# Processes, times, addresses, and how many pages from there on; one of each.
Asked = tuple[
    npt.NDArray[np.uint32],
    npt.NDArray[np.uint64],
    npt.NDArray[np.uint64],
    npt.NDArray[np.uint16],
]


# Of each, the number of its place, and the offset in that.
Where = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]


def _callers(calls: Events, name: str) -> Asked:
    return calls["tgid"], calls["ns"], calls[name], np.ones(len(calls), np.uint16)


def _asked(stack: Stack) -> Asked:
    count = len(stack.frames)
    tgids, ns = np.full(count, stack.tgid, np.uint32), np.full(count, stack.ns, np.uint64)
    return tgids, ns, np.array(stack.frames, np.uint64), np.ones(count, np.uint16)


@dataclass(frozen=True)
class Settled:
    """What has become of events.

    Attributes:
        faults: rows; see faults.rows.ROW.
        calls: events that are no faults, in order of time.
        numbers: of those, the place, the site and the stack of the code, its offset, and the places
            of what may have called it (CALLERS).
        heard: what was told of processes meanwhile.
    """

    faults: Events
    calls: Events
    numbers: npt.NDArray[np.uint64]
    heard: list[Heard]


class FaultEnricher(Enricher):
    """See Enricher. With `names_code` each fault gets its site, and its stack if that was taken.

    Attributes:
        mappings: what processes have mapped, up to the last event that was taken.
    """

    row = ROW
    most_batches: float = _TOGETHER

    def __init__(self, session: Source, names_code: bool) -> None:
        self._session = session
        self.mappings = Mappings()
        self._sites = _sites() if names_code else None
        self._exceptions = Exceptions(faults_of)
        self._watched = Watched(session)
        self._threads = ThreadStacks()
        # Where exceptions are not seen, that probe is what counts the faults.
        self._counts = session.way == COUNTS
        self._throttle = None if self._counts else Throttle(session)
        self._swaps = SWAP in session.programs
        self._pending: Events = np.empty(0, np.void)
        self._spilled: dict[int, int] = {}
        self._pending_sideband: list[SidebandEvent] = []
        self._places_named: set[int] = set()

    def follow(self, tgid: int) -> None:
        """Reads what a process has mapped, before it changes that."""
        self.mappings.read(tgid)

    def polled(self) -> float:
        """Throttles the timing of minor faults."""
        return self._throttle.look(time.monotonic()) if self._throttle else math.inf

    def enrich(self, drained: Drained, last: bool) -> Taken:
        """See Enricher."""
        spilled = spilled_rows(drained.spilled, self._counts, drained.until_ns)
        self._spilled = by_process(spilled) if len(spilled) else self._spilled
        settled = self.settle(drained, last)
        self._spilled = self._spilled if len(spilled) else {}
        rows = np.concatenate([settled.faults, spilled, _changes(settled.heard)])
        notes = self._sites.notes() if self._sites else []
        unsettled = self._exceptions.unsettled
        return Taken(rows, texts=self.texts(settled.faults), notes=notes, unsettled=unsettled)

    def settle(self, drained: Drained, last: bool) -> Settled:
        """What has become of events.

        What came after the drain began waits: what was before it may not all be here.
        """
        self.polled()
        until = np.iinfo(np.uint64).max if last else drained.until_ns
        events = in_order(chain(self._pending, drained.events), "ns")
        settled = int(np.searchsorted(events["ns"], until, "right"))
        events, self._pending = events[:settled], events[settled:].copy()
        self._pending_sideband += drained.sideband
        told = [each for each in self._pending_sideband if each.ns <= until]
        self._pending_sideband = self._pending_sideband[len(told) :]
        told += [Ended(drained.until_ns, tgid) for tgid in self.mappings.gone()]
        events, heard = _apart(events, told)
        events, numbers = self._locate(ends_apart(events), heard, last)
        self._threads.note(events[events["kind"] == Kind.THREAD], self.mappings.start_of)
        of_calls = events["kind"] >= FIRST_CALL
        calls, code = take(events, of_calls), numbers[of_calls]
        if len(calls):
            events, numbers = take(events, ~of_calls), numbers[~of_calls]
        faults = self._exceptions.feed(
            events, numbers[:, :4], last, settles=not drained.goes_on, until_ns=drained.until_ns
        )
        if self._spilled and not self._counts:
            faults = take(faults, ~already_spilled(faults, self._spilled))
        self._threads.check(faults)
        ended = {each.tgid for each in told if isinstance(each, Ended)}
        self._watched.tell(faults, drained.until_ns / 1e9, ended)
        rows = rows_of(faults, self.mappings.traits, self._swaps)
        return Settled(rows, calls, code, heard)

    def units_of(self, events: Events) -> int:
        """See Divisible: faults, and calls."""
        kinds = (Kind.MINOR, Kind.MAJOR) if self._counts else (Kind.RAISED,)
        faults = events["count"][np.isin(events["kind"], kinds)].sum()
        return int(faults + (events["kind"] >= FIRST_CALL).sum())

    def feedback(self, reporter: object) -> None:
        """The kernel counts every fault; there is nothing it could leave out."""

    def _locate(
        self, events: Events, told: list[Heard], last: bool
    ) -> tuple[Events, npt.NDArray[np.uint64]]:
        """Events, each in one place, and the numbers of its place, its site and its stack.

        And its offset in its file. Of calls, their code is meant.
        """
        stacks = self._stacks_of(events)
        single = np.ones(len(events), np.uint16)
        about = np.where(events["kind"] >= FIRST_CALL, events["ip"], events["address"])
        asked = [(events["tgid"], events["ns"], about, events["count"])]
        if self._sites:
            asked.append((events["tgid"], events["ns"], events["ip"], single))
            asked += [_asked(stack) for stack in stacks]
        calls = np.flatnonzero(events["kind"] >= FIRST_CALL)
        asked += [_callers(events[calls], name) for name in CALLERS if len(calls)]
        (where, *codes), parts = self._find(asked, told)
        numbers = np.zeros((len(events), 4 + len(CALLERS)), np.uint64)
        numbers[:, 0], numbers[:, 3] = where
        for column, _ in enumerate(CALLERS if len(calls) else ()):
            numbers[calls, -1 - column] = codes.pop()[0]
        if self._sites:
            known = self.mappings.places
            numbers[:, 1] = self._sites.of(events["tgid"], events["ip"], *codes[0], known, last)
            taken = [
                (stack.tgid, stack.frames, *found)
                for stack, found in zip(stacks, codes[1:], strict=True)
            ]
            found = self._sites.stacks_of(taken, known, last)
            for stack, number in zip(stacks, found, strict=True):
                numbers[stack.events, 2] = number
        return in_parts(events, numbers, parts)

    def _find(self, asked: list[Asked], told: list[Heard]) -> tuple[list[Where], dict[int, Parts]]:
        """Where all that is asked for is, found in one go; and the parts of streaks."""
        tgids, ns, addresses, counts = map(np.concatenate, zip(*asked, strict=True))
        order = np.argsort(ns, kind="stable")
        located = self.mappings.locate(
            tgids[order], ns[order], addresses[order], counts[order], told
        )
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        numbers, offsets = located.numbers[back], located.offsets[back]
        ends = np.cumsum([len(each[0]) for each in asked])[:-1]
        where = list(zip(np.split(numbers, ends), np.split(offsets, ends), strict=True))
        return where, {int(order[row]): each for row, each in located.parts.items()}

    def _stacks_of(self, events: Events) -> list[Stack]:
        """The stacks of events, each once for each process."""
        if "stacks" not in self._session.maps or len(events) == 0:
            return []
        group = group_numbers(events["tgid"], events["stack"])
        found = []
        for number, first in enumerate(np.unique(group, return_index=True)[1]):
            frames = self._session.stack(int(events["stack"][first]))
            tgid, ns = int(events["tgid"][first]), int(events["ns"][first])
            if frames:
                found.append(Stack(tgid, ns, frames, np.flatnonzero(group == number)))
        return found

    def texts(self, rows: Events) -> dict[str, dict[int, str]]:
        """The texts of sites that are new since the last time, and of places that rows name."""
        if len(self._places_named) > REMEMBERED:
            self._places_named.clear()
        new = set(np.unique(rows["place"]).tolist()) - self._places_named
        self._places_named |= new
        texts = {"place": {n: one_line(self.mappings.places[n].path) for n in sorted(new)}}
        if self._sites:
            texts |= {"site": self._sites.sites.take(), "stack": self._sites.stacks.take()}
        return texts


def _apart(events: Events, told: list[SidebandEvent]) -> tuple[Events, list[Heard]]:
    """Events without those that tell of address spaces, and these among what else was told."""
    tells = (events["kind"] == Kind.MOVED) | (events["kind"] == Kind.SHARES)
    if not tells.any():
        return events, list(told)
    heard = [_heard(*each) for each in events[tells][_HEARD].tolist()]
    return take(events, ~tells), sorted([*told, *heard], key=lambda each: each.ns)


_HEARD = ["kind", "ns", "tgid", "address", "seen", "ip"]


def _heard(kind: int, ns: int, tgid: int, address: int, pages: int, source: int) -> Moved | Shares:
    if kind == Kind.SHARES:
        return Shares(ns, tgid, address)
    return Moved(ns, tgid, address, address + pages * PAGE_BYTES, source)


def _changes(heard: list[Heard]) -> Events:
    """A row without faults wherever what a process has at an address is not what it was."""
    changes = [each for each in heard if isinstance(each, Began | Moved)]
    rows = np.zeros(len(changes), ROW)
    rows["kind"] = Kind.MOVED
    rows["ns"] = [each.ns for each in changes]
    rows["tgid"] = [each.tgid for each in changes]
    return rows
