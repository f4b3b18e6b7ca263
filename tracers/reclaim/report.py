"""reclaim: which processes stall in reclaim, compaction or swap, and what kswapd does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memtap.bpf.stream import Events
from memtap.tracers.model.arrays import group_numbers
from memtap.tracers.model.audit import audit
from memtap.tracers.model.chunk import Chunk, Interval, Origin
from memtap.tracers.model.durations import bucket_of, quantile
from memtap.tracers.model.enricher import forget_first, tell
from memtap.tracers.model.frames import pl
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Report, Row, percentage
from memtap.tracers.reclaim.columns import RECLAIM_KEYS, reclaim_columns
from memtap.tracers.reclaim.pairs import Spans
from memtap.tracers.reclaim.probes import STALLS, Kind
from memtap.tracers.reclaim.rows import ROW

Times = npt.NDArray[np.uint64]

_KEYS = ("tgid", "node", "kind")
_SUMS = ("count", "time_ns", "amount", "reclaimed")


class Reclaim:
    """Chunks in, a report out at the end of each interval."""

    def __init__(self, origin: Origin, by: tuple[str, ...] = ("process",)) -> None:
        self.by = by
        self._origin = origin
        self._processes: dict[int, Process] = {}
        self._spans = Spans(ROW)
        self._tallies: list[pl.DataFrame] = []
        self._events = 0

    def feed(self, chunk: Chunk) -> Report | None:
        """Counts a chunk; returns the report if an interval ends with it."""
        tell(self._processes, chunk.processes)
        self._events += len(chunk.rows)
        ends, begins = self._spans.feed(chunk.rows, chunk.until_ns, chunk.last)
        self._tallies.append(tally(ends, ends["ns"] - begins["ns"]))
        told = chunk.rows[chunk.rows["edge"] == 0]
        self._tallies.append(tally(told, waited_ns(told)))
        return self._report(chunk.interval) if chunk.interval else None

    def _report(self, interval: Interval) -> Report:
        counted = merged(self._tallies)
        rows = self._rows(counted)
        self._tallies.clear()
        forget_first(self._processes)
        events, self._events = self._events, 0
        unseen = 0 if self._origin.filtered else unseen_pages(interval, counted)
        return Report(
            "reclaim",
            interval.time,
            interval.seconds,
            reclaim_columns(self.by),
            rows,
            audit(self._origin, interval, events, unseen=unseen, notes=self._notes(unseen)),
        )

    def _notes(self, unseen: int) -> list[str]:
        orphans, self._spans.orphans = self._spans.orphans, 0
        notes = []
        if unseen:
            notes.append(f"{unseen} pages of swap more by the kernel's count (pswpin, pswpout)")
        if orphans:
            notes.append(f"{orphans} ended that had begun before: their time is left out")
        return notes

    def _rows(self, counted: pl.DataFrame) -> list[Row]:
        keys = list(dict.fromkeys(c.name for key in self.by for c in RECLAIM_KEYS[key]))
        if len(counted) == 0:
            return []
        found = summaries(counted.with_columns(self._names(counted)), keys)
        shown = [column.name for column in reclaim_columns(self.by)]
        return found.select(shown).to_dicts()

    def _names(self, counted: pl.DataFrame) -> list[pl.Series]:
        """The columns of the keys, one value for each row."""
        processes = [self._processes.get(tgid, Process()) for tgid in counted["tgid"]]
        names = ("uid", "user", "comm", "cgroup", "args")
        series = [pl.Series(name, [getattr(each, name) for each in processes]) for name in names]
        return [counted["tgid"].alias("pid"), *series]


def waited_ns(rows: Events) -> Times:
    """How long throttled reclaimers waited; the kernel gives microseconds."""
    waited = np.where(rows["kind"] == Kind.THROTTLED, rows["amount"].astype(np.uint64) * 1000, 0)
    return waited.astype(np.uint64)


def unseen_pages(interval: Interval, counted: pl.DataFrame) -> int:
    """Pages that the kernel counted to or from swap beyond those that we saw."""
    unseen = 0
    for kind, counter in ((Kind.SWAP_IN, "pswpin"), (Kind.SWAP_OUT, "pswpout")):
        seen = int(counted.filter(pl.col("kind") == kind)["amount"].sum())
        unseen += max(0, interval.kernel.get(counter, 0) - seen)
    return unseen


def tally(rows: Events, time_ns: Times) -> pl.DataFrame:
    """Rows by process, node and kind, and by how long each took.

    Columns: `tgid`, `node`, `kind`, `bucket`, `count`, `time_ns`, `longest` (both ns), `amount`
    and `reclaimed`.
    """
    bucket = bucket_of(time_ns)
    group = group_numbers(*(rows[name] for name in _KEYS), bucket)
    _, one = np.unique(group, return_index=True)
    size = len(one)
    longest = np.zeros(size, np.uint64)
    np.maximum.at(longest, group, time_ns)
    weights = {"count": None, "time_ns": time_ns} | {n: rows[n] for n in ("amount", "reclaimed")}
    columns = {name: rows[name][one] for name in _KEYS} | {"bucket": bucket[one]}
    columns |= {name: np.bincount(group, weight, size) for name, weight in weights.items()}
    columns |= {"longest": longest}
    return pl.DataFrame({name: values.astype(np.int64) for name, values in columns.items()})


def merged(tallies: list[pl.DataFrame]) -> pl.DataFrame:
    """Merges tallies, each key and bucket once."""
    keys = [*_KEYS, "bucket"]
    empty = pl.DataFrame(schema=dict.fromkeys([*keys, *_SUMS, "longest"], pl.Int64))
    grouped = pl.concat([empty, *(each.select(empty.columns) for each in tallies)]).group_by(keys)
    return grouped.agg(pl.col(_SUMS).sum(), pl.col("longest").max()).sort(keys)


def _sum(name: str, *kinds: Kind) -> pl.Expr:
    return pl.col(name).filter(pl.col("kind").is_in(kinds)).sum()


def summaries(counted: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """The columns of each group. Quantiles are null where no task stalled."""
    stalls = counted.filter(pl.col("kind").is_in(STALLS)).sort("bucket")
    times = (
        stalls.with_columns(weight="count")
        .group_by(keys)
        .agg(quantile(0.99).alias("p99_ns"), pl.col("longest").max().alias("max_ns"))
    )
    sums = counted.group_by(keys).agg(
        _sum("count", *STALLS).alias("direct_reclaims"),
        _sum("time_ns", *STALLS).alias("stall_ns"),
        _sum("count", Kind.MEMCG).alias("memcg_reclaims"),
        _sum("amount", Kind.SHRINK).alias("scanned_pages"),
        _sum("reclaimed", Kind.SHRINK).alias("reclaimed_pages"),
        _sum("count", Kind.COMPACTION).alias("compactions"),
        _sum("time_ns", Kind.COMPACTION).alias("compaction_ns"),
        _sum("amount", Kind.SWAP_IN).alias("swapin_pages"),
        _sum("amount", Kind.SWAP_OUT).alias("swapout_pages"),
        _sum("count", Kind.THROTTLED).alias("throttled"),
        _sum("time_ns", Kind.THROTTLED).alias("throttled_ns"),
        _sum("amount", Kind.SLAB).alias("slab_objects"),
        _sum("count", Kind.KSWAPD).alias("kswapd_wakes"),
        _sum("time_ns", Kind.KSWAPD).alias("kswapd_ns"),
    )
    efficiency = [percentage(*pair) for pair in sums["reclaimed_pages", "scanned_pages"].rows()]
    found = sums.with_columns(efficiency_pct=pl.Series(efficiency, dtype=pl.Float64))
    return found.join(times, on=keys, how="left", nulls_equal=True).sort(keys)
