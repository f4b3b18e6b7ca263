"""The command `memtap ps`."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from memtap.cli.arrange import Order, Tree
from memtap.cli.options import (
    INTERVAL_AND_COUNT,
    SHOWING,
    Command,
    Decorator,
    Shown,
    by_option,
    comm_option,
    human_option,
    pid_option,
    sort_column,
    sort_option,
    together,
)
from memtap.tracers.model.report import Column, Kind
from memtap.tracers.ps.report import PS_KEYS, Ps, ps_columns, unread_note
from memtap.tracers.ps.snapshot import Reader, Whom

if TYPE_CHECKING:
    from memtap.cli.output import Printer

_PARAMETERS: tuple[Decorator, ...] = (
    *INTERVAL_AND_COUNT,
    pid_option("this process"),
    comm_option,
    by_option(PS_KEYS),
    click.option("--tree", is_flag=True, help="Processes below their parents."),
    human_option,
    sort_option,
    *SHOWING,
)


@dataclass(frozen=True)
class Options(Shown):
    """What the user asked for; see _PARAMETERS for what the fields mean."""

    interval: float | None
    count: int | None
    pids: tuple[int, ...]
    comms: tuple[str, ...]
    by: tuple[str, ...]
    tree: bool
    human: bool
    sort: str | None
    rows: int | None


@click.command("ps", cls=Command)
@together(*_PARAMETERS)
def command(**values: Any) -> None:
    """How much memory does every process take? Largest PSS first; root sees all of it.

    Without INTERVAL, what there is now. With it (seconds), a table at the end of each interval of
    what changed in it: sizes that grew (+) or shrank (-), and the faults taken; processes where
    nothing changed are left out. Unlike vmstat's, numbers are not per second, and no first table
    tells of the time since boot.

    Kernel threads and zombies have no memory of their own and are left out, unless --pid asks for
    them. A process goes on, and is shown, while any of its threads does.

    \b
    VIRT      addresses in use, whether or not there is memory behind them
    RES       what is in memory (RSS); shared pages count in full in each
              process, so this cannot be added up
    SHR       of RES, pages of files and shared memory
    PSS       a page that n processes map counts as 1/n; this adds up
    USS       what nobody else maps: what would be free if it ended
    HUGETLB   huge pages of hugetlbfs, in full in each process that maps
              them; in no column before but USS
    SWAP      what is swapped out; shared by n processes counts as 1/n, and so
              this adds up
    PGTABLES  its page tables
    MINOR     page faults since it began that were answered from memory
    MAJOR     page faults since it began that had to wait for storage
    OOM       how likely the OOM killer takes it (0 to 2000)
    OOM_ADJ   what its owner adds to that (-1000 to 1000)
    PROCS     how many processes are in the row (with --by)

    \b
    sudo memtap ps -r 10               the ten largest by PSS
    sudo memtap ps -k -s swap --wide   who is swapped out
    sudo memtap ps -b user,comm        sums by user and program
    sudo memtap ps 5 12 -s uss         who grows, every 5 s for a minute
    memtap ps --tree -k                children below their parents
    memtap ps -p $$ -f json            one process, for scripts
    """
    options = Options(**values)
    if options.tree and options.by != ("process",):
        raise click.UsageError("--tree shows processes; it cannot be grouped by something else")
    kind: Kind = "human" if options.human else "kib"
    columns = ps_columns(options.by, kind, options.interval is not None, options.tree)
    order = Tree if options.tree else Order
    _run(
        options, columns, order(sort_column(options.sort, columns, "pss_bytes"), rows=options.rows)
    )


def _run(options: Options, columns: tuple[Column, ...], order: Order) -> None:
    """Looks once, or at the end of each interval."""
    from memtap.bpf.kernel import Kernel
    from memtap.cli.output import Printer
    from memtap.cli.telling import absent, remarked
    from memtap.tracers.live.processes import process_of

    Kernel().require_proc()
    pids = tuple(dict.fromkeys(map(process_of, options.pids)))
    reader = Reader(Whom(pids, options.comms, cgroups="cgroup" in options.by))
    reports = Ps(options.by, columns)
    printer = Printer(options, rolling=False, order=order)
    if options.interval is None:
        seen = reader.look()
        _warn(seen.unread)
        printer.show(remarked(reports.report(seen), remarks=absent(options.comms)))
    else:
        _follow(reader, reports, printer, options)


def _follow(reader: Reader, reports: Ps, printer: Printer, options: Options) -> None:
    """Until COUNT reports are out, or a signal, or the reader's end."""
    from memtap.cli.pace import pace
    from memtap.cli.telling import absent, partial_remarks, remarked

    interval, count = options.interval or math.inf, options.count or math.inf
    with pace() as is_told_to_end:
        before = reader.look()
        _warn(before.unread)
        end = before.at_s
        while count > 0 and not printer.closed:
            end = max(end + interval, time.monotonic())
            is_cut = is_told_to_end(end)
            count = 0 if is_cut else count - 1
            seen = reader.look()
            span = seen.at_s - before.at_s
            remarks = partial_remarks(span, interval) if is_cut else []
            remarks += absent(options.comms)
            printer.show(remarked(reports.change(before, seen), "nothing changed", remarks))
            if reader.whom.pids and not any(row["virt_bytes"] for row in seen.rows):
                return  # all that were asked for have ended, though they may still be zombies
            before = seen


def _warn(unread: int) -> None:
    if unread:
        hint = "; run it with sudo" if os.geteuid() else ""
        click.echo(f"memtap: note: {unread_note(unread)}{hint}", err=True)
