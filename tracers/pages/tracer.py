"""The tracer of the buddy allocator."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from memtap.tracers.host.counters import vmstat
from memtap.tracers.model.tracer import Query, Reporter, Showing, Tracer
from memtap.tracers.pages.columns import PAGES_KEYS, pages_columns
from memtap.tracers.pages.probes import BY_PROCESS, PLAN, VMSTAT

if TYPE_CHECKING:
    from memtap.tracers.model.chunk import Origin
    from memtap.tracers.model.enricher import Enricher, Source


def _settings(query: Query) -> tuple[str, ...]:
    """A recording may later be asked for processes."""
    return (BY_PROCESS,) if query.wants("process", "comm") or query.records else ()


def _make_enricher(session: Source, _query: Query) -> Enricher:
    from memtap.tracers.pages.enrich import PagesEnricher

    return PagesEnricher(session)


def _make_reporter(origin: Origin, query: Query) -> Reporter:
    from memtap.tracers.pages.report import Pages

    return Pages(origin, query.by)


TRACER = Tracer(
    name="pages",
    summary="What the buddy allocator hands out, to which process; what is left in large blocks.",
    question="What does the buddy allocator hand out, and what is left? A table per INTERVAL.",
    examples=(
        ("pages 5", "the host, by order, every 5 seconds"),
        ("pages -b process -s allocs", "which processes take most"),
        ("pages -b order -- ./app", "one program"),
    ),
    nothing="no pages were allocated",
    plan=PLAN,
    rows="memtap.tracers.pages.rows",
    keys=PAGES_KEYS,
    columns=lambda query: pages_columns(query.by),
    # Orders are in ascending order.
    showing=lambda query: Showing(None if query.by == ("order",) else "allocated_bytes"),
    make_enricher=_make_enricher,
    make_reporter=_make_reporter,
    settings=_settings,
    counters=partial(vmstat, names=VMSTAT),
)
