"""oom: which process was killed, why that one, which process asked for memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from memtap.tracers.model.audit import audit
from memtap.tracers.model.chunk import Chunk, Interval, Origin
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Report, Row, Section
from memtap.tracers.oom.badness import adjustment
from memtap.tracers.oom.columns import OOM
from memtap.tracers.oom.rows import Constraint, Kind

# The formula, oom_badness() of mm/oom_kill.c since 9066e5cfb73c.
FORMULA = (
    "The OOM killer takes the process with the most points: the pages it has in memory (RSS) and "
    "in swap and those of its page tables, and oom_score_adj times a thousandth of all pages that "
    "it could use (RAM and swap of the host, or the limit of its cgroup). A process with "
    "-1000 is never killed. How long it ran, its niceness, its children and root's privileges "
    "count for nothing. /proc/PID/oom_score is (1000 + 1000 x points / pages of the host) x 2 / 3."
)

_SIZES = ("total_vm", "anon_rss", "file_rss", "shmem_rss", "swap", "pgtables")


class Oom:
    """Takes chunks; makes a report of each interval with a kill, and of the first interval."""

    def __init__(self, origin: Origin, explains: bool = False) -> None:
        self._origin, self._explains = origin, explains
        self._processes: dict[int, Process] = {}
        self._texts: dict[str, dict[int, str]] = {}
        self._rows: list[Row] = []
        self._sentences: list[str] = []
        self._has_told, self._has_begun = False, False

    def feed(self, chunk: Chunk) -> Report | None:
        """Takes a chunk; returns a report if an interval ends with it."""
        self._processes |= chunk.processes
        for kind, texts in chunk.texts.items():
            self._texts.setdefault(kind, {}).update(texts)
        victims = chunk.rows[chunk.rows["kind"] == Kind.VICTIM]
        for victim in victims:
            self._rows.append(self._row(victim) | {"ns": int(victim["ns"])})
            if self._explains:
                self._sentences += self._why(victim, _others(chunk, victim))
        if chunk.interval is None or not (self._rows or chunk.last or not self._has_begun):
            return None
        return self._report(chunk.interval, chunk.until_ns)

    def _report(self, interval: Interval, end_ns: int) -> Report:
        rows, self._rows = [_timed(row, interval, end_ns) for row in self._rows], []
        sentences, self._sentences = self._sentences, []
        before, self._has_begun = self._has_told, True
        self._has_told |= bool(rows)
        unseen = self._unseen(interval, len(rows))
        found = audit(self._origin, interval, len(rows), unseen=unseen, notes=_notes(rows, unseen))
        sections = (Section("explanation", "text", [*sentences, FORMULA]),) if sentences else ()
        report = Report("oom", interval.time, interval.seconds, OOM, rows, found, sections)
        return replace(report, goes_on=before)

    def _unseen(self, interval: Interval, seen: int) -> int:
        """How many more kills the kernel counted (oom_kill)."""
        return 0 if self._origin.filtered else max(0, interval.kernel.get("oom_kill", 0) - seen)

    def _row(self, victim: Any) -> Row:
        tgid, trigger = int(victim["tgid"]), int(victim["trigger"])
        process = self._processes.get(tgid, Process())
        known = bool(victim["known"])
        return {
            "pid": tgid,
            "comm": self._text("victim", tgid) or process.comm,
            "uid": int(victim["uid"]) if known else process.uid,
            "oom_score_adj": int(victim["adj"]) if known else None,
            **{
                f"{n}_bytes": int(victim[n.removesuffix("_rss")]) if known else None for n in _SIZES
            },
            "trigger_pid": trigger,
            "trigger_comm": self._text("trigger", trigger) or "?",
            "constraint": Constraint(victim["constraint"]).text,
            "cgroup": self._text("cgroup", tgid) or process.cgroup,
            "limited_cgroup": self._text("limited", tgid) or None,
        }

    def _text(self, kind: str, number: int) -> str:
        return self._texts.get(kind, {}).get(number, "")

    def _why(self, victim: Any, others: list[Any]) -> list[str]:
        """Sentences on why it was this one."""
        row = self._row(victim)
        name, scope = f"{row['comm']} ({row['pid']})", int(victim["scope"])
        short = {
            "memcg": f"cgroup {row['limited_cgroup'] or '?'} reached its limit",
            "global": "the host was out of memory",
            "?": "it is not known what was short of memory",
        }.get(row["constraint"], f"a {row['constraint']} was out of memory")
        asked = f"{row['trigger_comm']} ({row['trigger_pid']}) asked for memory"
        sentences = [f"{name} was killed: {asked}, and {short}."]
        if victim["known"]:
            sentences.append(f"It had {_points(victim, scope, self._origin.page_bytes)}.")
        sentences += [self._other(each, scope) for each in others]
        return [" ".join(sentences)]

    def _other(self, other: Any, scope: int) -> str:
        process = self._processes.get(int(other["tgid"]), Process())
        points = _points(other, scope, self._origin.page_bytes)
        return f"{process.comm} ({other['tgid']}) had {points}."


def _others(chunk: Chunk, victim: Any) -> list[Any]:
    """The other candidates when this process was killed, the likeliest first."""
    kind, of = chunk.rows["kind"] == Kind.CANDIDATE, chunk.rows["trigger"] == victim["tgid"]
    return list(chunk.rows[np.flatnonzero(kind & of)])


def _points(row: Any, scope: int, page: int) -> str:
    """The points that the OOM killer compares, and their parts."""
    resident = int(row["anon"]) + int(row["file"]) + int(row["shmem"])
    swap, tables, adj = int(row["swap"]), int(row["pgtables"]), int(row["adj"])
    added = adjustment(adj, scope, page)
    points = (resident + swap + tables + added) // page
    parts = [f"{resident >> 10:,} KiB in memory", f"{swap >> 10:,} in swap"]
    parts += [f"{tables >> 10:,} of page tables"]
    parts += [f"{added >> 10:,} by its oom_score_adj of {adj}"] if adj else []
    return f"{points:,} points ({', '.join(parts)})"


def _notes(rows: list[Row], unseen: int) -> list[str]:
    """The notes on what is not known of the victims."""
    notes = []
    if silent := sum(row["constraint"] == "?" for row in rows):
        notes.append(f"the kernel log does not say what was short of memory for {silent} of them")
    if unseen:
        notes.append(f"{unseen} more were killed by the kernel's own count (oom_kill)")
    return notes


def _timed(row: Row, interval: Interval, end_ns: int) -> Row:
    """A row with its time of day, from how long before the end of the interval it was."""
    end = datetime.fromisoformat(interval.time)
    time = end - timedelta(microseconds=(end_ns - row.pop("ns")) // 1000)
    text = time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"time": text} | row
