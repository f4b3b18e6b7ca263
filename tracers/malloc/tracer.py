"""The tracer of malloc's paths to the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memtap.bpf.plan import Plan
from memtap.tracers.host.counters import meminfo
from memtap.tracers.malloc.columns import HEAPS, MALLOC_KEYS, TIMELINE, malloc_columns
from memtap.tracers.malloc.probes import FRAMES, PLAN, huge_pages, with_requests
from memtap.tracers.model.report import Column
from memtap.tracers.model.tracer import Flag, Query, Reporter, Showing, Tracer, UnfitError

if TYPE_CHECKING:
    from memtap.tracers.model.chunk import Origin
    from memtap.tracers.model.enricher import Enricher, Source

# How often lines of a timeline come.
_TIMELINE_S = 0.5

FLAGS = (
    Flag("timeline", "Each call as it happens, and why, a line each.", columns=TIMELINE),
    Flag(
        "heap",
        "Also how much of a heap is used, and how much is free and yet stuck below a block that is "
        "used. Of glibc, while the process runs: give an INTERVAL.",
        columns=HEAPS,
        section=("heaps", "rows"),
    ),
    Flag(
        "uprobes",
        "Also count what one process asks of malloc, by size. It stops at each malloc and free, "
        "for some microseconds.",
        section=("sizes", "sizes"),
    ),
)


def _columns(query: Query) -> tuple[Column, ...]:
    return TIMELINE if query.has("timeline") else malloc_columns(query.by)


def _showing(query: Query) -> Showing:
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


def _make_enricher(session: Source, query: Query) -> Enricher:
    from memtap.tracers.malloc.enrich import MallocEnricher

    return MallocEnricher(session, walks_heaps=query.has("heap"), program=query.program)


def _make_reporter(origin: Origin, query: Query) -> Reporter:
    if query.has("timeline"):
        from memtap.tracers.malloc.timeline import Timeline

        return Timeline(origin)
    from memtap.tracers.malloc.report import Malloc

    return Malloc(origin, query.by)


TRACER = Tracer(
    name="malloc",
    summary="Which way malloc went to the kernel (brk, mmap, arena), and what it cost.",
    question="Which way did malloc go to the kernel, and what did it cost? A table per INTERVAL.",
    examples=(
        ("malloc -b process,path -- ./app", "one program, from its start on"),
        ("malloc --timeline -- ./app", "its decisions, as they happen"),
        ("malloc -b process,path -p 1234 5", "a server, every 5 seconds"),
        ("malloc -b site -p 1234 10 1", "which of its code maps most"),
        ("malloc --heap -p 1234 10", "what of its heap is stuck"),
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
)
