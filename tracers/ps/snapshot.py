"""The memory of all processes at one moment, from /proc, read as cheaply as possible.

For each process we read four or five small files and search each with one pattern; the row is the
only object that we make. What takes long comes after that, see Costly.
"""

from __future__ import annotations

import math
import os
import re
import time
from dataclasses import dataclass

from memtap.tracers.host import procfs
from memtap.tracers.host.counters import Counters, meminfo, vmstat
from memtap.tracers.host.hostile import printable
from memtap.tracers.host.patience import StuckError
from memtap.tracers.host.procfs import user_name
from memtap.tracers.live.processes import pick_cgroup
from memtap.tracers.model.report import Row, now
from memtap.tracers.ps import sharedspace, sharedswap
from memtap.tracers.ps.costly import NOTHING, Costly, Memory
from memtap.tracers.ps.sharedspace import Space

# From /proc/meminfo and /proc/vmstat: what the sums over processes can be compared with.
_COMPARED = ("AnonPages", "Mapped", "Shmem", "PageTables", "SwapTotal", "SwapFree")
_FAULTS = ("pgfault", "pgmajfault")

# Seconds after which no further process's page tables are walked, unless the user named it.
BUDGET_S = 5.0

# A newline in a name is escaped in /proc/PID/status, so no process can forge a field.
_UID = re.compile(rb"\nUid:\t(\d+)")
_STATUS = re.compile(
    rb"\nVmSize:\s*(\d+) kB.*?\nVmHWM:\s*(\d+) kB\nVmRSS:\s*(\d+) kB.*?\nRssFile:\s*(\d+) kB"
    rb"\nRssShmem:\s*(\d+) kB.*?\nVmPTE:\s*(\d+) kB\nVmSwap:\s*(\d+) kB",
    re.DOTALL,
)

# Fields of /proc/PID/stat, counted from the one behind the name.
_PPID, _MINOR, _MAJOR, _THREADS, _START = 1, 7, 9, 17, 19

_NO_MEMORY = (0,) * 7


@dataclass(frozen=True)
class Wanted:
    """Which processes to read, and how much of each.

    Attributes:
        pids: only these; all if empty.
        comms: only processes with exactly one of these names; all if empty.
        cgroups: whether to read the cgroup of each as well.
        args: whether to read the command line of each.
        threads: whether to read the names of its threads.
        nodes: whether to read which memory nodes its pages are in, and not PSS and the like.
    """

    pids: tuple[int, ...] = ()
    comms: tuple[str, ...] = ()
    cgroups: bool = False
    args: bool = False
    threads: bool = False
    nodes: bool = False


@dataclass(frozen=True)
class Snapshot:
    """What was found.

    Attributes:
        time: when, UTC, ISO 8601.
        at_s: the same on the monotonic clock.
        rows: one per process, see `Reader.row`.
        unread: how many processes we may not read; their rows lack PSS, USS and swap, or are
            missing where /proc is mounted with hidepid.
        late: how many were not read in time; their rows lack the same.
        without_memory: how many were left out because they have no address space: kernel threads,
            and zombies.
        kernel: counters of the host, as they are in /proc/meminfo (KiB) and /proc/vmstat.
    """

    time: str
    at_s: float
    rows: list[Row]
    unread: int
    late: int
    without_memory: int
    kernel: Counters


