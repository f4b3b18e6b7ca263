"""The tracer of page faults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memtap.tracers.faults.columns import FAULT_KEYS, fault_columns
from memtap.tracers.faults.probes import PLAN, STACKS
from memtap.tracers.model.tracer import Flag, Query, Reporter, Showing, Tracer

if TYPE_CHECKING:
    from memtap.tracers.model.chunk import Origin
    from memtap.tracers.model.enricher import Enricher, Source

FLAGS = (
    Flag("hist", "How long faults took, as a histogram.", section=("histogram", "histogram")),
    Flag("explain", "Say in plain words what the numbers say.", section=("explanation", "text")),
    Flag("stacks", "The user stacks that fault most.", section=("stacks", "stacks")),
    Flag(
        "folded",
        "Write collapsed stacks, which flamegraph.pl and speedscope read.",
        takes_file=True,
    ),
    Flag("flame", "Write a flame graph, a page for the browser.", takes_file=True),
)


def _wants_stacks(query: Query) -> bool:
    return query.has("stacks", "folded", "flame")


def _make_enricher(session: Source, query: Query) -> Enricher:
    from memtap.tracers.faults.enrich import FaultEnricher

    # A recording may later be asked for code.
    return FaultEnricher(session, query.wants("site") or query.records or _wants_stacks(query))


def _make_reporter(origin: Origin, query: Query) -> Reporter:
    from memtap.tracers.faults.report import Faults

    hist, explain = query.has("hist"), query.has("explain")
    return Faults(origin, query.by, hist, explain, _wants_stacks(query))


TRACER = Tracer(
    name="faults",
    summary="Who faults, where in memory, why, and at what cost.",
    question="Who faults, where, why, from which code, at what cost? A table per INTERVAL.",
    examples=(
        ("faults", "the whole host, by process"),
        ("faults -b region,cause -- ./app", "one program, from its start on"),
        ("faults -b process,file -s major 5", "which files faults read in"),
        ("faults -b site -r 10 -p 1234", "its code that faults most"),
    ),
    nothing="no page faults",
    plan=PLAN,
    rows="memtap.tracers.faults.rows",
    keys=FAULT_KEYS,
    columns=lambda query: fault_columns(query.by),
    showing=lambda _: Showing("total"),
    make_enricher=_make_enricher,
    make_reporter=_make_reporter,
    flags=FLAGS,
    settings=lambda query: (STACKS,) if _wants_stacks(query) else (),
    kept=lambda query: ("stack", "stacks") if _wants_stacks(query) else ("", ""),
    names_threads=lambda query: query.wants("thread") or query.records,
)
