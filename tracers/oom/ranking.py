"""oom --scores: which process would be killed next, and why."""

from __future__ import annotations

import os
import time

from memtap.tracers.host import procfs
from memtap.tracers.host.counters import vmstat
from memtap.tracers.host.procfs import user_name
from memtap.tracers.live.processes import read_process
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Report, Row, Section, now
from memtap.tracers.model.tracer import Inspection
from memtap.tracers.oom import badness
from memtap.tracers.oom.badness import Score, adjustment, host_scope
from memtap.tracers.oom.columns import SCORES
from memtap.tracers.oom.report import FORMULA

_PAGE = os.sysconf("SC_PAGESIZE")


class Ranking(Inspection):
    """Reads all processes, or some, for each report."""

    def __init__(self, pids: tuple[int, ...], comms: tuple[str, ...], explains: bool) -> None:
        self._pids, self._comms, self._explains = pids, comms, explains
        self._at_s = time.monotonic()

    def report(self) -> Report:
        """The ranking now."""
        scope = host_scope()
        looked = list(badness.look())
        seen = [score for score in looked if score and self._asked_for(score.pid)]
        killable = [score for score in seen if not score.is_spared(scope, _PAGE)]
        killable.sort(key=lambda score: score.precedence(scope, _PAGE), reverse=True)
        rows = [
            _row(score, process, scope)
            for score in killable
            if (process := read_process(score.pid) or Process()) and self._wants(process)
        ]
        began, self._at_s = self._at_s, time.monotonic()
        explanation = (Section("explanation", "text", _explained(rows, scope)),)
        return Report(
            name="oom-scores",
            time=now(),
            interval_s=round(self._at_s - began, 3),
            columns=SCORES,
            rows=rows,
            audit=procfs.audit(
                len(rows),
                looked.count(None),
                vmstat(names=("oom_kill",)),
                _notes(len(seen) - len(killable), looked.count(None)),
            ),
            sections=explanation if self._explains else (),
        )

    def _asked_for(self, pid: int) -> bool:
        return not self._pids or pid in self._pids

    def _wants(self, process: Process) -> bool:
        return not self._comms or process.comm in self._comms


def _notes(spared: int, unread: int) -> list[str]:
    """The notes on processes that are not in the ranking."""
    notes = []
    if spared:
        notes.append(
            f"{spared} of the processes are left out, as the OOM killer may not kill them: the "
            "first, those with an oom_score_adj of -1000, and those that share the memory of "
            "their parent or end already"
        )
    if unread:
        notes.append(f"{unread} of the processes are not ours to read, and may be next")
    return notes


def _row(score: Score, process: Process, scope: int) -> Row:
    return {
        "pid": score.pid,
        "uid": score.uid,
        "user": user_name(score.uid),
        "comm": process.comm,
        "oom_score": score.score,
        "oom_score_adj": score.adj,
        "adj_bytes": adjustment(score.adj, scope, _PAGE),
        "res_bytes": score.resident,
        "swap_bytes": score.swap,
        "pgtables_bytes": score.pgtables,
        "cgroup": score.cgroup,
    }


def _explained(rows: list[Row], scope: int) -> list[str]:
    """The formula, with the numbers of the first row in it."""
    if not rows:
        return [FORMULA]
    first, whole = rows[0], scope // _PAGE
    sizes = ("res_bytes", "swap_bytes", "pgtables_bytes", "adj_bytes")
    parts = [first[name] // _PAGE for name in sizes]
    return [
        FORMULA,
        f"{first['comm']} ({first['pid']}): {' + '.join(f'{part:,}' for part in parts)} = "
        f"{sum(parts):,} points of {whole:,}; its score is {first['oom_score']}.",
    ]
