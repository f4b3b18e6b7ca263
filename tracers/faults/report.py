"""faults: which processes fault, where, why, from which code, at what cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from memtap.tracers.code.mappings import Region
from memtap.tracers.faults.columns import FAULT_KEYS, fault_columns
from memtap.tracers.faults.explain import explain, touched_again
from memtap.tracers.faults.probes import Kind
from memtap.tracers.faults.rows import Cause
from memtap.tracers.faults.times import merged, notes_of_times, of_kind, tally
from memtap.tracers.model.arrays import first_of_each, group_numbers, select
from memtap.tracers.model.audit import audit
from memtap.tracers.model.chunk import Chunk, Interval, Origin
from memtap.tracers.model.durations import histogram, quantiles
from memtap.tracers.model.enricher import BETWEEN, forget_first, tell
from memtap.tracers.model.frames import pl
from memtap.tracers.model.process import UNKNOWN_PROCESS, Process
from memtap.tracers.model.report import FrameRows, Report, Row, Section, percentage

# The members of a row that each key of the report comes from.
_NUMBERS = {
    "process": ("tgid",),
    "thread": ("tgid", "tid"),
    "region": ("region",),
    "cause": ("cause",),
    "file": ("place",),
    "site": ("site",),
    "cgroup": ("tgid",),
    "comm": ("tgid",),
}
# For keys whose text several numbers can have, a column with the first of these numbers.
_FIRSTS = {"cgroup": "cgroup_of", "comm": "comm_of"}

_SUMMED = ("kind", "count", "time_ns", "timed", "bucket", "weight", "longest")
_EXPLAINED = ("region", "cause")
_STACKED = ("tgid", "stack")

# How many stacks a table shows by default.
_SHOWN = 5

# The kernel's own counters of a task's faults, in struct taskstats.
_COUNTERS = {Kind.MINOR: "ac_minflt", Kind.MAJOR: "ac_majflt"}


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
        self._processes: dict[int, Process] = {}
        self._texts: dict[str, dict[int, str]] = {"place": {}, "site": {}, "stack": {}}
        self._tallies: list[pl.DataFrame] = []
        self._again = 0
        self._unraised = Unraised()

    def feed(self, chunk: Chunk) -> Report | None:
        """Counts a chunk; returns the report if an interval ends with it."""
        tell(self._processes, chunk.processes)
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
        forget_first(self._processes)
        forget_first(self._texts["place"])
        return report

    def _report(self, counted: pl.DataFrame, interval: Interval) -> Report:
        return Report(
            "faults",
            interval.time,
            interval.seconds,
            fault_columns(self.by),
            self._rows(counted),
            fault_audit(self._origin, interval, counted, self._unraised),
            sections=tuple(self._sections(counted, interval)),
        )

    def _sections(self, counted: pl.DataFrame, interval: Interval) -> Iterator[Section]:
        if self._hist:
            yield Section("histogram", "histogram", histogram(counted))
        if self._stacks:
            yield Section("stacks", "stacks", self._stacked(counted), most=_SHOWN)
        if self._explains:
            yield Section("explanation", "text", self._explained(counted, interval))

    def _explained(self, counted: pl.DataFrame, interval: Interval) -> list[str]:
        again, self._again = self._again, 0
        return explain(counted, interval, again)

    def _stacked(self, counted: pl.DataFrame) -> list[Row]:
        """Faults by stack, with the process's name as the outermost frame, most frequent first."""
        stacks: dict[tuple[str, ...], int] = {}
        by = counted.group_by(_STACKED).agg(pl.col("count").sum())
        for tgid, number, count in by.sort("count", *_STACKED, descending=True).rows():
            text = self._texts["stack"].get(number, "[unknown]")
            frames = (self._of(tgid).comm, *text.split(BETWEEN))
            stacks[frames] = stacks.get(frames, 0) + count
        return [{"frames": frames, "count": count} for frames, count in stacks.items()]

    def _rows(self, counted: pl.DataFrame) -> Sequence[Row]:
        """The rows, summed by numbers first: there may be many, and few differ in texts alone."""
        if len(counted) == 0:
            return []
        groups = [name for key in self.by for name in _grouped_by(key)]
        sums = summaries(counted.with_columns(self._firsts(counted)), list(dict.fromkeys(groups)))
        total = int(sums["total"].sum())
        rows = sums.with_columns(
            *self._names(sums),
            share_pct=pl.Series([percentage(n, total) for n in sums["total"].to_list()]),
        )
        keys = dict.fromkeys(column.name for key in self.by for column in FAULT_KEYS[key])
        shown = [column.name for column in fault_columns(self.by)]
        return FrameRows(rows.sort(list(keys)).select(shown), lambda rows: rows)

    def _firsts(self, counted: pl.DataFrame) -> list[pl.Series]:
        """For keys whose text several numbers can have: the first number with the same text."""
        firsts = [
            _first_of(counted[kind], partial(self._text, kind))
            for kind in ("place", "site")
            if kind in counted.columns
        ]
        for key in (key for key in self.by if key in _FIRSTS):
            of_process = _first_of(counted["tgid"], partial(self._what, key))
            firsts.append(of_process.alias(_FIRSTS[key]))
        return firsts

    def _text(self, kind: str, number: int) -> str:
        return self._texts.get(kind, {}).get(number, "?")

    def _what(self, name: str, tgid: int) -> str:
        return str(getattr(self._of(tgid), name))

    def _of(self, tgid: int) -> Process:
        return self._processes.get(tgid, UNKNOWN_PROCESS)

    def _names(self, sums: pl.DataFrame) -> list[pl.Series]:
        """The columns of the keys, one value for each row."""
        series: dict[str, Sequence[object]] = {}
        for key, column in _FIRSTS.items():
            if column in sums.columns:
                series[key] = [self._what(key, tgid) for tgid in sums[column].to_list()]
        if "tgid" in sums.columns:
            series["pid"] = sums["tgid"].to_list()
            found = list(map(self._of, sums["tgid"].to_list()))
            for name in ("uid", "user", "comm", "cgroup", "args"):
                series[name] = [getattr(processes, name) for processes in found]
        if "region" in sums.columns:
            series["region"] = Region.texts(sums["region"].to_list())
        if "cause" in sums.columns:
            series["cause"] = Cause.texts(sums["cause"].to_list())
        for kind, name in (("place", "path"), ("site", "site"), ("tid", "thread")):
            if kind in sums.columns:
                series[name] = [self._text(kind, number) for number in sums[kind].to_list()]
        return [pl.Series(name, values) for name, values in series.items()]


