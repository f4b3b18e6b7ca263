"""The arenas of processes, as rows of a table."""

from __future__ import annotations

from collections import defaultdict

from memtap.bpf.stream import Events
from memtap.tracers.malloc.explain import tunable_of
from memtap.tracers.malloc.readings import MAPPED, Part
from memtap.tracers.malloc.rows import Fact
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Row

# The Part that each column of columns.HEAPS shows.
_PARTS = {
    "heap_bytes": Part.SIZE,
    "resident_bytes": Part.RESIDENT,
    "used_bytes": Part.USED,
    "stuck_bytes": Part.STUCK,
    "top_bytes": Part.TOP,
    "trim_bytes": Part.TRIM,
    "bound_bytes": Part.BOUND,
    "tcache_bytes": Part.TCACHE,
    "fast_bytes": Part.FAST,
    "unsorted_bytes": Part.UNSORTED,
    "small_bytes": Part.SMALL,
    "large_bytes": Part.LARGE,
    "chunks": Part.CHUNKS,
    "threads": Part.THREADS,
    "trim_threshold_bytes": Part.TRIM_THRESHOLD,
    "mmap_threshold_bytes": Part.MMAP_THRESHOLD,
    "arena_max": Part.ARENA_MAX,
}

_Parts = dict[int, int]


class Heaps:
    """Rows in, the last state of each arena out."""

    def __init__(self) -> None:
        self._parts: dict[int, dict[int, _Parts]] = {}

    def feed(self, rows: Events) -> None:
        """Takes in the state of heaps (Fact.WALKED)."""
        walked = rows[rows["kind"] == Fact.WALKED]
        for tgid in set(walked["tgid"].tolist()):
            self._parts[tgid] = defaultdict(dict)
        for tgid, address, part, length in walked[["tgid", "address", "part", "length"]].tolist():
            self._parts[tgid][address][part] = length

    def take(self, processes: dict[int, Process]) -> list[Row] | None:
        """A row for each arena that was looked at in this interval; None if nobody looked.

        A value that could not be read is None.
        """
        parts, self._parts = self._parts, {}
        return [
            {"pid": tgid, "comm": processes.get(tgid, Process()).comm} | _row(address, arena)
            for tgid, arenas in sorted(parts.items())
            for address, arena in sorted(arenas.items(), key=lambda of: of[1].get(Part.NUMBER, 0))
        ] or None


def _row(address: int, parts: _Parts) -> Row:
    number = parts.get(Part.NUMBER, 0)
    row: Row = {name: parts.get(part) for name, part in _PARTS.items()}
    row["arena"] = {0: "main", MAPPED: "mmap"}.get(number, str(number))
    row["address"] = address or None
    return row | {"tunable": tunable_of(row)}
