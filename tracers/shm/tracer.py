"""The tracer of shared memory."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from memtap.tracers.host.counters import vmstat
from memtap.tracers.model.tracer import Query, Reporter, Showing, Tracer
from memtap.tracers.shm.columns import SHM_KEYS, shm_columns
from memtap.tracers.shm.probes import PLAN, VMSTAT

if TYPE_CHECKING:
    from memtap.tracers.model.chunk import Origin
    from memtap.tracers.model.enricher import Enricher, Source


def _make_enricher(session: Source, _query: Query) -> Enricher:
    from memtap.tracers.shm.enrich import ShmEnricher

    return ShmEnricher(session)


def _make_reporter(origin: Origin, query: Query) -> Reporter:
    from memtap.tracers.shm.report import Shm

    return Shm(origin, query.by)


TRACER = Tracer(
    name="shm",
    summary="Who makes, maps, grows and frees shared memory and files on tmpfs.",
    question="Who makes, maps, grows and frees shared memory, and files on tmpfs? A table per "
    "INTERVAL.",
    about=(
        "System V and POSIX segments, memfds, shared anonymous mappings, any file on a tmpfs. "
        "The process that first touches or writes a page grows it.",
    ),
    examples=(
        ("shm 5", "the host by segment, every 5 seconds"),
        ("shm -b process,segment -s grown", "which process fills which segment"),
        ("shm -b cgroup -s res 10", "which cgroup's shared memory stays"),
        ("shm -b segment -- ./app", "one program"),
    ),
    nothing="no shared memory was made, mapped, grown or freed",
    plan=PLAN,
    rows="memtap.tracers.shm.rows",
    keys=SHM_KEYS,
    columns=lambda query: shm_columns(query.by),
    showing=lambda _: Showing("grown_bytes", ties="attaches"),
    make_enricher=_make_enricher,
    make_reporter=_make_reporter,
    counters=partial(vmstat, names=VMSTAT),
)
