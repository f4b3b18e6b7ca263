"""The page cache's two tracers: a line for the host, or a table by process or file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memtap.tracers.model.report import Column
from memtap.tracers.model.tracer import Query, Reporter, Showing, Tracer
from memtap.tracers.pagecache.columns import (
    CACHESTAT,
    CACHESTAT_WIDE,
    CACHETOP_KEYS,
    cachetop_columns,
)
from memtap.tracers.pagecache.probes import NAME_FILES, PLAN

if TYPE_CHECKING:
    from memtap.tracers.model.chunk import Origin
    from memtap.tracers.model.enricher import Enricher, Source


def _make_enricher(session: Source, _query: Query) -> Enricher:
    from memtap.tracers.pagecache.enrich import PageEnricher

    return PageEnricher(session)


def _settings(query: Query) -> tuple[str, ...]:
    """A recording may later be asked for files."""
    return (NAME_FILES,) if query.wants("file") or query.records else ()


def _columns_of_host(query: Query) -> tuple[Column, ...]:
    return CACHESTAT_WIDE if query.wide else CACHESTAT


def _make_cachestat(origin: Origin, query: Query) -> Reporter:
    from memtap.tracers.pagecache.cachestat import Cachestat

    return Cachestat(origin, query.wide)


def _make_cachetop(origin: Origin, query: Query) -> Reporter:
    from memtap.tracers.pagecache.cachetop import Cachetop

    return Cachetop(origin, query.by)


TRACERS = {
    "cachestat": Tracer(
        name="cachestat",
        summary="Is the page cache working: hits, misses and dirtied pages of the whole host.",
        question="Is the page cache working? A line per INTERVAL (seconds, 1 by default), COUNT of "
        "them.",
        examples=(
            ("cachestat 1 5", "five seconds of the whole host"),
            ("cachestat -p 1234", "one process and its children"),
            ("cachestat -- grep -r foo .", "one program from its start on"),
        ),
        plan=PLAN,
        rows="memtap.tracers.pagecache.rows",
        keys={"host": ()},
        columns=_columns_of_host,
        showing=lambda _: Showing("hits_pages", style="rolling"),
        make_enricher=_make_enricher,
        make_reporter=_make_cachestat,
        settings=_settings,
    ),
    "cachetop": Tracer(
        name="cachetop",
        summary="Which process, file, cgroup or user uses and misses the page cache.",
        question="Who uses and misses the page cache? A table per INTERVAL (seconds, 1 by "
        "default).",
        examples=(
            ("cachetop", "live, by process"),
            ("cachetop -b file -s misses 5 1", "files most missed in 5 seconds"),
            ("cachetop -b process,file -p 1234", "what one process reads"),
        ),
        nothing="nobody used the page cache",
        plan=PLAN,
        rows="memtap.tracers.pagecache.rows",
        keys=CACHETOP_KEYS,
        columns=lambda query: cachetop_columns(query.by),
        showing=lambda _: Showing("misses_pages", ties="hits_pages"),
        make_enricher=_make_enricher,
        make_reporter=_make_cachetop,
        settings=_settings,
        has_screen=True,
    ),
}
