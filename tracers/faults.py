"""faults: who faults, where, why, from which code, at what cost."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # the other CPUs belong to those we watch
import polars as pl

from memtap.bpf.stream import Events
from memtap.tracers.audit import audit
from memtap.tracers.chunk import Chunk, Interval, Origin
from memtap.tracers.durations import bucket_of, histogram, quantile
from memtap.tracers.edge import BETWEEN, forget_first, tell
from memtap.tracers.explain import explain, touched_again
from memtap.tracers.faultcolumns import FAULT_KEYS, fault_columns
from memtap.tracers.faultplan import COUNTS, Kind
from memtap.tracers.faultrows import Cause
from memtap.tracers.grouping import group_numbers, select
from memtap.tracers.mappings import Region
from memtap.tracers.processes import Who
from memtap.tracers.report import Report, Row, percentage

# The numbers in a row that a key of the report is found by.
_NUMBERS = {
    "process": ("tgid",),
    "thread": ("tgid", "tid"),
    "region": ("region",),
    "cause": ("cause",),
    "file": ("place",),
    "site": ("site",),
    "cgroup": ("tgid",),
}
_EXPLAINED = ("region", "cause")
_STACKED = ("tgid", "stack")
_SUMS = ("count", "time_ns")


class Faults:
    """Chunks in, a report out at the end of each interval."""

    def __init__(
        self,
        origin: Origin,
        by: tuple[str, ...] = ("process",),
        hist: bool = False,
        explains: bool = False,
        stacks: bool = False,
    ) -> None:
        self.by = by
        self._origin, self._hist, self._explains, self._stacks = origin, hist, explains, stacks
        numbers = [name for key in by for name in _NUMBERS[key]]
        numbers += [*(_EXPLAINED if explains else ()), *(_STACKED if stacks else ())]
        self._numbers = list(dict.fromkeys(numbers))
        self._who: dict[int, Who] = {}
        self._texts: dict[str, dict[int, str]] = {"place": {}, "site": {}, "stack": {}}
        self._tallies: list[pl.DataFrame] = []
        self._again = 0

    def feed(self, chunk: Chunk) -> Report | None:
        """Counts a chunk; the report if an interval ends with it."""
        tell(self._who, chunk.who)
        for kind, texts in chunk.texts.items():
            tell(self._texts.setdefault(kind, {}), texts)
        if len(chunk.rows):
            faults = select(chunk.rows, chunk.rows["kind"] != Kind.MOVED)
            self._tallies.append(tally(faults, self._numbers))
            self._again += touched_again(chunk.rows) if self._explains else 0
        if chunk.interval is None:
            return None
        tallied, self._tallies = self._tallies, []
        counted = merged(tallied, self._numbers)
        report = self._report(counted, chunk.interval)
        forget_first(self._who)
        forget_first(self._texts["place"])
        return report

    def _report(self, counted: pl.DataFrame, interval: Interval) -> Report:
        return Report(
            "faults",
            interval.time,
            interval.seconds,
            fault_columns(self.by),
            self._rows(counted),
            fault_audit(self._origin, interval, counted),
            histogram(counted) if self._hist else None,
            self._explained(counted, interval) if self._explains else None,
            self._stacked(counted) if self._stacks else None,
        )

    def _explained(self, counted: pl.DataFrame, interval: Interval) -> list[str]:
        again, self._again = self._again, 0
        return explain(counted, interval, again)

    def _stacked(self, counted: pl.DataFrame) -> dict[tuple[str, ...], int]:
        """Faults by stack, the process's name its outermost frame, most frequent first."""
        stacks: dict[tuple[str, ...], int] = {}
        by = counted.group_by(_STACKED).agg(pl.col("count").sum())
        for tgid, number, count in by.sort("count", *_STACKED, descending=True).rows():
            text = self._texts["stack"].get(number, "[unknown]")
            frames = (self._who.get(tgid, Who()).comm, *text.split(BETWEEN))
            stacks[frames] = stacks.get(frames, 0) + count
        return stacks

    def _rows(self, counted: pl.DataFrame) -> list[Row]:
        keys = list(dict.fromkeys(c.name for key in self.by for c in FAULT_KEYS[key]))
        if len(counted) == 0:
            return []
        named = counted.with_columns(self._names(counted))
        summed = summaries(named, keys)
        total = int(summed["total"].sum())
        rows = summed.with_columns(
            share_pct=pl.Series([percentage(n, total) for n in summed["total"]])
        )
        shown = [column.name for column in fault_columns(self.by)]
        return rows.select(shown).to_dicts()

    def _names(self, counted: pl.DataFrame) -> list[pl.Series]:
        """The columns that keys stand for, one value for each row."""
        series: dict[str, list[object]] = {}
        if "tgid" in counted.columns:
            found = [self._who.get(tgid, Who()) for tgid in counted["tgid"]]
            series["pid"] = counted["tgid"].to_list()
            for name in ("uid", "user", "comm", "cgroup"):
                series[name] = [getattr(who, name) for who in found]
        if "region" in counted.columns:
            series["region"] = [Region(number).text for number in counted["region"]]
        if "cause" in counted.columns:
            series["cause"] = [Cause(number).text for number in counted["cause"]]
        for kind, name in (("place", "path"), ("site", "site")):
            if kind in counted.columns:
                texts = self._texts[kind]
                series[name] = [texts.get(number, "?") for number in counted[kind]]
        return [pl.Series(name, values) for name, values in series.items()]


