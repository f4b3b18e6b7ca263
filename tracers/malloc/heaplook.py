"""malloc --heap without tracing: the arenas of processes as they are now."""

from __future__ import annotations

from collections.abc import Sequence

from memtap.bpf.errors import MemtapError
from memtap.tracers.host import procfs
from memtap.tracers.live.processes import read_process
from memtap.tracers.malloc import heapwalk
from memtap.tracers.malloc.columns import HEAPS, HEAPS_REPORT
from memtap.tracers.malloc.explain import of_heaps
from memtap.tracers.malloc.heaps import Heaps
from memtap.tracers.model.report import Report, Section, now
from memtap.tracers.model.tracer import Inspection


class HeapInspection(Inspection):
    """Reads the heaps of these processes for each report."""

    def __init__(self, pids: Sequence[int], explains: bool) -> None:
        self._pids, self._explains = pids, explains

    def report(self) -> Report:
        """What there is now."""
        heaps, notes = Heaps(), list[str]()
        for pid in self._pids:
            found = heapwalk.look(pid, heapwalk.LOOK_S)
            heaps.feed(heapwalk.rows_of(pid, 0, found))
            notes += found.notes_of(pid)
        processes = {pid: seen for pid in self._pids if (seen := read_process(pid))}
        rows = heaps.take(processes) or []
        if not rows:
            raise MemtapError(
                notes[0], "--heap is of processes that have malloc of glibc; run it as root"
            )
        unsure = sum(row["used_bytes"] is None or bool(row["bound_bytes"]) for row in rows)
        explanation = (Section("explanation", "text", of_heaps(rows)),)
        return Report(
            name=HEAPS_REPORT,
            time=now(),
            interval_s=0.0,
            columns=HEAPS,
            rows=rows,
            audit=procfs.audit(len(rows), unsure + len(notes), {}, notes),
            sections=explanation if self._explains else (),
        )
