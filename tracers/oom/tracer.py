"""The tracer of the OOM killer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from memtap.tracers.host.counters import vmstat
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
from memtap.tracers.oom.columns import OOM, SCORES
from memtap.tracers.oom.probes import PLAN

if TYPE_CHECKING:
    from memtap.tracers.model.chunk import Origin
    from memtap.tracers.model.enricher import Enricher, Source

# A kill is reported this soon.
_TOLD_AFTER_S = 0.5

FLAGS = (
    Flag(
        "explain", "Say why it was this one, and by what formula.", section=("explanation", "text")
    ),
    Flag(
        "scores",
        "Trace nothing: rank who would be killed next.",
        columns=SCORES,
        report="oom-scores",
        looks=True,
    ),
)


def _columns(query: Query) -> tuple[Column, ...]:
    return SCORES if query.has("scores") else OOM


def _showing(query: Query) -> Showing:
    if query.has("scores"):
        return Showing("oom_score")
    if query.interval_s is None:
        return Showing(None, interval_s=_TOLD_AFTER_S, each="table for each kill")
    return Showing(None)


def _check(query: Query) -> Sequence[str]:
    if query.has("scores") and (query.program or query.records or query.cgroups):
        raise UnfitError("--scores looks at what there is: no PROGRAM, --record or --cgroup")
    return ()


def _inspect(query: Query) -> Inspection:
    from memtap.tracers.live.processes import process_of
    from memtap.tracers.oom.ranking import Ranking

    return Ranking(tuple(map(process_of, query.pids)), query.comms, query.has("explain"))


def _make_enricher(session: Source, _query: Query) -> Enricher:
    from memtap.tracers.oom.enrich import OomEnricher

    return OomEnricher(session)


def _make_reporter(origin: Origin, query: Query) -> Reporter:
    from memtap.tracers.oom.report import Oom

    return Oom(origin, query.has("explain"))


TRACER = Tracer(
    name="oom",
    summary="Who was killed for lack of memory, why that one, and who is next.",
    question="Who was killed for lack of memory, why that one, and who asked? A table for each "
    "kill.",
    about=(
        "Without INTERVAL a kill is told within a second; with it, all kills of an interval "
        "together. It begins with an empty table, when it has begun to trace. With --scores it "
        "lists all processes that the kernel may kill, in its order.",
    ),
    examples=(
        ("oom", "until Ctrl-C, each kill as it happens"),
        ("oom --explain", "and why it was this one and no other"),
        ("oom --scores -r 10", "who is next"),
        ("oom --scores --explain", "and the formula"),
    ),
    nothing="nobody was killed",
    plan=PLAN,
    rows="memtap.tracers.oom.rows",
    keys={"victim": ()},
    columns=_columns,
    showing=_showing,
    make_enricher=_make_enricher,
    make_reporter=_make_reporter,
    flags=FLAGS,
    check=_check,
    counters=partial(vmstat, names=("oom_kill",)),
    inspect=_inspect,
)