def fault_audit(origin: Origin, interval: Interval, counted: pl.DataFrame) -> dict[str, Any]:
    """The audit: what the kernel counted for the targets beyond what we saw, is said.

    That are faults that it took for them without an exception (get_user_pages()). Of how many
    faults the times are is said as well.
    """
    notes = []
    minor, major = (_of_kind(counted, kind) for kind in (Kind.MINOR, Kind.MAJOR))
    timed = counted.filter(pl.col("bucket") > 0)
    if origin.way != COUNTS and len(timed) < len(counted):
        notes.append(
            f"times are of {_of_kind(timed, Kind.MINOR)} of {minor} minor faults, and of "
            f"{_of_kind(timed, Kind.MAJOR)} of {major} major ones"
        )
    for name, seen, counter in (("minor", minor, "ac_minflt"), ("major", major, "ac_majflt")):
        more = interval.kernel.get(counter, 0) - seen
        if more > 0:
            notes.append(
                f"{more} {name} fault{'s' * (more > 1)} more by the kernel's own count "
                f"({counter}): taken without an exception, as for exec, mlock, MAP_POPULATE, "
                "O_DIRECT and ptrace"
            )
    total = int(counted["count"].sum())
    if not origin.filtered and interval.kernel.get("pgfault", 0) > total:
        notes.append(f"the whole host had {interval.kernel['pgfault']} faults (pgfault)")
    return audit(origin, interval, total, notes=notes)


def _of_kind(counted: pl.DataFrame, kind: Kind) -> int:
    return int(counted.filter(pl.col("kind") == kind)["count"].sum())


def tally(rows: Events, numbers: list[str]) -> pl.DataFrame:
    """Faults by some of their numbers, by kind and by how long they took.

    Columns: `numbers`, `kind`, `bucket`, `count`, `time_ns` and `longest` (both ns).
    """
    bucket = bucket_of(rows["time_ns"])
    numbers = [*numbers, "kind"]
    group = group_numbers(*(rows[name] for name in numbers), bucket)
    _, one = np.unique(group, return_index=True)
    size = len(one)
    longest = np.zeros(size, np.uint64)
    np.maximum.at(longest, group, rows["time_ns"])
    keys = {name: rows[name][one].astype(np.int64) for name in numbers}
    return pl.DataFrame(
        keys
        | {
            "bucket": bucket[one].astype(np.int64),
            "count": np.bincount(group, rows["count"], size).astype(np.int64),
            "time_ns": np.bincount(group, rows["time_ns"], size).astype(np.int64),
            "longest": longest.astype(np.int64),
        }
    )


def merged(tallies: list[pl.DataFrame], numbers: list[str]) -> pl.DataFrame:
    """Tallies as one, each key, kind and bucket once.

    In a storm not every minor fault is timed. `weight` is for how many faults of its kind a row
    with a time stands, and `time_ns` is what these took; rows without a time have a weight of 0.
    """
    keys = [*numbers, "kind"]
    columns = [*keys, "bucket", *_SUMS, "longest"]
    empty = pl.DataFrame(schema=dict.fromkeys(columns, pl.Int64))
    grouped = pl.concat([empty, *tallies]).group_by([*keys, "bucket"])
    summed = grouped.agg(pl.col(_SUMS).sum(), pl.col("longest").max())
    timed = pl.when(pl.col("bucket") > 0).then(pl.col("count")).otherwise(0)
    scale = pl.col("count").sum().over(keys) / timed.sum().over(keys)
    return summed.with_columns(
        weight=pl.when(timed > 0).then(timed * scale).otherwise(0.0),
        time_ns=pl.when(timed > 0).then(pl.col("time_ns") * scale).otherwise(0).round(),
    ).cast({"time_ns": pl.Int64})


def _count_of(kind: Kind) -> pl.Expr:
    return pl.col("count").filter(pl.col("kind") == kind).sum()


def summaries(counted: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """What a report says of each group: counts, time, quantiles.

    Times and quantiles are null where no fault was timed.
    """
    timed = counted.filter(pl.col("bucket") > 0).sort("bucket").group_by(keys)
    times = timed.agg(
        pl.col("time_ns").sum(),
        quantile(0.5).alias("p50_ns"),
        quantile(0.99).alias("p99_ns"),
        pl.col("longest").max().alias("max_ns"),
    )
    counts = counted.group_by(keys).agg(
        _count_of(Kind.MINOR).alias("minor"),
        _count_of(Kind.MAJOR).alias("major"),
        pl.col("count").sum().alias("total"),
    )
    return counts.join(times, on=keys, how="left", nulls_equal=True).sort(keys)
