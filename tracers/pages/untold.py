"""How many pages were handed out without a tracepoint: many at a time, as for thread stacks."""

from __future__ import annotations

import struct

import numpy as np

from memtap.bpf.kernel import Kernel, parse_cpus
from memtap.tracers.host.counters import vmstat
from memtap.tracers.model.enricher import Source
from memtap.tracers.pages.probes import HANDED_OUT

_FIRST = struct.pack("=I", 0)


class UntoldPages:
    """Pages that the kernel counted as handed out on the whole host, beyond those that we saw.

    The two counts cannot be read at one instant. So the kernel's count is read before and after
    ours, which bounds the difference.
    """

    def __init__(self, session: Source) -> None:
        self._session = session
        self._bytes = 8 * len(parse_cpus(Kernel().possible_cpus))
        self._least, _ = self._look()

    def take(self) -> int:
        """The most such pages that there can be since the last call."""
        before = self._least
        self._least, most = self._look()
        return max(0, most - before)

    def _look(self) -> tuple[int, int]:
        """How many there are so far, plus an unknown constant: at least, and at most."""
        early, seen, late = _handed_out(), self._seen(), _handed_out()
        return early - seen, late - seen

    def _seen(self) -> int:
        of_cpus = self._session.look_up("told_pages", _FIRST, self._bytes) or b""
        return int(np.frombuffer(of_cpus, np.uint64).sum())


def _handed_out() -> int:
    return sum(vmstat(names=HANDED_OUT).values())
