"""Events that no ring had room for, added up in the kernel by a coarse key (memtap/batch.h).

The sums there only grow, so that programs that add to them are not disturbed; what was added since
the last look is the difference.
"""

from __future__ import annotations

import numpy as np

from memtap.bpf import libbpf
from memtap.bpf.counters import batches, members
from memtap.bpf.loading import Loaded
from memtap.bpf.stream import Events, dtype_of

# `struct spilled` of memtap/batch.h.
_SUMS = np.dtype([("events", "u8"), ("units", "u8")])

# For a program that has no such map.
NOTHING_SPILLED: Events = np.empty(0, _SUMS)


class Spills:
    """The map `spills` of a program, and what it held when it was last looked at."""

    def __init__(self, loaded: Loaded) -> None:
        self._map = loaded.maps["spills"]
        self._key = dtype_of(loaded.layouts["spill"])
        self._row = np.dtype([*members(self._key), *members(_SUMS)])
        self._spilled = 0
        self._before: dict[bytes, np.void] = {}

    def take(self, spilled: int) -> Events:
        """What was added since the last time: the members of the key and of `struct spilled`.

        `spilled` is all that was ever added; if it has not changed, the map is not read.
        """
        rows = np.empty(0, self._row)
        if spilled == self._spilled:
            return rows
        self._spilled = spilled
        read = libbpf.library().bpf_map_lookup_batch
        for keys, sums in batches(read, self._map, self._key, _SUMS):
            rows = np.concatenate([rows, self._grown(keys, sums)])
        return rows

    def _grown(self, keys: Events, sums: Events) -> Events:
        rows = np.zeros(len(keys), self._row)
        for name in self._key.names or ():
            rows[name] = keys[name]
        for row, key, sum_now in zip(rows, keys, sums, strict=True):
            before = self._before.get(key.tobytes(), np.zeros((), _SUMS))
            for name in _SUMS.names or ():
                row[name] = sum_now[name] - before[name]
            self._before[key.tobytes()] = sum_now
        return rows[rows["units"] > 0]
