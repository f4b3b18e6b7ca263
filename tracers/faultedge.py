"""The faults' edge: each is told where it was, why, and from which code."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memtap.bpf.session import Cut, Session
from memtap.bpf.sideband import Told
from memtap.bpf.stream import Events
from memtap.tracers.edge import Taken
from memtap.tracers.faultrows import ROW, rows_of
from memtap.tracers.grouping import chain, in_order
from memtap.tracers.hostile import one_line
from memtap.tracers.mappings import Mappings


class FaultEdge:
    """See Edge."""

    row = ROW

    def __init__(self, session: Session) -> None:
        self._mappings = Mappings()
        self._late: Events = np.empty(0, np.void)
        self._untold: list[Told] = []
        self._named = 0

    def follow(self, tgid: int) -> None:
        """Reads what a process has mapped, before it changes that."""
        self._mappings.read(tgid)

    def take(self, cut: Cut, last: bool) -> Taken:
        """See Edge. What came after the cut began waits: what was before it may not all be here."""
        until = np.iinfo(np.uint64).max if last else cut.until_ns
        events = in_order(chain(self._late, cut.events), "ns")
        ripe = int(np.searchsorted(events["ns"], until, "right"))
        events, self._late = events[:ripe], events[ripe:].copy()
        told = [each for each in [*self._untold, *cut.told] if each.ns <= until]
        self._untold = [each for each in cut.told if each.ns > until]
        numbers = self._locate(events, told)
        return Taken(rows_of(events, numbers, self._mappings.places), texts=self._texts())

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
