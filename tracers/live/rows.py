"""Checks the rows of a recording, which any user may have written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from memtap.bpf.errors import MemtapError
from memtap.bpf.stream import Events
from memtap.tracers.model.claims import LATEST_NS
from memtap.tracers.model.tracer import RowType

if TYPE_CHECKING:
    from memtap.tracers.live.recording import Recording
    from memtap.tracers.model.chunk import Chunk

# Every counter, and every sum of counters, stays below this: in nanoseconds, 36 years. So no
# computation with them overflows.
_MOST = LATEST_NS


class Checked:
    """Checks all rows of a recording, one chunk after the other."""

    def __init__(self, row: RowType) -> None:
        self._row = row
        self._sums: Counter[str] = Counter()

    def look(self, rows: Events) -> None:
        """Raises ValueError if a value in the rows cannot have been recorded."""
        if (rows["ns"] >= _MOST).any():
            raise ValueError("a time that is none")
        for name in self._row.counts:
            self._sums[name] += int(rows[name].sum(dtype=np.float64))
            if self._sums[name] >= _MOST:
                raise ValueError(f"more {name} than can be")
        if not self._row.are_possible(rows):
            raise ValueError("a number that stands for nothing")


def checked(recording: Recording, row: RowType) -> Iterator[Chunk]:
    """The chunks of a recording. Raises MemtapError if some value cannot have been recorded."""
    look = Checked(row).look
    for chunk in recording:
        try:
            look(chunk.rows)
        except ValueError as error:
            what = f"cannot read {recording.path}: it contradicts itself ({error})"
            raise MemtapError(what, "it is damaged, or was not recorded by memtap") from error
        yield chunk