class Reader:
    """Reads processes.

    Attributes:
        wanted: which processes.
    """

    def __init__(self, wanted: Wanted, budget_s: float = BUDGET_S) -> None:
        self.wanted = wanted
        self._budget_s = math.inf if wanted.pids or wanted.comms else budget_s
        self._comms = {os.fsencode(comm) for comm in wanted.comms}
        self._unread = self._without_memory = 0
        self._spaces: dict[int, Space] = {}
        self._memories: dict[int, Memory] = {}

    def look(self) -> Snapshot:
        """All processes that are asked for, the largest RES first, without those that end now."""
        end = time.monotonic() + self._budget_s
        self._unread = self._without_memory = 0
        self._spaces, self._memories = {}, {}
        kernel = _counters()
        pids = self.wanted.pids or _pids()
        rows = [row for pid in pids if (row := self._try(pid))]
        rows.sort(key=lambda row: -row["res_bytes"])
        costly = Costly(self.wanted.args, self.wanted.threads, self.wanted.nodes, end)
        rows = [row for row in rows if costly.add(row, self._memories.get(row["pid"]))]
        self._divide_shared_spaces(rows)
        _add_shared_swap(rows, costly)
        moment = now(), time.monotonic()
        unread = self._unread + costly.unread
        return Snapshot(*moment, rows, unread, costly.late, self._without_memory, kernel)

    def _divide_shared_spaces(self, rows: list[Row]) -> None:
        """Divides amounts of a shared address space, which the kernel shows for each process."""
        others = set(_pids()) - self._spaces.keys() if self.wanted.pids or self._comms else ()
        found = {pid: space for pid in others if (space := _space(f"/proc/{pid}/"))}
        counts = sharedspace.sharers(self._spaces | found)
        for row in rows:
            if (count := counts.get(row["pid"], 1)) > 1 and row["pss_bytes"] is not None:
                row["pss_bytes"] //= count
                row["swap_bytes"] //= count
                row["uss_bytes"] = 0

    def _try(self, pid: int) -> Row | None:
        try:
            return self.row(pid)
        except procfs.Gone:
            return None
        except PermissionError:  # /proc is mounted with hidepid
            self._unread += 1
            return None

    def row(self, pid: int) -> Row | None:
        """A process, without what takes long; None if it is left out.

        Its values are those of the columns in columns.py; `ppid`, `start` (clock ticks after boot:
        with the pid it identifies a process), `processes` (1), and `cgroup` if asked for.
        """
        proc = f"/proc/{pid}/"
        before, _, after = procfs.read(proc + "stat").rpartition(b")")
        comm = before.partition(b"(")[2]
        if self._comms and comm not in self._comms:
            return None
        status = procfs.read(proc + "status")
        space, sizes = _address_space(pid, status)
        if sizes is None and not self.wanted.pids:
            self._without_memory += 1
            return None
        fields = after.split()
        own = space == proc
        self._spaces[pid] = Space.of(pid, fields) if own else sharedspace.space_of(space)
        if sizes:
            self._memories[pid] = Memory(space, int(sizes[7]) << 10)
        uid = int(_UID.search(status)[1])  # type: ignore[index]  # all have it
        return {
            "pid": pid,
            "ppid": int(fields[_PPID]),
            "start": int(fields[_START]),
            "uid": uid,
            "user": user_name(uid),
            "comm": printable(comm),
            **_resident(sizes),
            **NOTHING,
            "minor": int(fields[_MINOR]),
            "major": int(fields[_MAJOR]),
            "threads": int(fields[_THREADS]),
            "oom_score": int(procfs.read(proc + "oom_score")),
            "oom_score_adj": int(procfs.read(proc + "oom_score_adj")),
            "processes": 1,
            **(
                {"cgroup": pick_cgroup(procfs.read(space + "cgroup"))}
                if self.wanted.cgroups
                else {}
            ),
        }


def _add_shared_swap(rows: list[Row], costly: Costly) -> None:
    """Adds each process's share of swapped-out shared memory; there seldom is any."""
    spaces = costly.with_shared_swap
    if not spaces:
        return
    folders = {f"/proc/{pid}/" for pid in _pids()} | {*spaces.values()}
    try:
        shares = sharedswap.shares(spaces, folders, costly.require_time)
    except StuckError:
        shares = {}
        costly.late += len(spaces)
    for row in rows:
        if row["pid"] in spaces:
            share = shares.get(row["pid"])
            row["swap_bytes"] = None if share is None else row["swap_bytes"] + share


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _space(folder: str) -> Space | None:
    try:
        return sharedspace.space_of(folder)
    except (*procfs.Gone, PermissionError):
        return None


def _address_space(pid: int, status: bytes) -> tuple[str, re.Match[bytes] | None]:
    """The folder whose files have a process's memory, and its sizes; None if it has no memory."""
    sizes = _STATUS.search(status)
    thread = None if sizes else procfs.survivor(pid)
    if thread is None:
        return f"/proc/{pid}/", sizes
    return f"{thread}/", _STATUS.search(procfs.read(f"{thread}/status"))


def _resident(sizes: re.Match[bytes] | None) -> Row:
    """The sizes from /proc/PID/status; they are the first (VIRT), second and third of statm."""
    found = sizes.groups() if sizes else _NO_MEMORY
    virt, peak, res, file, shmem, pgtables, _ = (int(kib) << 10 for kib in found)
    return {
        "virt_bytes": virt,
        "peak_bytes": peak,
        "res_bytes": res,
        "shr_bytes": file + shmem,
        "pgtables_bytes": pgtables,
    }


def _counters() -> Counters:
    memory, events = meminfo(), vmstat()
    return {name: memory[name] for name in _COMPARED} | {name: events[name] for name in _FAULTS}
