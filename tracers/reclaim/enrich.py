"""The edge of reclaim: its events need nothing else to be understood."""

from __future__ import annotations

import numpy as np

from memtap.bpf.session import Cut
from memtap.tracers.model.enricher import Enricher, Source, Taken
from memtap.tracers.reclaim.rows import ROW


class ReclaimEnricher(Enricher):
    """See Enricher."""

    row = ROW

    def __init__(self, _session: Source) -> None:
        """Nothing is asked of the session."""

    def enrich(self, cut: Cut, last: bool) -> Taken:
        """See Enricher."""
        rows = np.zeros(len(cut.events), ROW)
        for name in ROW.names or ():
            rows[name] = cut.events[name]
        return Taken(rows)
