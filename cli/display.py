"""Where the reports of a run are shown: printed, redrawn in place, and written as stacks."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from memtap.cli.job import Job
from memtap.cli.options import Options
from memtap.cli.output import Display, Printer


def make_displays(options: Options, asked: Sequence[tuple[Job, Any]]) -> list[Display]:
    """The displays for the reports of each job; each job comes with its reporter."""
    if len(asked) == 1:
        return [_alone(options, *asked[0])]
    first, *others = (job.order for job, _ in asked)
    printer = Printer(options, rolling=False, order=first, titled=True)
    return [printer, *map(printer.beside, others)]


def _alone(options: Options, job: Job, reporter: Any) -> Display:
    tracer = job.tracer
    if tracer.has_screen and _is_on_screen(options):
        from memtap.cli.screen import Screen

        return Screen(tracer, reporter, job.order, options)
    rolling = tracer.showing(job.query).style == "rolling"
    printer = Printer(options, rolling=rolling, order=job.order)
    folded, flame = options.file("folded"), options.file("flame")
    if not (folded or flame):
        return printer
    from memtap.cli.stacks import StackFiles

    return StackFiles(printer, tracer.name, folded, flame)


def _is_on_screen(options: Options) -> bool:
    """Whether reports are redrawn in place: on a terminal that is all ours and can be drawn on."""
    elsewhere = options.flags["batch"] or options.output or options.program or options.replay
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if options.format != "table" or elsewhere or not terminal:
        return False
    from memtap.cli.screen import can_be_drawn_on

    if can_be_drawn_on():
        return True
    kind = os.environ.get("TERM", "")
    click.echo(f"memtap: note: no drawing on a terminal of kind {kind!r} (TERM): tables", err=True)
    return False
