"""The command `memtap slab`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from memtap.cli.arrange import Order
from memtap.cli.options import Options, TracingCommand, shared, sort_column
from memtap.cli.tracing import Job, run
from memtap.tracers.host.counters import vmstat
from memtap.tracers.slab.columns import SLAB_KEYS, slab_columns
from memtap.tracers.slab.probes import BY_PROCESS, BY_SITE, LEAKS, PLAN, STACKS, VMSTAT, objects

if TYPE_CHECKING:
    from memtap.bpf.session import Session
    from memtap.cli.loop import Display
    from memtap.tracers.model.chunk import Origin
    from memtap.tracers.model.enricher import Edge
    from memtap.tracers.slab.report import Slab


@click.command("slab", cls=TracingCommand)
@shared(
    SLAB_KEYS,
    click.option(
        "--leaks",
        is_flag=True,
        help="Also what was allocated since it began and is still there, the oldest first.",
    ),
    click.option("--stacks", is_flag=True, help="With --leaks: by which kernel stacks."),
)
def command(options: Options) -> None:
    """Which kernel caches, code and processes allocate and waste? A table per INTERVAL.

    \b
    CACHE     as in /proc/slabinfo; kmalloc-large is pages, no cache
    SITE      the kernel's code that allocated: function+offset
    [earlier] the process and code of what was there before it began;
              [interrupt], process 0, those of interrupts of an idle CPU
    ALLOCS    objects allocated; FREES objects that were freed
    LIVE      allocated less freed since it began; LIVE_KB their bytes.
              Below 0 more of what was there before was freed
    REQ_KB    asked for; ALLOC_KB taken for it
    WASTE     how much of what was taken nobody had asked for
    KEPT      with --leaks: objects that are still there; KEPT_KB their bytes
    OLDEST_MS how long the oldest of them has been there

    \b
    memtap slab 5                        the host by cache, every 5 seconds
    memtap slab -b process,cache -r 10   who allocates most
    memtap slab -b site -p 1234          which code for one process
    memtap slab --leaks --stacks 60 1    what a minute leaves behind
    """
    if options.stacks and not options.leaks:
        raise click.UsageError("--stacks tells where --leaks come from; give both")
    columns = slab_columns(options.by)
    order = Order(sort_column(options.sort, columns, "allocated_bytes"), rows=options.rows)
    begin = partial(_edge, options), partial(_reporter, options), partial(_display, options, order)
    run(options, Job(PLAN, _settings(options), *begin, partial(vmstat, names=VMSTAT)))


def _settings(options: Options) -> tuple[str, ...]:
    """The least that tells what was asked for; a recording may be asked for the rest later."""
    wanted = {
        BY_SITE: "site" in options.by or options.leaks or options.record,
        BY_PROCESS: {"process", "comm"} & {*options.by} or options.leaks or options.record,
        LEAKS: options.leaks,
        STACKS: options.stacks,
    }
    return (objects(), *(setting for setting, is_wanted in wanted.items() if is_wanted))


def _edge(options: Options, session: Session) -> Edge:
    from memtap.tracers.slab.enrich import SlabEdge

    return SlabEdge(session, finds_leaks=options.leaks)


def _reporter(options: Options, origin: Origin) -> Slab:
    from memtap.tracers.slab.report import Slab

    return Slab(origin, options.by, options.leaks)


def _display(options: Options, order: Order, _reporter: Slab) -> Display:
    from memtap.cli.output import Printer

    return Printer(options, rolling=False, order=order)
