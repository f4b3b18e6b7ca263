"""cachetop: which process, file, cgroup or user uses and misses the page cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import islice

import numpy as np

from memtap.tracers.host.files import UNKNOWN, FileName, forget
from memtap.tracers.model.chunk import Chunk, Origin
from memtap.tracers.model.enricher import forget_first, tell
from memtap.tracers.model.frames import pl
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import FrameRows, Report
from memtap.tracers.pagecache.columns import CACHETOP_KEYS, cachetop_columns
from memtap.tracers.pagecache.counts import COUNTS, PageCache, page_audit

Names = Mapping[int, FileName]

# The columns that name a file.
_FILE = tuple(column.name for column in CACHETOP_KEYS["file"])

_COLUMNS = {
    "hits": "hits_pages",
    "misses": "misses_pages",
    "dirties": "dirties_pages",
    "dirty_folios": "dirty_folio_pages",
    "inserted": "inserted_pages",
    "evicted": "evicted_pages",
    "removed": "removed_pages",
}


class Cachetop:
    """Chunks in, a report out at the end of each interval."""

    def __init__(self, origin: Origin, by: tuple[str, ...] = ("process",)) -> None:
        self.cache = PageCache(origin.own)
        self._origin = origin
        self.by = by
        self._processes: dict[int, Process] = {}
        self._paths: OrderedDict[int, FileName] = OrderedDict()
        self._before = 0  # how many of them were sent before this interval

    def feed(self, chunk: Chunk) -> Report | None:
        """Counts a chunk; returns the report if an interval ends with it."""
        tell(self._processes, chunk.processes)
        self._paths |= chunk.paths
        self.cache.feed(chunk.rows, chunk.until_ns, chunk.last)
        if chunk.interval is None:
            return None
        self._tally, self._interval = self.cache.take(), chunk.interval
        self._audit = page_audit(self._origin, chunk.interval, self.cache, self._tally)
        self._forget()
        return self.report()

    def _forget(self) -> None:
        """Keeps the names of this interval's files, and of some that were seen before."""
        files = set(self._tally["file"].to_numpy().tolist())
        # Names that were sent in this interval are last already.
        for file in [each for each in islice(self._paths, self._before) if each in files]:
            self._paths.move_to_end(file)
        forget(self._paths, len(files))
        self._before = len(self._paths)
        forget_first(self._processes)

    def report(self) -> Report:
        """The report of the last interval, grouped by what is now in `by`."""
        return Report(
            "cachetop",
            self._interval.time,
            self._interval.seconds,
            cachetop_columns(self.by),
            self._rows(),
            self._audit,
        )

    def _rows(self) -> FrameRows:
        """Sums by the keys; a file stays a number until it is shown."""
        groups = [key for key in _keys(self.by) if key not in _FILE]
        tally = self._tally
        if groups:
            tally = tally.join(self._processes_table(), on="tgid")
        if "file" in self.by:  # two files that had one name, one after the other, are two
            groups.append("file")
        sums = _shares(self._shown(tally.group_by(groups).agg(pl.col(COUNTS).sum())))
        return FrameRows(sums.sort(groups), partial(_made, self.by, self._paths))

    def _shown(self, sums: pl.DataFrame) -> pl.DataFrame:
        """The rows that are not all zero; insertions and evictions are shown only by file."""
        shown = COUNTS if "file" in self.by else COUNTS[: COUNTS.index("inserted")]
        return sums.filter(pl.any_horizontal(pl.col(shown) > 0))

    def _processes_table(self) -> pl.DataFrame:
        tgids = self._tally["tgid"].unique().to_list()
        found = [(tgid, self._processes.get(tgid, Process())) for tgid in tgids]
        return pl.DataFrame(
            [(tgid, tgid, w.uid, w.user, w.comm, w.cgroup, w.args) for tgid, w in found],
            schema={
                "tgid": pl.Int64,
                "pid": pl.Int64,
                "uid": pl.Int64,
                "user": pl.String,
                "comm": pl.String,
                "cgroup": pl.String,
                "args": pl.String,
            },
            orient="row",
        )


def _made(by: tuple[str, ...], names: Names, sums: pl.DataFrame) -> pl.DataFrame:
    """Rows from sums, in the order of their keys."""
    keys = list(_keys(by))
    if "file" in by:
        sums, keys = _named(names, sums), [*keys, "file"]
    return sums.sort(keys).select(column.name for column in cachetop_columns(by))


def _named(names: Names, sums: pl.DataFrame) -> pl.DataFrame:
    """Adds the names of files, only for the lines given."""
    named = [tuple(names.get(file, UNKNOWN)) for file in sums["file"].to_list()]
    columns = zip(*named, strict=True) if named else [()] * len(_FILE)
    types = (pl.String, pl.UInt64, pl.String)
    return sums.with_columns(
        pl.Series(name, values, dtype)
        for name, values, dtype in zip(_FILE, columns, types, strict=True)
    )


def _keys(by: tuple[str, ...]) -> Iterable[str]:
    """The names of the columns by which rows differ."""
    return dict.fromkeys(column.name for key in by for column in CACHETOP_KEYS[key])


def _shares(sums: pl.DataFrame) -> pl.DataFrame:
    """Sums under the names of their columns, with the two ratios.

    For reads that is hits of all accesses; for writes, the pages that were cached before, of all
    file pages made dirty.
    """
    accesses = sums["hits"] + sums["misses"]
    to_files = sums["dirties"] - sums["device_dirties"]
    return sums.rename(_COLUMNS).with_columns(
        read_hit_pct=percentages(sums["hits"], accesses),
        write_hit_pct=percentages(to_files - sums["dirty_misses"], to_files),
    )


def percentages(parts: pl.Series, wholes: pl.Series) -> pl.Series:
    """percentage() for each row."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = 100 * parts.to_numpy() / wholes.to_numpy()
    ratios[wholes.to_numpy() == 0] = np.nan
    return pl.Series(ratios, nan_to_null=True)
