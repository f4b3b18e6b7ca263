"""The faults' edge: each is told where it was, why, and from which code."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from memtap.bpf.session import Cut, Session
from memtap.bpf.sideband import Told
from memtap.bpf.stream import Events
from memtap.tracers.edge import Taken
from memtap.tracers.faultmatch import Exceptions
from memtap.tracers.faultplan import TIMING
from memtap.tracers.faultrows import ROW, rows_of
from memtap.tracers.grouping import chain, in_order
from memtap.tracers.hostile import one_line
from memtap.tracers.mappings import Mappings
from memtap.tracers.targets import read_thread

if TYPE_CHECKING:
    from memtap.tracers.sites import Sites

# After so many batches of events in a second, the timing of minor faults rests.
_TIMED_BATCHES = 32

# So many are worked on at a time: then all that is made of them fits into a CPU's cache.
_TOGETHER = 128


def faults_of(tgid: int, tid: int) -> int | None:
    """How many faults a thread has completed, by its stat in /proc; None if it is gone."""
    counted = read_thread(Path(f"/proc/{tgid}/task/{tid}"))
    return counted["ac_minflt"] + counted["ac_majflt"] if counted else None


def _sites() -> Sites:
    """Only what names code has to import what reads ELF files."""
    from memtap.tracers.sites import Sites

    return Sites()


class Pace:
    """Has minor faults timed until there are enough of them, anew each second.

    To time them costs more than all other probes together, and in a storm of faults some
    thousands tell as much as all of them.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._began, self._received = 0.0, 0
        self._rests = False

    def look(self, now: float) -> None:
        """Decides anew; `now` is in seconds."""
        if now >= self._began + 1:
            self._began, self._received = now, self._session.received
            if self._rests:
                self._session.resume(TIMING)
            self._rests = False
        elif not self._rests and self._session.received > self._received + _TIMED_BATCHES:
            self._session.rest(TIMING)
            self._rests = True


class FaultEdge:
    """See Edge. With `names_code` each fault is told its site."""

    row = ROW
    most_batches: float = _TOGETHER

    def __init__(self, session: Session, names_code: bool) -> None:
        self._mappings = Mappings(names_code)
        self._sites = _sites() if names_code else None
        self._exceptions = Exceptions(faults_of)
        times_exceptions = session.loaded.way.name == "exceptions"
        self._pace = Pace(session) if times_exceptions else None
        self._late: Events = np.empty(0, np.void)
        self._untold: list[Told] = []
        self._named = 0

    def follow(self, tgid: int) -> None:
        """Reads what a process has mapped, before it changes that."""
        self._mappings.read(tgid)

    def consumed(self) -> None:
        """Paces the timing of minor faults."""
        if self._pace:
            self._pace.look(time.monotonic())

    def take(self, cut: Cut, last: bool) -> Taken:
        """See Edge. What came after the cut began waits: what was before it may not all be here."""
        self.consumed()
        until = np.iinfo(np.uint64).max if last else cut.until_ns
        events = in_order(chain(self._late, cut.events), "ns")
        ripe = int(np.searchsorted(events["ns"], until, "right"))
        events, self._late = events[:ripe], events[ripe:].copy()
        self._untold += cut.told
        told = [each for each in self._untold if each.ns <= until]
        self._untold = self._untold[len(told) :]
        faults = self._exceptions.feed(events, self._locate(events, told), last)
        return Taken(rows_of(faults, self._mappings.traits), texts=self._texts())

    def learn(self, reporter: object) -> None:
        """The kernel counts every fault; there is nothing it could leave out."""

    def _locate(self, events: Events, told: list[Told]) -> npt.NDArray[np.uint32]:
        """The numbers of the place and of the site of each event."""
        tgid, ns = events["tgid"], events["ns"]
        if not self._sites:
            places = self._mappings.locate(tgid, ns, events["address"], told)
            return np.stack([places, np.zeros_like(places)], 1)
        both = np.stack([events["address"], events["ip"]], 1).ravel()
        found = self._mappings.locate(np.repeat(tgid, 2), np.repeat(ns, 2), both, told)
        places, codes = found.reshape(-1, 2).T
        sites = self._sites.of(tgid, events["ip"], codes, self._mappings.places)
        return np.stack([places, sites], 1)

    def _texts(self) -> dict[str, dict[int, str]]:
        """The texts of places and sites that are new since the last time."""
        places = self._mappings.places
        new = range(self._named, len(places))
        self._named = len(places)
        sites = self._sites.take() if self._sites else {}
        return {"place": {n: one_line(places[n].path) for n in new}, "site": sites}
