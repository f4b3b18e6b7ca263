"""malloc's decisions as they happen, one line each, and why."""

from __future__ import annotations

from memtap.tracers.malloc.allocator import Allocator, Rule, Step
from memtap.tracers.malloc.columns import TIMELINE
from memtap.tracers.malloc.probes import Call
from memtap.tracers.malloc.report import Allocators, Decision
from memtap.tracers.malloc.sizes import FOR_REQUESTS
from memtap.tracers.model.audit import audit
from memtap.tracers.model.chunk import Chunk, Origin
from memtap.tracers.model.report import Report, Row


def why(step: Step, allocator: Allocator, length: int) -> str:
    """A decision in words; `length` is that of the call, in bytes."""
    least, trim = f"{allocator.least_mapped or 0:,}", f"{2 * allocator.threshold:,}"
    return {
        Rule.FAILED: "the kernel refused",
        Rule.HEAP_SEEN: "asks where the heap ends",
        Rule.HEAP_GROWN: f"the heap is used up: brk moves its end up by {step.taken:,}",
        Rule.HEAP_TRIMMED: f"the top of the heap is free: brk gives back {step.given:,}",
        Rule.CHUNK_MAPPED: f"requests from {least} bytes on are mapped on their own: {length:,}",
        Rule.CHUNK_FREED: f"freed mmapped chunk of {length:,}: given back at once",
        Rule.THRESHOLD_RAISED: f"freed mmapped chunk of {length:,}: threshold now {length:,}, "
        f"trim {trim}",
        Rule.CHUNK_RESIZED: f"realloc of a mmapped chunk: mremap to {length:,}",
        Rule.ARENA_RESERVED: f"a thread gets an arena: {length >> 20} MiB of addresses, no memory",
        Rule.ARENA_ALIGNED: f"{length:,} bytes of addresses beside the arena are not needed",
        Rule.ARENA_GROWN: f"the arena is used up: mprotect makes {step.taken:,} more usable",
        Rule.ARENA_SHRUNK: f"the top of the arena is free: {step.given:,} given back",
        Rule.GIVEN_BACK: f"madvise gives back {length:,}, and keeps the addresses",
        Rule.THREAD_STACK: f"a thread's stack of {length:,}",
        Rule.FILE: f"a file, {length:,} bytes of it",
        Rule.LOADER: "the dynamic loader prepares the program",
        Rule.SET_ASIDE: f"{length:,} bytes of addresses are set aside, without memory",
        Rule.COMMITTED: f"of what was set aside {step.taken:,} more are made usable",
        Rule.DECOMMITTED: f"{step.given:,} given back, and the addresses kept",
        Rule.ANOTHER: f"{length:,} bytes, not of malloc",
    }[step.rule]


def _request(call: Row, step: Step) -> str:
    """The request to malloc, if it is known and caused the call."""
    if not call["request_number"] or step.rule not in FOR_REQUESTS:
        return ""
    return f"{call['request']:,} bytes wanted: "


class Timeline:
    """Takes chunks; makes a row for every call, at the end of each interval that had calls."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._allocators = Allocators()
        self._began: int | None = None
        self._rows: list[Row] = []
        self._has_told = False

    def feed(self, chunk: Chunk) -> Report | None:
        """Takes a chunk; returns a report if an interval ends with it."""
        calls = chunk.rows[chunk.rows["kind"] >= Call.BRK]
        self._rows += map(self._row, self._allocators.feed(calls))
        if chunk.interval is None or not (self._rows or chunk.last):
            return None
        rows, self._rows = sorted(self._rows, key=lambda row: row["time_ns"]), []
        self._allocators.end_interval()
        found = audit(self._origin, chunk.interval, len(rows))
        time, seconds, before = chunk.interval.time, chunk.interval.seconds, self._has_told
        self._has_told |= bool(rows)
        return Report("malloc", time, seconds, TIMELINE, rows, found, goes_on=before)

    def _row(self, decision: Decision) -> Row:
        call, step = decision.row, decision.step
        if self._began is None:
            self._began = call["ns"]
        return {
            "time_ns": call["ns"] - self._began,
            "pid": call["tgid"],
            "tid": call["tid"],
            "path": step.path.text,
            "change_bytes": step.taken - step.given,
            "why": _request(call, step) + why(step, decision.allocator, call["length"]),
        }
