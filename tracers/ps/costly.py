"""What takes long to read of a process: PSS, USS and swap, its arguments, names of its threads.

For smaps_rollup the kernel walks through the page tables of the whole process, which took 12 ms for
256 MiB of small pages, and holds mmap_lock meanwhile. (It gives way where the process itself waits
for that lock.) So this comes after all that is cheap, and ends at a time.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

from memtap.tracers.host import procfs
from memtap.tracers.host.hostile import printable
from memtap.tracers.host.patience import StuckError, patiently
from memtap.tracers.live.processes import read_arguments
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Row
from memtap.tracers.ps import nodes

_ROLLUP = re.compile(
    rb"\nPss:\s*(\d+) kB.*?\nPrivate_Clean:\s*(\d+) kB\nPrivate_Dirty:\s*(\d+) kB"
    rb".*?\nShared_Hugetlb:\s*(\d+) kB\nPrivate_Hugetlb:\s*(\d+) kB\nSwap:\s*(\d+) kB"
    rb"\nSwapPss:\s*(\d+) kB",
    re.DOTALL,
)

NOTHING = {"pss_bytes": 0, "uss_bytes": 0, "hugetlb_bytes": 0, "swap_bytes": 0}
_UNKNOWN = dict.fromkeys(NOTHING)

# How many names of threads are shown.
_NAMES = 8


class Memory(NamedTuple):
    """Where to read a process's memory.

    Attributes:
        folder: the one of /proc that has it.
        anon_swap: how much is swapped out, shared memory left out, in bytes.
    """

    folder: str
    anon_swap: int


class Costly:
    """Adds to rows what takes long, until a time.

    Attributes:
        unread: how many processes we may not read.
        late: how many were not read in time, or are stuck.
        with_shared_swap: of each process with shared memory in swap, the folder that has its
            memory.
    """

    def __init__(self, args: bool, threads: bool, by_node: bool, end_s: float) -> None:
        self._args, self._threads, self._end_s = args, threads, end_s
        self._by_node = by_node
        self.unread = self.late = 0
        self.with_shared_swap: dict[int, str] = {}

    def require_time(self) -> None:
        """Raises StuckError if the time is over."""
        if time.monotonic() >= self._end_s:
            raise StuckError("there is no time left")

    def add(self, row: Row, memory: Memory | None) -> bool:
        """Adds to the row of a process what its memory says; whether the process is still there."""
        folder = memory.folder if memory else f"/proc/{row['pid']}/"
        row |= self._unread()
        read = self._nodes if self._by_node else self._shares
        try:
            self.require_time()
            row |= self._told(row, folder)
            row |= read(row["pid"], memory) if memory else {}
        except procfs.Gone:
            return False
        except PermissionError:
            self.unread += 1
            row |= _UNKNOWN
        except StuckError:
            self.late += 1
            row |= _UNKNOWN
        return True

    def _unread(self) -> Row:
        """What is there of a row's texts if the time is over."""
        args: Row = {"args": Process.args} if self._args else {}
        args |= {"nodes": None} if self._by_node else {}
        return args | ({"thread_names": None} if self._threads else {})

    def _told(self, row: Row, folder: str) -> Row:
        """The texts that are asked for."""
        args = {"args": read_arguments(Path(folder), row["comm"])} if self._args else {}
        return args | ({"thread_names": thread_names(row["pid"])} if self._threads else {})

    def _nodes(self, pid: int, memory: Memory) -> Row:
        """How many bytes of each memory node it has mapped."""
        text = patiently(pid, Path(memory.folder + nodes.NUMA_MAPS).read_bytes)
        return {"nodes": nodes.summed(nodes.parse(text))}

    def _shares(self, pid: int, memory: Memory) -> Row:
        """The amounts from smaps_rollup. Only its field Swap includes shared memory in swap."""
        text = patiently(pid, partial(procfs.read, memory.folder + "smaps_rollup"))
        found = _ROLLUP.search(text)
        if found is None:
            return NOTHING
        pss, clean, dirty, shared, huge, swap, swap_pss = (int(kib) << 10 for kib in found.groups())
        if swap > memory.anon_swap:
            self.with_shared_swap[pid] = memory.folder
        return {
            "pss_bytes": pss,
            "uss_bytes": clean + dirty + huge,
            "hugetlb_bytes": shared + huge,
            "swap_bytes": swap_pss,
        }


def thread_names(pid: int) -> str:
    """The names of a process's threads, and how many have each: `worker (8), main`."""
    folder = f"/proc/{pid}/task/"
    names = Counter(name for tid in os.listdir(folder) if (name := _name(folder + tid)) is not None)
    said = [
        name if count == 1 else f"{name} ({count})" for name, count in names.most_common(_NAMES)
    ]
    return ", ".join([*said, *([f"{len(names) - _NAMES} others"] if len(names) > _NAMES else [])])


def _name(thread: str) -> str | None:
    """The name of a thread; None if it has ended."""
    try:
        return printable(procfs.read(thread + "/comm")[:-1])
    except procfs.Gone:
        return None
