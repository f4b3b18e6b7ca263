"""The command `memtap cachestat`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from memtap.cli.arrange import Order
from memtap.cli.options import Options, TracingCommand, shared, sort_column
from memtap.cli.tracing import Job, page_edge, run
from memtap.tracers.pagecache.columns import CACHESTAT, CACHESTAT_WIDE
from memtap.tracers.pagecache.probes import NAME_FILES, PLAN

if TYPE_CHECKING:
    from memtap.cli.loop import Display, Reporter
    from memtap.tracers.model.chunk import Origin
    from memtap.tracers.pagecache.cachestat import Cachestat


@click.command("cachestat", cls=TracingCommand)
@shared(("host",))
def command(options: Options) -> None:
    """Is the page cache working? A line per INTERVAL (seconds, 1 by default), COUNT of them.

    \b
    HITS        pages asked for that were in the cache
    MISSES      pages asked for that had to be brought in from storage
    DIRTIES     pages that writes reached and made dirty
    HITRATIO    hits of hits and misses
    BUFFERS_MB  cached metadata of block devices, at the end of the interval
    CACHED_MB   cached files and shared memory, at the end of the interval

    \b
    --wide adds
    READAHEAD   pages brought in from storage
    UNUSED      of those, what nobody has asked for, yet or until they left
    EVICTED     pages that left the cache
    WRITTEN     pages written back, by nr_written; of the whole host alone
    REMOVED     pages that left it because their file was truncated or deleted
    DIRTY_FOLIO pages of the folios that became dirty, as the kernel counts

    \b
    memtap cachestat 1 5                 five seconds of the whole host
    memtap cachestat -p 1234             one process and its children
    memtap cachestat -- grep -r foo .    one program from its start on
    """
    columns = CACHESTAT_WIDE if options.wide else CACHESTAT
    order = Order(sort_column(options.sort, columns, "hits_pages"), rows=options.rows)
    # A recording may be asked later which file it was; a row for the whole host never is.
    settings = (NAME_FILES,) if options.record else ()
    begin = page_edge, partial(_reporter, options), partial(_display, options, order)
    run(options, Job(PLAN, settings, *begin))


def _reporter(options: Options, origin: Origin) -> Cachestat:
    from memtap.tracers.pagecache.cachestat import Cachestat

    return Cachestat(origin, options.wide)


def _display(options: Options, order: Order, _reporter: Reporter) -> Display:
    from memtap.cli.output import Printer

    return Printer(options, rolling=True, order=order)
