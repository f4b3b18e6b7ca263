"""What the kernel itself counted for the processes that a report is about."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from memtap.tracers.host.counters import Counters, difference, total
from memtap.tracers.host.procfs import has_ended, stat_fields

Threads = dict[int, Counters]  # by thread number

# Instead of a thread number: for threads that lost their number to another thread in execve.
_FORMER = 0

# Members of struct taskstats, in the order of `struct counted` in memtap/filter.h.
_COUNTED = ("ac_minflt", "ac_majflt", "read_bytes", "write_bytes", "cpu_run_virtual_total")


def read_threads(process: Path) -> Threads | None:
    """What the kernel has counted for the threads now in /proc/PID; None if the process is gone.

    Faults in events, read_bytes and write_bytes (storage, not system calls) in bytes, time on a
    CPU in ns. Not from /proc/PID/io itself: that includes children which were waited for.
    """
    try:
        threads = os.listdir(process / "task")
    except OSError:
        return None
    return {int(tid): read_thread(process / "task" / tid) for tid in threads}


def read_thread(thread: Path) -> Counters:
    """What the kernel has counted for one thread; empty if it is gone."""
    try:
        stat = (thread / "stat").read_bytes()
        io = dict(line.split(b": ") for line in (thread / "io").read_bytes().splitlines())
    except OSError:  # the thread ended while we looked
        return {}
    fields = stat_fields(stat)
    return {
        "ac_minflt": int(fields[7]),
        "ac_majflt": int(fields[9]),
        "read_bytes": int(io[b"read_bytes"]),
        "write_bytes": int(io[b"write_bytes"]),
        "cpu_run_virtual_total": _time_on_cpu(thread),
    }


def _time_on_cpu(thread: Path) -> int:
    """Its nanoseconds, the first number of schedstat; 0 where the kernel has no such file."""
    try:
        return int((thread / "schedstat").read_bytes().split()[0])
    except OSError:
        return 0


class Targets:
    """Sums the kernel's counters over processes and their children, until they end.

    That is the counters of living threads, plus the exit records of ended ones, minus what the
    threads had counted before we traced them.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc = root / "proc"
        self._at_start: dict[int, Counters] = {}
        self._exit_records: dict[int, Threads] = {}
        self._finished: Counters = {}

    def __contains__(self, tgid: int) -> bool:
        return tgid in self._at_start

    def add(self, tgid: int) -> None:
        """Adds a process that runs, or is about to start; to add it again changes nothing."""
        if tgid in self:
            return
        process = self._proc / str(tgid)
        threads = read_threads(process)
        if threads is None:
            return
        self._at_start[tgid] = total(*threads.values())
        if tgid in threads and has_ended(process):  # its other threads run on
            self._exit_records[tgid] = {tgid: threads[tgid]}

    def began(self, tgid: int, counted: Sequence[int]) -> None:
        """Sets what had been counted for a process when it began its program; as in _COUNTED."""
        if tgid in self._at_start:
            self._at_start[tgid] = dict(zip(_COUNTED, counted, strict=True))

    def forked(self, parent: int, child: int) -> None:
        """Adds the child of a process; nothing has been counted for it yet."""
        if child in self._at_start:  # the number belonged to another process before
            self._finish(child)
        if parent in self._at_start:
            self._at_start[child] = {}

    def died(self, tgid: int, tid: int, counted: Counters) -> None:
        """Takes the exit record of a thread of one of the processes.

        Two threads can have had one number: that of the process, if not the main thread calls
        execve.
        """
        records = self._exit_records.setdefault(tgid, {})
        records[tid] = total(records.get(tid, {}), counted)

    def look(self) -> dict[int, Threads]:
        """The counters of living threads, for totals(). Processes that have ended are not in it.

        A thread that ends after this leaves an exit record; take that in before totals().
        """
        for tgid, records in self._exit_records.items():
            if tgid in records and not has_ended(self._proc / str(tgid)):
                records[_FORMER] = total(records.get(_FORMER, {}), records.pop(tgid))
        found = {tgid: read_threads(self._proc / str(tgid)) for tgid in self._at_start}
        return {tgid: threads for tgid, threads in found.items() if threads is not None}

    def totals(self, looked: dict[int, Threads]) -> Counters:
        """What the kernel has counted for all of them since they were added."""
        for tgid in self._at_start.keys() - looked.keys() & self._exit_records.keys():
            self._finish(tgid)
        parts = [self._counted(tgid, looked.get(tgid, {})) for tgid in self._at_start]
        return total(self._finished, *parts)

    def _counted(self, tgid: int, living: Threads) -> Counters:
        # A dead thread stays in /proc until its parent has waited for it; its exit record counts.
        threads = living | self._exit_records.get(tgid, {})
        return difference(total(*threads.values()), self._at_start[tgid])

    def _finish(self, tgid: int) -> None:
        self._finished = total(self._finished, self._counted(tgid, {}))
        del self._at_start[tgid]
        self._exit_records.pop(tgid, None)
