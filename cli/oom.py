"""The command `memtap oom`."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from memtap.cli.arrange import AsTheyCome, Order
from memtap.cli.options import Options, TracingCommand, shared, sort_column
from memtap.cli.tracing import Job, run
from memtap.tracers.host.counters import vmstat
from memtap.tracers.oom.columns import OOM, SCORES
from memtap.tracers.oom.probes import PLAN

if TYPE_CHECKING:
    from memtap.bpf.session import Session
    from memtap.cli.loop import Display
    from memtap.tracers.model.chunk import Origin
    from memtap.tracers.model.enricher import Edge
    from memtap.tracers.oom.report import Oom

# Whoever is killed is told of so soon.
_TOLD_AFTER_S = 0.5


@click.command("oom", cls=TracingCommand)
@shared(
    ("victim",),
    click.option("--explain", is_flag=True, help="Say why it was this one, and by what formula."),
    click.option("--scores", is_flag=True, help="Trace nothing: rank who would be killed next."),
)
def command(options: Options) -> None:
    """Who was killed for lack of memory, why that one, and who asked? A table for each kill.

    Without INTERVAL a kill is told within a second; with it, all kills of an interval together.
    It begins with an empty table, when it has begun to trace.

    \b
    ADJ         oom_score_adj, what the owner adds to its score
    ANON_KB     its own memory when it was chosen; FILE_KB pages of files
    BY          who needed the memory
    SHORT       what had none left: memcg (a cgroup's limit was reached),
                global (the host), cpuset, mempolicy; ? if the kernel log
                does not say
    CGROUP      the victim's cgroup, by which its memory is counted
    --wide      VIRT_KB, SHMEM_KB, SWAP_KB, page tables, and LIMITED, the
                cgroup whose limit was reached

    \b
    SCORE       of --scores: /proc/PID/oom_score; the highest is killed first.
                All are listed whom the kernel may kill, in its order
    ADJ_KB      what ADJ adds, as if it were memory
    RES_KB SWAP_KB PGTAB_KB  what is freed when it is killed: it is the rest

    \b
    memtap oom                     until Ctrl-C, each kill as it happens
    memtap oom --explain           and why it was this one and no other
    memtap oom --scores -r 10      who is next
    memtap oom --scores --explain  and the formula
    """
    columns = SCORES if options.scores else OOM
    order = Order(
        sort_column(options.sort, columns, "oom_score" if options.scores else "time"),
        rows=options.rows,
    )
    if options.scores:
        _rank(options, order)
        return
    if options.sort is None:
        order = AsTheyCome("time", rows=options.rows)
    if options.interval is None:
        options = replace(options, interval=_TOLD_AFTER_S, each="table for each kill")
    begin = _edge, partial(_reporter, options), partial(_display, options, order)
    run(options, Job(PLAN, (), *begin, counters=partial(vmstat, names=("oom_kill",))))


def _edge(session: Session) -> Edge:
    from memtap.tracers.oom.enrich import OomEdge

    return OomEdge(session)


def _reporter(options: Options, origin: Origin) -> Oom:
    from memtap.tracers.oom.report import Oom

    return Oom(origin, options.explain)


def _display(options: Options, order: Order, _reporter: object) -> Display:
    from memtap.cli.output import Printer

    return Printer(options, rolling=False, order=order)


def _rank(options: Options, order: Order) -> None:
    """Looks once, or at the end of each interval."""
    from memtap.bpf.kernel import Kernel
    from memtap.cli.output import Printer
    from memtap.cli.pace import pace
    from memtap.cli.telling import absent, remarked
    from memtap.tracers.live.processes import process_of
    from memtap.tracers.oom.ranking import Ranking

    if options.program or options.record or options.cgroups:
        raise click.UsageError("--scores looks at what there is: no PROGRAM, --record or --cgroup")
    Kernel().require_proc()
    ranking = Ranking(tuple(map(process_of, options.pids)), options.comms, options.explain)
    printer = Printer(options, rolling=False, order=order)
    if options.interval is None:
        printer.show(remarked(ranking.report(), absent(options.comms)))
        return
    count, end = options.count or math.inf, time.monotonic()
    with pace() as is_told_to_end:
        while count > 0 and not printer.closed:
            end = max(end + options.interval, time.monotonic())
            count = 0 if is_told_to_end(end) else count - 1
            printer.show(remarked(ranking.report(), absent(options.comms)))
