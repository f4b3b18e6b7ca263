"""The command `memtap cachetop`."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING

import click

from memtap.cli.arrange import Order
from memtap.cli.options import Options, TracingCommand, shared, sort_column
from memtap.cli.tracing import Job, page_edge, run
from memtap.tracers.pagecache.columns import CACHETOP_KEYS, cachetop_columns
from memtap.tracers.pagecache.probes import NAME_FILES, PLAN

if TYPE_CHECKING:
    from memtap.cli.loop import Display
    from memtap.tracers.model.chunk import Origin
    from memtap.tracers.pagecache.cachetop import Cachetop


@click.command("cachetop", cls=TracingCommand)
@shared(
    CACHETOP_KEYS,
    click.option("--batch", is_flag=True, help="Print tables, also on a terminal."),
)
def command(options: Options) -> None:
    """Who uses and misses the page cache? A table per INTERVAL (seconds, 1 by default).

    On a terminal the table is redrawn in place. Keys: < and > choose the column to sort by, r
    reverses the order, b goes on to the next grouping, space pauses, q ends.

    \b
    HITS        pages asked for that were in the cache
    MISSES      pages asked for that had to be brought in from storage
    DIRTIES     pages that writes reached and made dirty
    READ_HIT%   hits of hits and misses
    WRITE_HIT%  pages made dirty that were cached before (by file with --wide)
    INSERTED    pages that entered the cache (by file)
    EVICTED     pages that left it (by file)
    REMOVED     those that left it as the file was cut or deleted (--wide)
    DIRTY_FOLIO pages of the folios that became dirty (--wide)

    \b
    memtap cachetop                           live, by process
    memtap cachetop -b file -s misses 5 1     files most missed in 5 seconds
    memtap cachetop -b process,file -p 1234   what one process reads
    """
    columns = cachetop_columns(options.by)
    column = sort_column(options.sort, columns, "misses_pages")
    order = Order(column, rows=options.rows, ties="hits_pages")
    begin = page_edge, partial(_reporter, options), partial(_display, options, order)
    regroups = sys.stdout.isatty()
    names_files = regroups or "file" in options.by or options.record is not None
    settings = (NAME_FILES,) if names_files else ()
    run(options, Job(PLAN, settings, *begin, regroups=regroups))


def _reporter(options: Options, origin: Origin) -> Cachetop:
    from memtap.tracers.pagecache.cachetop import Cachetop

    return Cachetop(origin, options.by)


def _display(options: Options, order: Order, reporter: Cachetop) -> Display:
    if _on_screen(options):
        from memtap.cli.screen import Screen

        return Screen(reporter, order, options)
    from memtap.cli.output import Printer

    return Printer(options, rolling=False, order=order)


def _on_screen(options: Options) -> bool:
    """Redrawn in place, if a terminal is all ours and can be drawn on."""
    elsewhere = options.batch or options.output or options.program or options.replay
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if options.format != "table" or elsewhere or not terminal:
        return False
    from memtap.cli.screen import can_be_drawn_on

    if can_be_drawn_on():
        return True
    kind = os.environ.get("TERM", "")
    click.echo(f"memtap: note: no drawing on a terminal of kind {kind!r} (TERM): tables", err=True)
    return False
