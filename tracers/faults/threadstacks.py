"""Where the stacks of threads are: what is near a stack pointer may be something else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers.faults.probes import Mark

# A thread of whose end nobody is told is none of a C library's, but of a language that runs many
# tasks on it, each with a stack that is allocated as other memory is. Go gives the thread itself so
# many bytes (malg() of its runtime).
_SMALL_BYTES = 16 << 10

# Of threads that are gone nobody tells, so those that began last are remembered.
_REMEMBERED = 1 << 16

# Of a thread that was there before nothing is known; the first of a process has another stack.
_ANYWHERE = (0, 2**64 - 1)


class ThreadStacks:
    """The stacks of threads that began while we looked, [low, top) each."""

    def __init__(self) -> None:
        self._stacks: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def note(self, threads: Events, start_of: Callable[[int, int], int]) -> None:
        """Threads that begin (Kind.THREAD), each at the top of its stack.

        `start_of` tells where what a process has mapped at an address begins.
        """
        for tgid, tid, top, marks in threads[["tgid", "tid", "address", "marks"]].tolist():
            low = start_of(tgid, top - 1)
            if not marks & Mark.JOINABLE:
                low = max(low, top - _SMALL_BYTES)
            self._stacks[tid] = low, top
            self._stacks.move_to_end(tid)
        while len(self._stacks) > _REMEMBERED:
            self._stacks.popitem(last=False)

    def check(self, faults: Events) -> None:
        """Takes Mark.STACK from what is near the stack pointer and yet not in the stack."""
        near = np.flatnonzero(faults["marks"] & Mark.STACK)
        tids, which = np.unique(faults["tid"][near], return_inverse=True)
        stacks = [self._stacks.get(tid, _ANYWHERE) for tid in tids.tolist()]
        low, top = np.array(stacks, np.uint64).reshape(-1, 2)[which].T
        address, first = faults["address"][near], faults["tgid"][near] == faults["tid"][near]
        outside = near[(address < low) | (address >= top) | first]
        faults["marks"][outside] &= ~np.uint8(Mark.STACK)
