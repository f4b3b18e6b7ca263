"""Processes that share one address space: by vfork(2), posix_spawn(3), or clone(2) with CLONE_VM.

The kernel tells each of them the PSS of all that is mapped there. That it is one and the same space
is told by kcmp(2) alone, where a kernel has that.
"""

from __future__ import annotations

import ctypes as ct
import platform
from collections import defaultdict
from collections.abc import Iterator
from functools import cmp_to_key
from typing import NamedTuple

from memtap.tracers.host import procfs

# Of asm/unistd.h and uapi/linux/kcmp.h, and what kcmp(2) says of two that it can tell apart.
_KCMP = {"x86_64": 312, "aarch64": 272}
_KCMP_VM = 1
_SAME, _LESS, _GREATER = 0, 1, 2

_START_STACK = 25  # of procfs.stat_fields()

_libc = ct.CDLL(None)


class Space(NamedTuple):
    """What an address space is known by.

    Attributes:
        task: a thread of the process that has it.
        start_stack: where its stack begins; the same in one space, and in those forked from it.
    """

    task: int
    start_stack: int

    @classmethod
    def of(cls, task: int, fields: list[bytes]) -> Space:
        """That of a thread, by what its stat has behind the name."""
        return cls(task, int(fields[_START_STACK]))


def space_of(folder: str) -> Space:
    """That of a process, by the folder of /proc that tells of its memory."""
    fields = procfs.stat_fields(procfs.read(folder + "stat"))
    return Space.of(int(folder.split("/")[2]), fields)


def sharers(spaces: dict[int, Space]) -> dict[int, int]:
    """How many processes have the address space of each, of those who share it with others."""
    by_stack: dict[int, list[int]] = defaultdict(list)
    for pid, space in spaces.items():
        by_stack[space.start_stack].append(pid)
    by_stack.pop(0, None)  # not ours to read
    found = {}
    for pids in by_stack.values():
        if len(pids) > 1:
            for run in _runs(pids, spaces):
                found.update(dict.fromkeys(run, len(run)))
    return {pid: count for pid, count in found.items() if count > 1}


def _runs(pids: list[int], spaces: dict[int, Space]) -> Iterator[list[int]]:
    """Processes by what they share."""

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
    """Which address space is before which, in some order that kcmp(2) keeps; 0 of the same one.

    Those that cannot be compared, as one has ended or is not ours to look at, are not the same.
    """
    said = _libc.syscall(_KCMP.get(platform.machine(), -1), one, other, _KCMP_VM, 0, 0)
    return {_SAME: 0, _LESS: -1, _GREATER: 1}.get(said, one - other)
