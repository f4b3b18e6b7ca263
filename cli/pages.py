"""The command `memtap pages`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from memtap.cli.arrange import AsTheyCome, Order
from memtap.cli.options import Options, TracingCommand, shared, sort_column
from memtap.cli.tracing import Job, run
from memtap.tracers.host.counters import vmstat
from memtap.tracers.pages.columns import PAGES_KEYS, pages_columns
from memtap.tracers.pages.probes import BY_PROCESS, PLAN, VMSTAT

if TYPE_CHECKING:
    from memtap.bpf.session import Session
    from memtap.cli.loop import Display
    from memtap.tracers.model.chunk import Origin
    from memtap.tracers.model.enricher import Edge
    from memtap.tracers.pages.report import Pages


@click.command("pages", cls=TracingCommand)
@shared(PAGES_KEYS)
def command(options: Options) -> None:
    """What does the buddy allocator hand out, and what is left? A table per INTERVAL.

    \b
    ORDER        a block of 2^ORDER pages
    TYPE         migrate type: movable, unmovable, reclaimable, ...
    ALLOCS       blocks handed out; FREES blocks that came back
    ALLOC_KB     what was handed out; LIVE_KB less what came back since it began
    FALLBACKS    taken from memory set aside for another type, which fragments it
    FREE_BLOCKS  free now, of the whole host (by order)
    UNUSABLE     how much of the free memory is in smaller blocks than these
    FREE_KB      free now, of the whole host (by type)

    \b
    memtap pages 5                     the host, by order, every 5 seconds
    memtap pages -b process -s allocs  who takes most
    memtap pages -b order -- ./app     one program
    """
    columns = pages_columns(options.by)
    by_order = options.by == ("order",) and options.sort is None
    default = "order" if by_order else "allocated_bytes"
    order = Order(sort_column(options.sort, columns, default), rows=options.rows)
    # A recording may be asked later who it was.
    settings = (BY_PROCESS,) if {"process", "comm"} & {*options.by} or options.record else ()
    display = partial(_display, options, AsTheyCome("order") if by_order else order)
    counters = partial(vmstat, names=VMSTAT)
    run(options, Job(PLAN, settings, _edge, partial(_reporter, options), display, counters))


def _edge(session: Session) -> Edge:
    from memtap.tracers.pages.enrich import PagesEdge

    return PagesEdge(session)


def _reporter(options: Options, origin: Origin) -> Pages:
    from memtap.tracers.pages.report import Pages

    return Pages(origin, options.by)


def _display(options: Options, order: Order, _reporter: Pages) -> Display:
    from memtap.cli.output import Printer

    return Printer(options, rolling=False, order=order)
