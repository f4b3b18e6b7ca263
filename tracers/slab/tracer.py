"""The tracer of the slab allocator."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from memtap.tracers.host.counters import vmstat
from memtap.tracers.model.tracer import Flag, Query, Reporter, Showing, Tracer
from memtap.tracers.slab import columns as shown
from memtap.tracers.slab.probes import BY_PROCESS, BY_SITE, LEAKS, PLAN, STACKS, VMSTAT, objects

if TYPE_CHECKING:
    from memtap.tracers.model.chunk import Origin
    from memtap.tracers.model.enricher import Enricher, Source

FLAGS = (
    Flag(
        "leaks",
        "Also what was allocated since it began and is still there, the oldest first.",
        columns=shown.LEAKS,
        section=("leaks", "rows"),
    ),
    Flag(
        "stacks",
        "With --leaks: by which kernel stacks.",
        wants=("leaks", "--stacks tells where --leaks come from; give both"),
    ),
)


def _settings(query: Query) -> tuple[str, ...]:
    """The fewest macros that answer the query; a recording may later be asked for the rest."""
    all_of_it = query.has("leaks") or query.records
    wanted = {
        BY_SITE: query.wants("site") or all_of_it,
        BY_PROCESS: query.wants("process", "comm") or all_of_it,
        LEAKS: query.has("leaks"),
        STACKS: query.has("stacks"),
    }
    return (objects(), *(setting for setting, is_wanted in wanted.items() if is_wanted))


def _make_enricher(session: Source, query: Query) -> Enricher:
    from memtap.tracers.slab.enrich import SlabEnricher

    return SlabEnricher(session, finds_leaks=query.has("leaks"))


def _make_reporter(origin: Origin, query: Query) -> Reporter:
    from memtap.tracers.slab.report import Slab

    return Slab(origin, query.by, query.has("leaks"))


TRACER = Tracer(
    name="slab",
    summary="Which kernel caches, code and processes allocate, waste and keep.",
    question="Which kernel caches, code and processes allocate and waste? A table per INTERVAL.",
    terms=(
        ("[earlier]", "the process and code of what was there before it began"),
        ("[interrupt]", "process 0: interrupts of an idle CPU"),
    ),
    examples=(
        ("slab 5", "the host by cache, every 5 seconds"),
        ("slab -b process,cache -r 10", "which processes allocate most"),
        ("slab -b site -p 1234", "which code for one process"),
        ("slab --leaks --stacks 60 1", "what a minute leaves behind"),
    ),
    nothing="no kernel objects were allocated",
    plan=PLAN,
    rows="memtap.tracers.slab.rows",
    keys=shown.SLAB_KEYS,
    columns=lambda query: shown.slab_columns(query.by),
    showing=lambda _: Showing("allocated_bytes"),
    make_enricher=_make_enricher,
    make_reporter=_make_reporter,
    flags=FLAGS,
    settings=_settings,
    counters=partial(vmstat, names=VMSTAT),
)
