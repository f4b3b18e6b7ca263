"""cachetop: which process, file, cgroup or user uses and misses the page cache."""

from __future__ import annotations

from collections import OrderedDict

from memtap.tracers.chunk import Chunk, Origin
from memtap.tracers.files import UNKNOWN, FileName, forget
from memtap.tracers.frames import pl
from memtap.tracers.pagecolumns import CACHETOP_KEYS, cachetop_columns
from memtap.tracers.pagecounts import COUNTS, PageCache, page_audit
from memtap.tracers.processes import Who
from memtap.tracers.report import Report, Row, percentage


class Cachetop:
    """Chunks in, a report out at the end of each interval."""

    def __init__(self, origin: Origin, by: tuple[str, ...] = ("process",)) -> None:
        self.cache = PageCache(origin.own)
        self._origin = origin
        self.by = by
        self._who: dict[int, Who] = {}
        self._paths: OrderedDict[int, FileName] = OrderedDict()

    def feed(self, chunk: Chunk) -> Report | None:
        """Counts a chunk; the report if an interval ends with it."""
        self._who |= chunk.who
        self._paths |= chunk.paths
        self.cache.feed(chunk.rows, chunk.until_ns, chunk.last)
        if chunk.interval is None:
            return None
        self._tally, self._interval = self.cache.take(), chunk.interval
        self._audit = page_audit(self._origin, chunk.interval, self.cache, self._tally)
        self._forget()
        return self.report()

    def _forget(self) -> None:
        """Keeps the names of the files of this interval, and of so many that were seen before."""
        files = self._tally["file"].unique().to_list()
        for file in files:
            if file in self._paths:
                self._paths.move_to_end(file)
        forget(self._paths, len(files))

    def report(self) -> Report:
        """The report of the last interval, by what is now in `by`."""
        return Report(
            "cachetop",
            self._interval.time,
            self._interval.seconds,
            cachetop_columns(self.by),
            self._rows(),
            self._audit,
        )

    def _rows(self) -> list[Row]:
        keys = list(dict.fromkeys(c.name for key in self.by for c in CACHETOP_KEYS[key]))
        groups = keys
        tally = self._tally.join(self._who_table(), on="tgid")
        if "file" in self.by:  # two files of one name, one after the other, are two
            tally, groups = tally.join(self._path_table(), on="file"), [*keys, "file"]
        sums = tally.group_by(groups).agg(pl.col(COUNTS).sum()).sort(groups)
        return [_row(found) for found in self._shown(sums).select(*keys, *COUNTS).to_dicts()]

    def _shown(self, sums: pl.DataFrame) -> pl.DataFrame:
        """The rows that have something to show: only by file it is shown what came and went."""
        shown = COUNTS if "file" in self.by else COUNTS[: COUNTS.index("inserted")]
        return sums.filter(pl.any_horizontal(pl.col(shown) > 0))

    def _who_table(self) -> pl.DataFrame:
        tgids = self._tally["tgid"].unique().to_list()
        found = [(tgid, self._who.get(tgid, Who())) for tgid in tgids]
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

    def _path_table(self) -> pl.DataFrame:
        files = self._tally["file"].unique().sort().to_list()
        names = [self._paths.get(file, UNKNOWN) for file in files]
        return pl.DataFrame(
            [
                (file, name.dev, name.ino, name.path)
                for file, name in zip(files, names, strict=True)
            ],
            schema={"file": pl.UInt64, "dev": pl.String, "ino": pl.UInt64, "path": pl.String},
            orient="row",
        )


def _row(found: Row) -> Row:
    """A row of sums as the contract has it; the keys stay as they are."""
    counts = {name: found.pop(name) for name in COUNTS}
    return found | {
        "hits_pages": counts["hits"],
        "misses_pages": counts["misses"],
        "dirties_pages": counts["dirties"],
        "read_hit_pct": percentage(counts["hits"], counts["hits"] + counts["misses"]),
        "write_hit_pct": write_hit(
            counts["dirties"] - counts["device_dirties"], counts["dirty_misses"]
        ),
        "dirty_folio_pages": counts["dirty_folios"],
        "inserted_pages": counts["inserted"],
        "evicted_pages": counts["evicted"],
        "removed_pages": counts["removed"],
    }


def write_hit(dirties: int, dirty_misses: int) -> float | None:
    """How many of the pages that writes to files made dirty were cached before, in per cent."""
    return percentage(dirties - dirty_misses, dirties)
