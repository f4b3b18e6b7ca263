"""The click command of a tracer, made from what it declares."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from memtap.cli.arrange import AsTheyCome, Order, Tree
from memtap.cli.job import Job
from memtap.cli.options import (
    Command,
    Options,
    TracingCommand,
    columns_of,
    inspecting,
    shared,
    sort_column,
)
from memtap.cli.telling import note
from memtap.cli.tracing import run
from memtap.tracers.model.tracer import Declared, Flag, Inspector, Query, Tracer, UnfitError

if TYPE_CHECKING:
    from memtap.cli.output import Printer
    from memtap.tracers.model.tracer import Inspection

# For tracers with a screen, which is redrawn in place on a terminal.
_BATCH = Flag("batch", "Print tables, also on a terminal.")


class _Declared(Command):
    """The command of a tracer or inspector. Its help is made only when it is asked for."""

    declared: Declared

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the help that is made from the declaration."""
        from memtap.cli.manual import help_of

        self.help = help_of(self.declared)
        super().format_help_text(ctx, formatter)


class _TracerCommand(_Declared, TracingCommand):
    """The command of a tracer."""


def command_of(declared: Declared) -> click.Command:
    """The command of a tracer or inspector."""
    if isinstance(declared, Tracer):
        return _tracer_command(declared)
    assert isinstance(declared, Inspector)
    return _inspector_command(declared)


def _tracer_command(tracer: Tracer) -> click.Command:
    flags = (*tracer.flags, *([_BATCH] if tracer.has_screen else []))

    @shared(tracer.keys, flags, partial(columns_of, tracer))
    def answer(options: Options) -> None:
        _answer(tracer, options)

    command = click.command(tracer.name, cls=_TracerCommand)(answer)
    command.declared = tracer
    return command


def _inspector_command(inspector: Inspector) -> click.Command:
    @inspecting(inspector)
    def answer(options: Options) -> None:
        query = query_of(inspector, options)
        order = checked(inspector, query, options)
        usual = inspector.showing(query).rows if options.format == "table" else None
        most = usual if options.rows is None and not options.reverse else None
        order = replace(order, rows=most) if most else order
        _look(inspector.inspect(query), options, order, inspector.nothing, most)

    command = click.command(inspector.name, cls=_Declared)(answer)
    command.declared = inspector
    return command


def _answer(tracer: Tracer, options: Options) -> None:
    query = query_of(tracer, options)
    order = checked(tracer, query, options)
    showing = tracer.showing(query)
    options = replace(options, interval=options.interval or showing.interval_s, each=showing.each)
    if tracer.inspect and tracer.is_looked_for(query):
        _look(tracer.inspect(query), options, order)
        return
    run(options, [Job(tracer, query, order)])


def checked(declared: Declared, query: Query, options: Options) -> Order:
    """Checks that a query fits, prints its notes, and gives the order of its rows."""
    try:
        notes = declared.check(query)
    except UnfitError as error:
        raise click.UsageError(str(error)) from error
    order = order_of(declared, query, options.rows, options.reverse)
    for each in notes:
        note(each)
    return order


def query_of(declared: Declared, options: Options) -> Query:
    """The query of a command line; grouped by the usual keys if it names none."""
    return Query(
        by=options.by or declared.usual_by,
        wide=options.wide,
        records=options.record is not None,
        regroups=declared.has_screen and sys.stdout.isatty(),
        flags=options.flags,
        pids=options.pids,
        program=options.program,
        interval_s=options.interval,
        sort=options.sort,
        replays=options.replay is not None,
        comms=options.comms,
        cgroups=options.cgroups,
        paths=options.paths,
        rows=None if options.reverse else options.rows,
    )


def order_of(declared: Declared, query: Query, rows: int | None, reverse: bool = False) -> Order:
    """How rows are ordered, and how many are shown; a rolling report shows all of its lines."""
    showing = declared.showing(query)
    rows = None if showing.style == "rolling" else rows
    if query.sort is None and showing.sort is None:
        return AsTheyCome("", reverse, rows)
    column = sort_column(query.sort, declared.columns(query), showing.sort or "")
    ties = showing.ties if column == showing.sort else showing.sort
    return (Tree if showing.is_tree else Order)(column, reverse, rows, ties)


def _look(
    inspection: Inspection,
    options: Options,
    order: Order,
    nothing: str = "",
    most: int | None = None,
) -> None:
    """Shows the reports of an inspection: one, or one at the end of each interval.

    A table of one look that has more rows than `most` says so.
    """
    from memtap.bpf.kernel import Kernel
    from memtap.cli.output import Printer
    from memtap.cli.pace import pace
    from memtap.cli.telling import absent, process_called, remarked

    Kernel().require_proc()
    printer = Printer(options, rolling=False, order=order)
    if options.interval is None:
        _begin(inspection)
        report = inspection.report()
        left = len(report.rows) - (most or len(report.rows))
        more = [f"{left} more rows: -r shows as many as you like"] if left > 0 else []
        printer.show(remarked(report, remarks=[*more, *absent(options.comms)]))
        return
    if mistaken := process_called(options.interval):
        note(f"{mistaken} is taken for an interval, in seconds; of a process it is -p {mistaken}")
    with pace() as is_told_to_end:  # threads begin inside, so that they leave its signals alone
        _begin(inspection)
        _follow(inspection, options, printer, is_told_to_end, nothing)


def _begin(inspection: Inspection) -> None:
    for each in inspection.begin():
        note(each)


def _follow(
    inspection: Inspection,
    options: Options,
    printer: Printer,
    is_told_to_end: Callable[[float], bool],
    nothing: str,
) -> None:
    """Shows reports until COUNT, a signal, or the end of the reader or of what is looked at."""
    from memtap.cli.telling import absent, partial_remarks, remarked

    interval, count = options.interval or math.inf, options.count or math.inf
    end = time.monotonic()
    while count > 0 and not printer.closed:
        end = max(end + interval, time.monotonic())
        is_short = is_told_to_end(end)
        count = 0 if is_short else count - 1
        report = inspection.report()
        remarks = partial_remarks(report.interval_s, interval) if is_short else []
        printer.show(remarked(report, nothing, [*remarks, *absent(options.comms)]))
        if inspection.has_ended:
            return
