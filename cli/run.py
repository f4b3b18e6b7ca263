"""The command `memtap run`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from memtap.cli.command import order_of, query_of
from memtap.cli.job import Job
from memtap.cli.options import (
    INSIDE,
    INTERVAL_AND_COUNT,
    PROCESSES,
    RECORDING,
    SHOWING,
    Decorator,
    Options,
    TracingCommand,
    check,
    keys_out_of,
    last_of,
    together,
)
from memtap.cli.tracing import run
from memtap.tracers import NAMES, load, readers

_USUAL = ("faults", "malloc", "cachetop", "reclaim")
_KNOWN: dict[str, tuple[()]] = dict.fromkeys(NAMES, ())

_PARAMETERS: tuple[Decorator, ...] = (
    *INTERVAL_AND_COUNT,
    click.option(
        "-t",
        "--tracers",
        type=keys_out_of(_KNOWN),
        shell_complete=last_of(_KNOWN),
        metavar="NAME[,NAME]",
        help=f"Any of: {', '.join(NAMES)}.  [default: {','.join(_USUAL)}; with --from, all "
        "that was recorded]",
    ),
    *PROCESSES,
    *SHOWING,
    *RECORDING,
    *INSIDE,
)


@click.command("run", cls=TracingCommand)
@together(*_PARAMETERS)
def command(tracers: tuple[str, ...] | None, **values: Any) -> None:
    """What does a program do with memory? Its reports by several tracers, out of one run.

    They follow each other when PROGRAM has ended, or at the end of each INTERVAL, in the order in
    which they are named. Each has the audit that it has alone. Without PROGRAM it is the host, or
    what -p, -c and --cgroup choose. --record keeps the events of each in a file in a folder.

    \b
    memtap run -- ./app                       faults, malloc, page cache, reclaim
    memtap run -t faults,slab -- ./app        what the program and the kernel take
    memtap run -t cachestat,reclaim 5         the host, every 5 seconds
    memtap run --record DIR -- ./app          and keep it all
    memtap run --from DIR                     look at it again
    """
    options = Options(**values, sort=None, reverse=False, flags={})
    check(options)
    tracers = tracers or (_USUAL if options.replay is None else tuple(readers().values()))
    if options.format == "csv" and len(tracers) > 1:
        raise click.UsageError("CSV has one header: name one tracer, or choose --format json")
    run(options, [_job(name, options) for name in tracers])


def _job(name: str, options: Options) -> Job:
    """The job of a tracer of which only the name is given."""
    tracer = load(name)
    interval_s = options.interval or 1.0
    query = replace(query_of(tracer, options), interval_s=interval_s, regroups=False)
    return Job(tracer, query, order_of(tracer, query, options.rows))
