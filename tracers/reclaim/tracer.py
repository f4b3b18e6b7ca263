"""The tracer of reclaim, compaction and swap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memtap.tracers.model.tracer import Query, Reporter, Showing, Tracer
from memtap.tracers.reclaim.columns import RECLAIM_KEYS, reclaim_columns
from memtap.tracers.reclaim.counters import DELAYS, counters
from memtap.tracers.reclaim.probes import PLAN

if TYPE_CHECKING:
    from memtap.tracers.model.chunk import Origin
    from memtap.tracers.model.enricher import Enricher, Source


def _make_enricher(session: Source, _query: Query) -> Enricher:
    from memtap.tracers.reclaim.enrich import ReclaimEnricher

    return ReclaimEnricher(session)


def _make_reporter(origin: Origin, query: Query) -> Reporter:
    from memtap.tracers.reclaim.report import Reclaim

    return Reclaim(origin, query.by)


TRACER = Tracer(
    name="reclaim",
    summary="Who stalls in reclaim, compaction or swap, and what kswapd does.",
    question="Who stalls in reclaim, compaction or swap, and what does kswapd do? A table per "
    "INTERVAL.",
    about=("A row says what a process did and waited for, whichever process has the memory.",),
    examples=(
        ("reclaim", "which processes wait for memory, every second"),
        ("reclaim -b cgroup 10", "which containers are too small"),
        ("reclaim -b node --wide", "kswapd's work, node by node"),
        ("reclaim -v -- ./app", "one program, and what the kernel counted"),
    ),
    nothing="no process had to reclaim memory",
    plan=PLAN,
    rows="memtap.tracers.reclaim.rows",
    keys=RECLAIM_KEYS,
    columns=lambda query: reclaim_columns(query.by),
    showing=lambda _: Showing("stall_ns"),
    make_enricher=_make_enricher,
    make_reporter=_make_reporter,
    counters=counters,
    exit_record=DELAYS,
)
