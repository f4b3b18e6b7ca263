"""Processes that share one address space: by vfork(2), posix_spawn(3), or clone(2) with CLONE_VM.

The kernel shows each of them the PSS of all that is mapped there. Only kcmp(2), where a kernel has
it, can tell that it is the same space.
"""

from __future__ import annotations

import ctypes as ct
import platform
from collections import defaultdict
from collections.abc import Iterator
from functools import cmp_to_key
from typing import NamedTuple

from memtap.tracers.host import procfs

# From asm/unistd.h and uapi/linux/kcmp.h; and the results of kcmp(2) for two spaces that differ.
_KCMP = {"x86_64": 312, "aarch64": 272}
_KCMP_VM = 1
_SAME, _LESS, _GREATER = 0, 1, 2

_START_STACK = 25  # of procfs.stat_fields()

_libc = ct.CDLL(None)


class Space(NamedTuple):
    """What identifies an address space.

    Attributes:
        task: a thread of the process that has it.
        start_stack: where its stack begins; the same in this space and in those forked from it.
    """

    task: int
    start_stack: int

    @classmethod
    def of(cls, task: int, fields: list[bytes]) -> Space:
        """The space of a thread, from the fields of its stat."""
        return cls(task, int(fields[_START_STACK]))


def space_of(folder: str) -> Space:
    """The space of a process, from the folder of /proc that has its memory."""
    fields = procfs.stat_fields(procfs.read(folder + "stat"))
    return Space.of(int(folder.split("/")[2]), fields)


def sharers(spaces: dict[int, Space]) -> dict[int, int]:
    """How many processes share an address space, for each process that shares its own."""
    by_stack: dict[int, list[int]] = defaultdict(list)
    for pid, space in spaces.items():
        by_stack[space.start_stack].append(pid)
    by_stack.pop(0, None)  # those that we may not read
    found = {}
    for pids in by_stack.values():
        if len(pids) > 1:
            for run in _runs(pids, spaces):
                found.update(dict.fromkeys(run, len(run)))
    return {pid: count for pid, count in found.items() if count > 1}


def _runs(pids: list[int], spaces: dict[int, Space]) -> Iterator[list[int]]:
    """Groups of processes that share an address space."""

    def order(one: int, other: int) -> int:
        return _order(spaces[one].task, spaces[other].task)

    run: list[int] = []
    for pid in sorted(pids, key=cmp_to_key(order)):
        if run and order(run[-1], pid) != 0:
            yield run
            run = []
        run.append(pid)
    yield run


def _order(one: int, other: int) -> int:
    """The order of two address spaces, as kcmp(2) keeps it; 0 if they are the same.

    If they cannot be compared, as one has ended or we may not read it, they count as different.
    """
    said = _libc.syscall(_KCMP.get(platform.machine(), -1), one, other, _KCMP_VM, 0, 0)
    return {_SAME: 0, _LESS: -1, _GREATER: 1}.get(said, one - other)
