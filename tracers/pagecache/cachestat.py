"""cachestat: is the page cache working? One row for the whole host, or for all traced processes."""

from __future__ import annotations

from memtap.tracers.model.chunk import Chunk, Interval, Origin
from memtap.tracers.model.frames import pl
from memtap.tracers.model.report import Report, Row, percentage
from memtap.tracers.pagecache.columns import CACHESTAT, CACHESTAT_WIDE
from memtap.tracers.pagecache.counts import COUNTS, PageCache, page_audit


class Cachestat:
    """Chunks in, a report out at the end of each interval."""

    def __init__(self, origin: Origin, wide: bool = False) -> None:
        self.cache = PageCache(origin.own)
        self._origin = origin
        self._columns = CACHESTAT_WIDE if wide else CACHESTAT

    def feed(self, chunk: Chunk) -> Report | None:
        """Counts a chunk; returns the report if an interval ends with it."""
        self.cache.feed(chunk.rows, chunk.until_ns, chunk.last)
        if chunk.interval is None:
            return None
        interval = chunk.interval
        tally = self.cache.take()
        return Report(
            "cachestat",
            interval.time,
            interval.seconds,
            self._columns,
            [self._row(interval, tally)],
            page_audit(self._origin, interval, self.cache, tally),
        )

    def _row(self, interval: Interval, tally: pl.DataFrame) -> Row:
        count = {name: int(tally[name].sum()) for name in COUNTS}
        return {
            "hits_pages": count["hits"],
            "misses_pages": count["misses"],
            "dirties_pages": count["dirties"],
            "hit_ratio_pct": percentage(count["hits"], count["hits"] + count["misses"]),
            "buffers_bytes": interval.buffers_bytes,
            "cached_bytes": interval.cached_bytes,
            "readahead_pages": max(count["inserted"] - count["written_in"], 0),
            "unused_readahead_pages": self.cache.unused_pages + count["wasted"],
            "evicted_pages": count["evicted"],
            "removed_pages": count["removed"],
            "dirty_folio_pages": count["dirty_folios"],
            # The kernel counts written pages for the host as a whole.
            "written_pages": None if self._origin.filtered else interval.kernel.get("nr_written"),
        }
