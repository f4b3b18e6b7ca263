"""Which faults a user-space handler answers, because userfaultfd(2) watches the memory.

No tracepoint reports such a fault. A thread that faulted in user space and waits for a handler
sleeps interruptibly in its fault; outside files nothing else does. If a system call touched the
memory, we cannot tell this sleep from others. So an iterator reads the flags of a process's VMAs:
soon after its first fault, again from time to time, and whenever one of its threads has left its
CPU during or after a fault, as a thread that waits for a handler must. If the process has ended by
then, we know only what we had read before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Set
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from memtap.bpf.stream import Events
from memtap.tracers.code.intervals import NOWHERE
from memtap.tracers.faults.match import Found
from memtap.tracers.faults.probes import WATCHED, Mark
from memtap.tracers.host.patience import StuckError, patiently
from memtap.tracers.model.arrays import group_numbers
from memtap.tracers.model.enricher import Source

# Flags in vm_flags. A watched VMA that has neither is watched for UFFD_MINOR.
_VM_UFFD_MISSING, _VM_UFFD_WP = 0x200, 0x1000

# Seconds until a process's VMAs are read again: at first (each tick reads them), and at most.
_SOON_S, _SELDOM_S = 0.5, 32

# A process that may have slept in a fault is read at once, unless reading has taken more than this
# share of the time. The time starts this many seconds early, so that a short run can read too.
_SHARE, _AHEAD_S = 0.01, 10

# With more processes than this, those that have not faulted for long are forgotten.
_MANY = 1024

Bools = npt.NDArray[np.bool_]


@dataclass
class _Asked:
    """A process's watched memory (rows of start, end, vm_flags), and when to read it again."""

    ranges: npt.NDArray[np.uint64]
    next_s: float
    wait_s: float


class Watched:
    """The memory that userfaultfd(2) watches, by process."""

    def __init__(self, session: Source) -> None:
        self._session = session
        self._asked: dict[int, _Asked] = {}
        self._many = _MANY
        self._began_s, self._spent_s = 0.0, 0.0

    def tell(self, faults: Events, now: float, ended: Set[int]) -> None:
        """Sets Found.USERFAULT in those faults (match.FAULT) that a handler answers.

        For processes that have `ended` it uses what it read before.
        """
        self._began_s = self._began_s or now - _AHEAD_S
        slept = faults["found"] & Found.SWITCHED > 0
        sleepers = set(np.unique(faults["tgid"][slept]).tolist())
        for tgid in np.unique(faults["tgid"]).tolist():
            if tgid not in self._asked and (tgid in ended or _is_gone(tgid)):
                continue
            for start, end, flags in self._ranges(tgid, now, tgid in sleepers).tolist():
                hit = slept & (faults["tgid"] == tgid)
                hit &= (faults["address"] >= start) & (faults["address"] < end)
                faults["found"][hit & handed_over(faults["marks"], flags)] |= np.uint8(
                    Found.USERFAULT
                )
        for tgid in ended & self._asked.keys():
            del self._asked[tgid]
        self._forget(now)

    def _ranges(self, tgid: int, now: float, slept: bool) -> npt.NDArray[np.uint64]:
        known = self._asked.get(tgid)
        at_once = slept and self._spent_s <= _SHARE * (now - self._began_s)
        if known and now < known.next_s and not at_once:
            return known.ranges
        wait = min(2 * known.wait_s, _SELDOM_S) if known else _SOON_S
        written = self._ask(tgid)
        if known and _is_gone(tgid):
            written = known.ranges
        self._asked[tgid] = _Asked(written, now + wait, wait)
        return written

    def _ask(self, tgid: int) -> npt.NDArray[np.uint64]:
        began = time.monotonic()
        try:
            raw = patiently(tgid, partial(self._session.iterate, WATCHED, tgid))
        except StuckError:
            raw = b""
        self._spent_s += time.monotonic() - began
        return np.frombuffer(raw, np.uint64).reshape(-1, 3)

    def _forget(self, now: float) -> None:
        """Forgets processes that have not faulted for long, if there are many."""
        if len(self._asked) > self._many:
            self._asked = {
                tgid: asked
                for tgid, asked in self._asked.items()
                if now < asked.next_s + 2 * _SELDOM_S
            }
            self._many = max(_MANY, 2 * len(self._asked))


def leave_files_out(faults: Events, traits: npt.NDArray[np.void]) -> None:
    """Clears the flag of faults on files: those wait for a file system; see Mappings.traits."""
    of_file = traits["of_file"][faults["place"]]
    faults["found"][of_file] &= np.uint8(~Found.USERFAULT & 0xFF)


def tell_between(faults: Events) -> None:
    """Sets the flag also where a quick handler answers before the thread has gone to sleep.

    Such a fault is of memory that was not there, in the same mapping, and lies between two that
    the handler is known to have answered.
    """
    missing = (faults["marks"] & Mark.PRESENT == 0) & (faults["place"] != NOWHERE)
    answered = missing & (faults["found"] & Found.USERFAULT > 0)
    if not answered.any():
        return
    mapping, address = group_numbers(faults["tgid"], faults["place"]), faults["address"]
    lowest = np.full(mapping.max() + 1, np.iinfo(np.uint64).max, np.uint64)
    highest = np.zeros_like(lowest)
    np.minimum.at(lowest, mapping[answered], address[answered])
    np.maximum.at(highest, mapping[answered], address[answered])
    between = missing & (lowest[mapping] < address) & (address < highest[mapping])
    faults["found"][between] |= np.uint8(Found.USERFAULT)


def _is_gone(tgid: int) -> bool:
    return not os.path.exists(f"/proc/{tgid}")  # noqa: PTH110 (it is asked of thousands)


def handed_over(marks: npt.NDArray[np.uint8], flags: int) -> Bools:
    """Which faults, by their marks, a handler answers in memory with these vm_flags."""
    present, write = marks & Mark.PRESENT > 0, marks & Mark.WRITE > 0
    protected = present & write & bool(flags & _VM_UFFD_WP)
    missing = ~present & bool(flags & _VM_UFFD_MISSING or not flags & _VM_UFFD_WP)
    both: Bools = protected | missing
    return both