def _grouped_by(key: str) -> tuple[str, ...]:
    """The numbers by which the rows of a key differ."""
    return (_FIRSTS[key],) if key in _FIRSTS else _NUMBERS[key]


def _first_of(numbers: pl.Series, text_of: Callable[[int], str]) -> pl.Series:
    """For each number the first one that has the same text."""
    distinct, first = numbers.unique().sort(), dict[str, int]()
    same = [first.setdefault(text_of(number), number) for number in distinct.to_list()]
    return numbers.replace_strict(distinct, pl.Series(same, dtype=numbers.dtype))


class Unraised:
    """Faults that the kernel counted for the targets without an exception (get_user_pages()).

    That is its count less ours, over all intervals: a fault that it counts in one interval may
    reach us in the next, and is none of these. Nor are faults that we lost.
    """

    def __init__(self) -> None:
        self._lost = 0
        self._more, self._said = dict.fromkeys(_COUNTERS, 0), dict.fromkeys(_COUNTERS, 0)

    def notes(self, interval: Interval, counted: pl.DataFrame) -> Iterator[str]:
        """The notes about them at the end of an interval."""
        self._lost += interval.losses.lost
        for kind, counter in _COUNTERS.items():
            self._more[kind] += interval.kernel.get(counter, 0) - of_kind(counted, kind)
            new = self._more[kind] - interval.unsettled - self._lost - self._said[kind]
            if new > 0:
                self._said[kind] += new
                yield (
                    f"{new} {kind.name.lower()} fault{'s' * (new > 1)} more by the kernel's own "
                    f"count ({counter}): taken without an exception, as for exec, mlock, "
                    "MAP_POPULATE, O_DIRECT and ptrace"
                )


def fault_audit(
    origin: Origin, interval: Interval, counted: pl.DataFrame, unraised: Unraised
) -> dict[str, Any]:
    """The audit, with notes on faults without an exception and on how many were timed."""
    notes = [*notes_of_times(origin.way, counted), *unraised.notes(interval, counted)]
    total = int(counted["count"].sum())
    if not origin.filtered and interval.kernel.get("pgfault", 0) > total:
        notes.append(f"the whole host had {interval.kernel['pgfault']} faults (pgfault)")
    return audit(origin, interval, total, notes=notes)


def summaries(counted: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """The columns of each group: counts, time, quantiles, and how many faults were timed.

    Times and quantiles are null where no fault was timed. It uses numpy, which works in this
    thread: to hand the work to another thread can take long on busy CPUs.
    """
    column = {name: counted[name].to_numpy() for name in (*keys, *_SUMMED)}
    group = group_numbers(*(column[key] for key in keys))
    one = first_of_each(group)
    kind, count, timed = (column[name] for name in ("kind", "count", "timed"))
    sums = {
        "minor": np.where(kind == Kind.MINOR, count, 0),
        "major": np.where(kind == Kind.MAJOR, count, 0),
        "total": count,
        "time_ns": column["time_ns"],
        "timed": timed,
    }
    summed: dict[str, npt.NDArray[np.float64]] = {
        name: np.bincount(group, each, len(one)).astype(np.float64) for name, each in sums.items()
    }
    there = summed["timed"] > 0
    summed["max_ns"] = np.zeros(len(one))
    np.maximum.at(summed["max_ns"], group, np.where(timed > 0, column["longest"], 0))
    for name, share in (("p50_ns", 0.5), ("p99_ns", 0.99)):
        of_timed = group[timed > 0], column["bucket"][timed > 0], column["weight"][timed > 0]
        found = quantiles(*of_timed, share)
        found = np.append(found, np.full(len(one) - len(found), np.nan))
        summed[name] = np.fmin(found, summed["max_ns"])
    for name in ("time_ns", "p50_ns", "p99_ns", "max_ns"):
        summed[name][~there] = np.nan
    return pl.DataFrame(
        {name: column[name][one] for name in keys}
        | {name: pl.Series(each, nan_to_null=True).cast(pl.Int64) for name, each in summed.items()}
    )
