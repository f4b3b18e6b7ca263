"""The rows of all tracers, by the names of their programs, and what can stand in them."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from types import ModuleType

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers.live.claims import LATEST_NS

# Each has ROW, the type of the tracer's rows, and may have are_possible(), which tells whether
# numbers that stand for words, or say how far to count, are such.
_TRACERS = ("pagecache", "faults", "malloc", "slab", "pages", "reclaim", "oom")

# What counts something stays below _MOST, also added up: in nanoseconds, 36 years. So nothing
# that is made of it overflows.
_COUNTS = (
    *("time_ns", "allocs", "frees", "fallbacks", "requested", "allocated", "freed"),
    *("total_vm", "anon", "shmem", "swap", "pgtables", "scope"),
)
_MOST = LATEST_NS


def row_of(tracer: str) -> np.dtype[np.void]:
    """The type of a tracer's rows."""
    row: np.dtype[np.void] = _module(tracer).ROW
    return row


class Checked:
    """Looks at the rows of a recording of a tracer, which anybody can have written."""

    def __init__(self, tracer: str) -> None:
        self._are_possible = getattr(_module(tracer), "are_possible", None)
        self._sums: Counter[str] = Counter()

    def look(self, rows: Events) -> None:
        """Raises ValueError if there is something in the rows that cannot have been recorded."""
        if (rows["ns"] >= _MOST).any():
            raise ValueError("a time that is none")
        for name in set(_COUNTS) & set(rows.dtype.names or ()):
            self._sums[name] += int(rows[name].sum(dtype=np.float64))
            if self._sums[name] >= _MOST:
                raise ValueError(f"more {name} than can be")
        if self._are_possible and not self._are_possible(rows):
            raise ValueError("a number that stands for nothing")


def _module(tracer: str) -> ModuleType:
    return import_module(f"memtap.tracers.{tracer}.rows")
