"""The command `memtap malloc`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from memtap.cli.arrange import AsTheyCome, Order
from memtap.cli.options import Options, TracingCommand, shared, sort_column
from memtap.cli.telling import note
from memtap.cli.tracing import Job, run
from memtap.tracers.host.counters import meminfo
from memtap.tracers.malloc.columns import MALLOC_KEYS, malloc_columns
from memtap.tracers.malloc.probes import FRAMES, PLAN, huge_pages, with_requests

if TYPE_CHECKING:
    from memtap.bpf.session import Session
    from memtap.cli.loop import Display
    from memtap.tracers.model.chunk import Origin
    from memtap.tracers.model.enricher import Edge

# Lines of a timeline come so often.
_TIMELINE_S = 0.5


@click.command("malloc", cls=TracingCommand)
@shared(
    MALLOC_KEYS,
    click.option("--timeline", is_flag=True, help="Each call as it happens, and why, a line each."),
    click.option(
        "--heap",
        is_flag=True,
        help="Also how much of a heap is used, and how much is free and yet stuck below a block "
        "that is used. Of glibc, while the process runs: give an INTERVAL.",
    ),
    click.option(
        "--uprobes",
        is_flag=True,
        help="Also count what one process asks of malloc, by size. It stops at each malloc and "
        "free, for some microseconds.",
    ),
)
def command(options: Options) -> None:
    """Which way did malloc go to the kernel, and what did it cost? A table per INTERVAL.

    \b
    PATH          brk (the heap), mmap (large blocks), arena (heaps of threads,
                  grown by mprotect), other (files, stacks, the loader)
    CALLS         system calls that went this way
    REQ_KB        what the process got by them; RET_KB what it gave back
    LIVE_KB       what it holds now
    FAULTS        page faults on that memory; FAULT_MS the time they took
    THRESHOLD     the smallest request that glibc would map on its own now
    SITE          the code that called malloc: function+offset object
    LIFE_MS       how long it kept what was mapped, on average (by site)

    \b
    memtap malloc -b process,path -- ./app     one program, from its start on
    memtap malloc --timeline -- ./app          its decisions, as they happen
    memtap malloc -b process,path -p 1234 5    a server, every 5 seconds
    memtap malloc -b site -p 1234 10 1         who in it maps most
    memtap malloc --heap -p 1234 10            what of its heap is stuck
    """
    if options.timeline:
        interval = options.interval or _TIMELINE_S
        options = replace(options, interval=interval, each="line for each call")
    columns = malloc_columns(options.by)
    order = Order(sort_column(options.sort, columns, "requested_bytes"), rows=options.rows)
    # A recording may be asked later which code it was.
    frames = (FRAMES,) if "site" in options.by or options.record else ()
    settings = (huge_pages(meminfo()), *frames)
    _check(options)
    plan = with_requests(PLAN) if options.uprobes else PLAN
    begin = partial(_edge, options), partial(_reporter, options), partial(_display, options, order)
    run(options, Job(plan, settings, *begin))


def _check(options: Options) -> None:
    """--uprobes is for one process, and its cost is said before it begins."""
    if options.replay:
        return
    if options.heap and not (options.pids or options.program):
        raise click.UsageError("--heap wants processes: --pid PID, or -- PROGRAM")
    if options.heap and options.interval is None and not options.pids:
        note("--heap looks at heaps while PROGRAM runs: give an INTERVAL, as in --heap 0.5 -- ...")
    if not options.uprobes:
        return
    if len(options.pids) + bool(options.program) != 1:
        raise click.UsageError("--uprobes wants one process: --pid PID, or -- PROGRAM")
    cost = "stops the process at each malloc and free, for some microseconds"
    click.echo(f"memtap: note: --uprobes {cost}", err=True)


def _edge(options: Options, session: Session) -> Edge:
    from memtap.tracers.malloc.enrich import MallocEdge

    return MallocEdge(session, walks_heaps=options.heap, program=options.program)


def _reporter(options: Options, origin: Origin) -> object:
    if options.timeline:
        from memtap.tracers.malloc.timeline import Timeline

        return Timeline(origin)
    from memtap.tracers.malloc.report import Malloc

    return Malloc(origin, options.by)


def _display(options: Options, order: Order, _reporter: object) -> Display:
    from memtap.cli.output import Printer

    if options.timeline:
        return Printer(options, rolling=True, order=AsTheyCome("time_ns"))
    return Printer(options, rolling=False, order=order)
