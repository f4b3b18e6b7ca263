"""The memory of processes, each page counted once: shared pages are divided among them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from memtap.tracers.host import procfs
from memtap.tracers.host.hostile import printable
from memtap.tracers.host.patience import StuckError, patiently

_NUMBER = re.compile(rb"^(\w+):\s+(\d+)", re.MULTILINE)
_NAME = re.compile(rb"^Name:\t(.*)$", re.MULTILINE)

# In /proc/PID/stat, counted from the state.
_START = 19

# Kernel memory that a process has mapped and that is in no counter: buffers of perf events (those
# of BPF programs among them), the queues of io_uring, and of packet sockets.
_RINGS = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ +"
    rb"(?:anon_inode:\[(?:perf_event|io_uring)\]|socket:\[\d+\])$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Space:
    """The memory of a process, in bytes; None for what we may not read.

    Attributes:
        pid: its number.
        start: when it began, in clock ticks after boot; with the pid it identifies the process.
        uid: the user it runs as.
        comm: its name, safe to print.
        anon: anonymous pages.
        file: pages of files that it maps.
        shmem: pages of shared memory that it maps.
        swap: its own memory that is swapped out.
        hugetlb: huge pages of hugetlbfs, counted in full for each process that maps them.
        pgtables: its page tables.
        rings: buffers of the kernel that it maps.
    """

    pid: int
    start: int
    uid: int
    comm: str
    anon: int | None
    file: int | None
    shmem: int | None
    swap: int | None
    hugetlb: int | None
    pgtables: int
    rings: int | None

    @property
    def is_known(self) -> bool:
        """Whether we may read all of it."""
        return None not in (self.shmem, self.rings)


@dataclass(frozen=True)
class Sums:
    """Sums over all processes, in bytes.

    Attributes:
        shmem: pages of shared memory that are mapped.
        rings: buffers of the kernel that are mapped.
    """

    shmem: int
    rings: int


def sums_of(spaces: list[Space]) -> Sums:
    """The sums that the account of the host needs."""
    return Sums(
        shmem=sum(space.shmem or 0 for space in spaces),
        rings=sum(space.rings or 0 for space in spaces),
    )


def look(root: Path = Path("/"), whole: bool = False) -> list[Space]:
    """All processes that have memory.

    Args:
        root: where /proc is.
        whole: whether all of each process is wanted, for which the kernel walks through all of its
            page tables. If not, only processes that have shared memory are read like this.
    """
    pids = (int(name) for name in os.listdir(root / "proc") if name.isdigit())
    return [space for pid in pids for space in _try(root, pid, whole)]


def _try(root: Path, pid: int, whole: bool) -> Iterator[Space]:
    """A process; nothing if it has no memory, has ended, or is hidden from us (hidepid)."""
    try:
        status = procfs.read(f"{root}/proc/{pid}/status")
        thread = None if b"\nVmRSS:" in status else procfs.survivor(pid, root)
        folder = thread or root / f"proc/{pid}"
        fields = _numbers(procfs.read(f"{folder}/status") if thread else status)
        if b"VmRSS" in fields:
            name = _NAME.search(status)
            yield _space(pid, folder, printable(name[1]) if name else "?", fields, whole)
    except (*procfs.Gone, PermissionError):
        return


def _space(pid: int, folder: Path, comm: str, fields: dict[bytes, int], whole: bool) -> Space:
    wanted = whole or fields[b"RssShmem"]
    rollup = _read(pid, folder / "smaps_rollup") if wanted else b""
    maps = _read(pid, folder / "maps")
    parts = None if rollup is None else _numbers(rollup)

    def part(*names: bytes) -> int | None:
        return None if parts is None else sum(parts.get(name, 0) for name in names) << 10

    return Space(
        pid=pid,
        start=int(procfs.stat_fields(procfs.read(f"{folder}/stat"))[_START]),
        uid=fields[b"Uid"],
        comm=comm,
        anon=part(b"Pss_Anon"),
        file=part(b"Pss_File"),
        shmem=part(b"Pss_Shmem"),
        swap=part(b"SwapPss"),
        hugetlb=part(b"Shared_Hugetlb", b"Private_Hugetlb"),
        pgtables=fields[b"VmPTE"] << 10,
        rings=None if maps is None else rings_in(maps),
    )


def _read(pid: int, path: Path) -> bytes | None:
    """The text of a file; empty if its process is gone, None if we may not or cannot read it."""
    try:
        return patiently(pid, partial(path.read_bytes))
    except procfs.Gone:
        return b""
    except (PermissionError, StuckError):
        return None


def rings_in(maps: bytes) -> int:
    """The bytes of kernel buffers that are mapped, from the text of /proc/PID/maps."""
    return sum(int(end, 16) - int(start, 16) for start, end in _RINGS.findall(maps))


def _numbers(text: bytes) -> dict[bytes, int]:
    return {name: int(number) for name, number in _NUMBER.findall(text)}
