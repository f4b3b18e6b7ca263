"""The enricher of reclaim: its events are complete as they are."""

from __future__ import annotations

import numpy as np

from memtap.bpf.session import Drained
from memtap.tracers.model.enricher import Enricher, Source, Taken
from memtap.tracers.reclaim.rows import ROW


class ReclaimEnricher(Enricher):
    """See Enricher."""

    row = ROW

    def __init__(self, _session: Source) -> None:
        """It needs nothing of the session."""

    def enrich(self, drained: Drained, last: bool) -> Taken:
        """See Enricher."""
        rows = np.zeros(len(drained.events), ROW)
        for name in ROW.names or ():
            rows[name] = drained.events[name]
        return Taken(rows)
