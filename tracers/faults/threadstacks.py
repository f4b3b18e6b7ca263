"""The stacks of threads: memory near a stack pointer may be something else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers.faults.probes import Mark

# If a thread's end is reported to no process, the thread is not a C library's, but belongs to a
# language that runs many tasks on it, each with a stack that is allocated like other memory. Go
# gives such a thread a stack of its own of this size (malg() of its runtime).
_SMALL_BYTES = 16 << 10

# No event reports the end of a thread, so only those that began last are remembered.
_REMEMBERED = 1 << 16

# The range for threads that began earlier, of which nothing is known, and for main threads, which
# have another stack.
_ANYWHERE = (0, 2**64 - 1)


class ThreadStacks:
    """The stacks of threads that began while we traced, each [low, top)."""

    def __init__(self) -> None:
        self._stacks: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def note(self, threads: Events, start_of: Callable[[int, int], int]) -> None:
        """Notes threads that begin (Kind.THREAD), each at the top of its stack.

        `start_of` gives where the mapping at a process's address begins.
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
        """Clears Mark.STACK of faults that are near the stack pointer but not in the stack."""
        near = np.flatnonzero(faults["marks"] & Mark.STACK)
        tids, which = np.unique(faults["tid"][near], return_inverse=True)
        stacks = [self._stacks.get(tid, _ANYWHERE) for tid in tids.tolist()]
        low, top = np.array(stacks, np.uint64).reshape(-1, 2)[which].T
        address, first = faults["address"][near], faults["tgid"][near] == faults["tid"][near]
        outside = near[(address < low) | (address >= top) | first]
        faults["marks"][outside] &= ~np.uint8(Mark.STACK)
