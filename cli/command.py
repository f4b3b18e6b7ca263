"""The click command of a tracer, made from what it declares."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from memtap.cli.arrange import AsTheyCome, Order
from memtap.cli.job import Job
from memtap.cli.options import Options, TracingCommand, shared, sort_column
from memtap.cli.telling import note
from memtap.cli.tracing import run
from memtap.tracers.model.tracer import Flag, Query, Tracer, UnfitError

if TYPE_CHECKING:
    from memtap.tracers.model.report import Report

# Of what is redrawn in place on a terminal.
_BATCH = Flag("batch", "Print tables, also on a terminal.")


class _TracerCommand(TracingCommand):
    """The command of a tracer, whose help is made when somebody asks for it."""

    tracer: Tracer

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes what its tracer declares."""
        from memtap.cli.manual import help_of

        self.help = help_of(self.tracer)
        super().format_help_text(ctx, formatter)


def command_of(tracer: Tracer) -> click.Command:
    """The command by which people use a tracer."""
    flags = (*tracer.flags, *([_BATCH] if tracer.has_screen else []))

    @shared(tracer.keys, flags)
    def answer(options: Options) -> None:
        _answer(tracer, options)

    command = click.command(tracer.name, cls=_TracerCommand)(answer)
    command.tracer = tracer
    return command


def _answer(tracer: Tracer, options: Options) -> None:
    query = query_of(tracer, options)
    try:
        notes = tracer.check(query)
    except UnfitError as error:
        raise click.UsageError(str(error)) from error
    order = order_of(tracer, query, options.rows)
    for each in notes:
        note(each)
    showing = tracer.showing(query)
    options = replace(options, interval=options.interval or showing.interval_s, each=showing.each)
    if tracer.look and tracer.is_looked_for(query):
        _look(tracer.look, query, options, order)
        return
    run(options, [Job(tracer, query, order)])


def query_of(tracer: Tracer, options: Options) -> Query:
    """What a command line asks of a tracer; by what is usual, if it does not say."""
    return Query(
        by=options.by or tracer.usual_by,
        wide=options.wide,
        records=options.record is not None,
        regroups=tracer.has_screen and sys.stdout.isatty(),
        flags=options.flags,
        pids=options.pids,
        program=options.program,
        interval_s=options.interval,
        sort=options.sort,
        replays=options.replay is not None,
        comms=options.comms,
        cgroups=options.cgroups,
    )


def order_of(tracer: Tracer, query: Query, rows: int | None) -> Order:
    """How rows are ordered, and how many are shown; a line for each report is never cut off."""
    showing = tracer.showing(query)
    rows = None if showing.style == "rolling" else rows
    if query.sort is None and showing.sort is None:
        return AsTheyCome("", rows=rows)
    column = sort_column(query.sort, tracer.columns(query), showing.sort or "")
    return Order(column, rows=rows, ties=showing.ties)


def _look(
    look: Callable[[Query], Callable[[], Report]], query: Query, options: Options, order: Order
) -> None:
    """Shows what there is: once, or at the end of each interval."""
    from memtap.bpf.kernel import Kernel
    from memtap.cli.output import Printer
    from memtap.cli.pace import pace
    from memtap.cli.telling import absent, remarked

    Kernel().require_proc()
    report, printer = look(query), Printer(options, rolling=False, order=order)

    def show() -> None:
        printer.show(remarked(report(), remarks=absent(options.comms)))

    if options.interval is None:
        show()
        return
    count, end = options.count or math.inf, time.monotonic()
    with pace() as is_told_to_end:
        while count > 0 and not printer.closed:
            end = max(end + options.interval, time.monotonic())
            count = 0 if is_told_to_end(end) else count - 1
            show()
