"""The tracer of malloc's paths to the kernel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memtap.bpf.plan import Plan
from memtap.tracers.host.counters import meminfo
from memtap.tracers.malloc.columns import HEAPS, HEAPS_REPORT, MALLOC_KEYS, TIMELINE, malloc_columns
from memtap.tracers.malloc.probes import FRAMES, PLAN, huge_pages, with_requests
from memtap.tracers.model.report import Column
from memtap.tracers.model.tracer import (
    Flag,
    Inspection,
    Query,
    Reporter,
    Showing,
    Tracer,
    UnfitError,
)

if TYPE_CHECKING:
    from memtap.tracers.model.chunk import Origin
    from memtap.tracers.model.enricher import Enricher, Source

# How often lines of a timeline come.
_TIMELINE_S = 0.5

FLAGS = (
    Flag("timeline", "Each call as it happens, and why, a line each.", columns=TIMELINE),
    Flag(
        "heap",
        "Also the arenas of glibc: what is used, what is free and yet stuck below a block that is "
        "used, what malloc_trim(0) would give back. With an INTERVAL, or of PROGRAM while it runs; "
        "with --pid alone, as they are now, and nothing is traced.",
        columns=HEAPS,
        section=("heaps", "rows"),
        report=HEAPS_REPORT,
    ),
    Flag(
        "explain",
        "With --heap: say in plain words what is kept, why, and what gives it back.",
        wants=("heap", "--explain is about --heap"),
        section=("explanation", "text"),
    ),
    Flag(
        "uprobes",
        "Also count what one process asks of malloc, by size. It stops at each malloc and free, "
        "for some microseconds.",
        section=("sizes", "sizes"),
    ),
)


def _looks(query: Query) -> bool:
    """Whether the query asks only for the heaps of processes, once."""
    is_live = query.program or query.records or query.replays or query.interval_s is not None
    some = query.comms or query.cgroups or query.by != (next(iter(MALLOC_KEYS)),)
    others = is_live or some or query.has("uprobes", "timeline")
    return query.has("heap") and bool(query.pids) and not others


def _columns(query: Query) -> tuple[Column, ...]:
    if _looks(query):
        return HEAPS
    return TIMELINE if query.has("timeline") else malloc_columns(query.by)


def _showing(query: Query) -> Showing:
    if _looks(query):
        return Showing(None)
    if query.has("timeline"):
        each = "line for each call"
        return Showing(None, style="rolling", interval_s=_TIMELINE_S, each=each)
    return Showing("requested_bytes")


def _settings(query: Query) -> tuple[str, ...]:
    """A recording may later be asked for code."""
    frames = (FRAMES,) if query.wants("site") or query.records else ()
    return (huge_pages(meminfo()), *frames)


def _planned(query: Query) -> Plan:
    return with_requests(PLAN) if query.has("uprobes") else PLAN


def _check(query: Query) -> Sequence[str]:
    """--uprobes needs one process, and the user hears its cost before tracing begins."""
    if query.replays:
        return ()
    notes = []
    if query.has("heap") and not (query.pids or query.program):
        raise UnfitError("--heap wants processes: --pid PID, or -- PROGRAM")
    if query.has("heap") and query.interval_s is None and not query.pids:
        notes.append(
            "--heap looks at heaps while PROGRAM runs: give an INTERVAL, as in --heap 0.5 -- ..."
        )
    if query.has("uprobes"):
        if len(query.pids) + bool(query.program) != 1:
            raise UnfitError("--uprobes wants one process: --pid PID, or -- PROGRAM")
        notes.append("--uprobes stops the process at each malloc and free, for some microseconds")
    return notes


def _inspect(query: Query) -> Inspection:
    from memtap.tracers.live.processes import process_of
    from memtap.tracers.malloc.heaplook import HeapInspection

    return HeapInspection(tuple(map(process_of, query.pids)), query.has("explain"))


def _state(_root: Path) -> str:
    """What --heap can show of programs that use the same C library as we do."""
    from memtap.tracers.malloc.heapwalk import INTERVAL_S, look

    notes = look(os.getpid(), INTERVAL_S).notes
    return f"--heap: {'; '.join(notes) or 'all arenas of this C library'}"


def _make_enricher(session: Source, query: Query) -> Enricher:
    from memtap.tracers.malloc.enrich import MallocEnricher

    return MallocEnricher(session, walks_heaps=query.has("heap"), program=query.program)


def _make_reporter(origin: Origin, query: Query) -> Reporter:
    if query.has("timeline"):
        from memtap.tracers.malloc.timeline import Timeline

        return Timeline(origin)
    from memtap.tracers.malloc.report import Malloc

    return Malloc(origin, query.by, query.has("explain"))


TRACER = Tracer(
    name="malloc",
    summary="Which way malloc went to the kernel (brk, mmap, arena), and what it cost.",
    question="Which way did malloc go to the kernel, and what did it cost? A table per INTERVAL.",
    examples=(
        ("malloc -b process,path -- ./app", "one program, from its start on"),
        ("malloc --timeline -- ./app", "its decisions, as they happen"),
        ("malloc -b process,path -p 1234 5", "a server, every 5 seconds"),
        ("malloc -b site -p 1234 10 1", "which of its code maps most"),
        ("malloc --heap --explain -p 1234", "its heaps, as they are now"),
        ("malloc --heap -p 1234 10", "the same every 10 seconds, traced"),
    ),
    nothing="no memory was asked of the kernel, or given back",
    plan=PLAN,
    rows="memtap.tracers.malloc.rows",
    keys=MALLOC_KEYS,
    columns=_columns,
    showing=_showing,
    make_enricher=_make_enricher,
    make_reporter=_make_reporter,
    flags=FLAGS,
    settings=_settings,
    planned=_planned,
    check=_check,
    inspect=_inspect,
    looks=_looks,
    state=_state,
)
