"""The command `memtap reclaim`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from memtap.cli.arrange import Order
from memtap.cli.options import Options, TracingCommand, shared, sort_column
from memtap.cli.tracing import Job, run
from memtap.tracers.reclaim.columns import RECLAIM_KEYS, reclaim_columns
from memtap.tracers.reclaim.counters import DELAYS, counters
from memtap.tracers.reclaim.probes import PLAN

if TYPE_CHECKING:
    from memtap.bpf.session import Session
    from memtap.cli.loop import Display
    from memtap.tracers.model.chunk import Origin
    from memtap.tracers.model.enricher import Edge
    from memtap.tracers.reclaim.report import Reclaim


@click.command("reclaim", cls=TracingCommand)
@shared(RECLAIM_KEYS)
def command(options: Options) -> None:
    """Who stalls in reclaim, compaction or swap, and what does kswapd do? A table per INTERVAL.

    A row tells what a process did and waited for, whoever the memory belonged to.

    \b
    STALLS      how often it had to reclaim memory itself before it got some
    STALL_MS    how long that took; P99_MS one of them (--wide: MAX_MS)
    RECLAIM     pages it made free, and EFF, how many of those it looked at
    COMP_MS     time in compaction, to make free pages stand side by side
    SWPIN       pages it read from swap; SWPOUT pages it wrote there
    --wide      MEMCG (STALLS because a cgroup's limit was reached), SCANNED,
                COMPACT (zones compacted), THROTTLED and THROT_MS (it was told
                to wait, part of STALL_MS), SLAB (objects of kernel caches that
                it freed), WAKES and KSWAPD_MS (how often kswapd woke up, and
                for how long)

    \b
    memtap reclaim                   who waits for memory, every second
    memtap reclaim -b cgroup 10      which containers are too small
    memtap reclaim -b node --wide    kswapd's work, node by node
    memtap reclaim -v -- ./app       one program, and what the kernel counted
    """
    columns = reclaim_columns(options.by)
    order = Order(sort_column(options.sort, columns, "stall_ns"), rows=options.rows)
    begin = _edge, partial(_reporter, options), partial(_display, options, order)
    run(options, Job(PLAN, (), *begin, counters=counters, last_words=DELAYS))


def _edge(session: Session) -> Edge:
    from memtap.tracers.reclaim.enrich import ReclaimEdge

    return ReclaimEdge(session)


def _reporter(options: Options, origin: Origin) -> Reclaim:
    from memtap.tracers.reclaim.report import Reclaim

    return Reclaim(origin, options.by)


def _display(options: Options, order: Order, _reporter: object) -> Display:
    from memtap.cli.output import Printer

    return Printer(options, rolling=False, order=order)
