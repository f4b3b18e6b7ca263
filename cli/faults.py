"""The command `memtap faults`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memtap.cli.arrange import Order
from memtap.cli.options import Options, TracingCommand, shared, sort_column
from memtap.cli.tracing import Job, run
from memtap.tracers.faults.columns import FAULT_KEYS, fault_columns
from memtap.tracers.faults.probes import PLAN, STACKS

if TYPE_CHECKING:
    from memtap.bpf.session import Session
    from memtap.cli.loop import Display
    from memtap.tracers.faults.report import Faults
    from memtap.tracers.model.chunk import Origin
    from memtap.tracers.model.enricher import Edge


@click.command("faults", cls=TracingCommand)
@shared(
    FAULT_KEYS,
    click.option("--hist", is_flag=True, help="How long faults took, as a histogram."),
    click.option("--explain", is_flag=True, help="Say in plain words what the numbers say."),
    click.option("--stacks", is_flag=True, help="The user stacks that fault most."),
    click.option(
        "--folded",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write collapsed stacks, which flamegraph.pl and speedscope read.",
    ),
    click.option(
        "--flame",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write a flame graph, a page for the browser.",
    ),
)
def command(options: Options) -> None:
    """Who faults, where, why, from which code, at what cost? A table per INTERVAL.

    \b
    MINOR, MAJOR  page faults that needed no storage, that did
    TOTAL         both, and those that ended in a SIGSEGV or SIGBUS
    SHARE         of all faults in the table
    TIME_MS       from the exception to the completed fault, all together
    P50_US P99_US MAX_US  of one fault
    TIMED         of how many faults the times are (--wide)
    REGION        heap, stack, thread-stack, anon, file, shm, text, data,
                  vdso, hugetlb, unmapped
    CAUSE         first-touch, zero-page (read of untouched memory), cow,
                  file-map (page was cached), file-wait (it was, but still
                  being read), file-read (it was not), shm, swap-in, thp,
                  numa, userfault, bad-access
    SITE          the instruction: function+offset object

    \b
    memtap faults                              the whole host, by process
    memtap faults -b region,cause -- ./app     one program, from its start on
    memtap faults -b process,file -s major 5   whose files are read in by faults
    memtap faults -b site -r 10 -p 1234        the code of one process that faults most
    """
    columns = fault_columns(options.by)
    order = Order(sort_column(options.sort, columns, "total"), rows=options.rows)
    begin = partial(_edge, options), partial(_reporter, options), partial(_display, options, order)
    by_thread = "thread" in options.by or options.record is not None
    settings, wants = ((STACKS,), ("stack", "stacks")) if _wants_stacks(options) else ((), ("", ""))
    run(options, Job(PLAN, settings, *begin, wants=wants, names_threads=by_thread))


def _wants_stacks(options: Options) -> bool:
    return bool(options.stacks or options.folded or options.flame)


def _edge(options: Options, session: Session) -> Edge:
    from memtap.tracers.faults.enrich import FaultEdge

    # A recording may be asked later which code it was.
    names_code = "site" in options.by or options.record is not None or _wants_stacks(options)
    return FaultEdge(session, names_code)


def _reporter(options: Options, origin: Origin) -> Faults:
    from memtap.tracers.faults.report import Faults

    stacks = _wants_stacks(options)
    return Faults(origin, options.by, options.hist, options.explain, stacks)


def _display(options: Options, order: Order, _reporter: Faults) -> Display:
    from memtap.cli.output import Printer

    printer = Printer(options, rolling=False, order=order)
    if not (options.folded or options.flame):
        return printer
    from memtap.cli.stacks import StackFiles

    return StackFiles(printer, options.folded, options.flame)
