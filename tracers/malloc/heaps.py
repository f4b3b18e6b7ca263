"""The heaps of processes, as a table beside the report."""

from __future__ import annotations

from collections import defaultdict

from memtap.bpf.stream import Events
from memtap.tracers.malloc.columns import HEAPS
from memtap.tracers.malloc.heapwalk import Part
from memtap.tracers.malloc.rows import Fact
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Row

_PARTS = dict(zip((column.name for column in HEAPS[2:]), Part, strict=True))


class Heaps:
    """Rows in, the last state of each heap out."""

    def __init__(self) -> None:
        self._parts: dict[int, dict[int, int]] = defaultdict(dict)

    def feed(self, rows: Events) -> None:
        """Takes in the state of heaps (Fact.WALKED)."""
        walked = rows[rows["kind"] == Fact.WALKED]
        for tgid in set(walked["tgid"].tolist()):
            self._parts[tgid].clear()
        for row in walked:
            self._parts[int(row["tgid"])][int(row["part"])] = int(row["length"])

    def take(self, processes: dict[int, Process]) -> list[Row] | None:
        """A row for each process whose heap was walked in this interval; None if none was.

        A value that could not be read is None.
        """
        parts, self._parts = self._parts, defaultdict(dict)
        return [
            {"pid": tgid, "comm": processes.get(tgid, Process()).comm}
            | {name: heap.get(part) for name, part in _PARTS.items()}
            for tgid, heap in sorted(parts.items())
        ] or None
