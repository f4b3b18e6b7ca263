"""The edge of reclaim: its events need nothing else to be understood."""

from __future__ import annotations

import math

import numpy as np

from memtap.bpf.session import Cut, Session
from memtap.tracers.model.enricher import Taken
from memtap.tracers.reclaim.rows import ROW


class ReclaimEnricher:
    """See Enricher."""

    row = ROW
    most_batches = math.inf

    def __init__(self, _session: Session) -> None:
        """Nothing is asked of the session."""

    def follow(self, tgid: int) -> None:
        """Nothing is kept of processes."""

    def consumed(self) -> float:
        """They wait for the cut."""
        return math.inf

    def take(self, cut: Cut, last: bool) -> Taken:
        """See Enricher."""
        rows = np.zeros(len(cut.events), ROW)
        for name in ROW.names or ():
            rows[name] = cut.events[name]
        return Taken(rows)

    def learn(self, reporter: object) -> None:
        """There is nothing that the kernel could leave out."""
