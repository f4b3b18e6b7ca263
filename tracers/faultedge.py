"""The faults' edge: each is told where it was, why, and from which code."""

from __future__ import annotations

from pathlib import Path

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

# So many batches of events a second may have the times of minor faults in them.
_TIMED_BATCHES = 64


def faults_of(tgid: int, tid: int) -> int | None:
    """How many faults a thread has completed, by its stat in /proc; None if it is gone."""
    counted = read_thread(Path(f"/proc/{tgid}/task/{tid}"))
    return counted["ac_minflt"] + counted["ac_majflt"] if counted else None


class FaultEdge:
    """See Edge."""

    row = ROW

    def __init__(self, session: Session) -> None:
        self._session = session
        self._mappings = Mappings()
        self._exceptions = Exceptions(faults_of)
        self._resting = False
        self._may_rest = session.loaded.way.name == "exceptions"
        self._late: Events = np.empty(0, np.void)
        self._untold: list[Told] = []
        self._named = 0

    def follow(self, tgid: int) -> None:
        """Reads what a process has mapped, before it changes that."""
        self._mappings.read(tgid)

    def consumed(self) -> None:
        """Lets the timing of minor faults rest when there are enough for this time."""
        enough = self._session.waiting > _TIMED_BATCHES
        if enough and self._may_rest and not self._resting:
            self._session.rest(TIMING)
            self._resting = True

    def take(self, cut: Cut, last: bool) -> Taken:
        """See Edge. What came after the cut began waits: what was before it may not all be here."""
        if self._resting and not last:
            self._session.resume(TIMING)
            self._resting = False
        until = np.iinfo(np.uint64).max if last else cut.until_ns
        events = in_order(chain(self._late, cut.events), "ns")
        ripe = int(np.searchsorted(events["ns"], until, "right"))
        events, self._late = events[:ripe], events[ripe:].copy()
        told = [each for each in [*self._untold, *cut.told] if each.ns <= until]
        self._untold = [each for each in cut.told if each.ns > until]
        faults = self._exceptions.feed(events, self._locate(events, told), last)
        return Taken(rows_of(faults, self._mappings.places), texts=self._texts())

    def learn(self, reporter: object) -> None:
        """The kernel counts every fault; there is nothing it could leave out."""

    def _locate(self, events: Events, told: list[Told]) -> npt.NDArray[np.uint32]:
        return self._mappings.locate(events["tgid"], events["ns"], events["address"], told)

    def _texts(self) -> dict[str, dict[int, str]]:
        """The paths of places that are new since the last time."""
        places = self._mappings.places
        new = range(self._named, len(places))
        self._named = len(places)
        return {"place": {number: one_line(places[number].path) for number in new}}
