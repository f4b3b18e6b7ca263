"""The page cache's rows: counted runs join the events, files get their paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memtap.bpf.session import Drained
from memtap.tracers.host.files import BUCKETS, Files
from memtap.tracers.host.mounts import Mounts
from memtap.tracers.model.enricher import Enricher, Source, Taken
from memtap.tracers.pagecache.probes import PAST_END_NOTE
from memtap.tracers.pagecache.rows import ROW, rows_of

if TYPE_CHECKING:
    from memtap.tracers.pagecache.cachestat import Cachestat
    from memtap.tracers.pagecache.cachetop import Cachetop


class PageEnricher(Enricher):
    """See Enricher."""

    row = ROW

    def __init__(self, session: Source) -> None:
        self._files, self._mounts = Files(), Mounts()
        has_buckets = "buckets" in session.maps
        self._buckets = session.shared("buckets", BUCKETS, 3) if has_buckets else None

    def enrich(self, drained: Drained, last: bool) -> Taken:
        """See Enricher."""
        paths = self._files.resolve(drained.names)
        rows = rows_of(drained.events, drained.runs, drained.spilled)
        rows["file"] = self._files.number(rows["file"])
        notes = (PAST_END_NOTE,) if self._mounts.has("squashfs") else ()
        return Taken(rows, paths, notes=notes)

    def feedback(self, reporter: Cachestat | Cachetop) -> None:
        """Tells the BPF program which files have no fresh page: it then just counts their hits."""
        if self._buckets is not None:
            buckets, entered = reporter.cache.settled()
            self._buckets[buckets, 1] = entered
