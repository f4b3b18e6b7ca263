"""The command `memtap pmap`."""

from __future__ import annotations

from pathlib import Path

import click

from memtap.cli.arrange import AsTheyCome, Order
from memtap.cli.options import (
    SHOWING,
    Command,
    Decorator,
    Number,
    Shown,
    human_option,
    sort_column,
    sort_option,
    together,
)

_PARAMETERS: tuple[Decorator, ...] = (
    click.argument("pid", type=Number(min=1)),
    click.option("-x", "--extended", is_flag=True, help="The columns of procps' pmap -x."),
    human_option,
    sort_option,
    *SHOWING,
)


@click.command("pmap", cls=Command)
@together(*_PARAMETERS)
def command(
    pid: int,
    extended: bool,
    human: bool,
    sort: str | None,
    rows: int | None,
    format: str,
    output: Path | None,
    timestamp: bool,
    wide: bool,
    verbose: bool,
) -> None:
    """What has a process mapped, and what of that is in memory? A row per mapping.

    \b
    START    address of its first byte (--wide: END, behind its last)
    SIZE     addresses it takes
    RSS      what of it is in memory
    PSS      the same, a page that n processes map counted as 1/n
    USS      what of it nobody else maps
    DIRTY    what of it was written, so that it cannot just be dropped
    HUGETLB  huge pages of hugetlbfs in it, which are in no RSS (--wide)
    SWAP     what of it is swapped out (--wide)
    HUGE     what of it is mapped by huge pages (--wide)
    MODE     read, write, execute, shared
    REGION   what it is for, as in memtap faults: heap, stack, thread-stack,
             anon, file, shm, text, data, vdso, hugetlb
    MAPPING  its file, or the kernel's name for it

    \b
    memtap pmap $$                       this shell, by address
    sudo memtap pmap 1 -s pss -r 5       where the most memory is
    memtap pmap $$ -x                    as procps shows it
    memtap pmap $$ -f json | jq '[.rows[] | {region, rss_bytes}]'
    """
    from memtap.bpf.kernel import Kernel
    from memtap.cli.output import Printer
    from memtap.tracers.ps.pmap import pmap_columns, report

    Kernel().require_proc()
    columns = pmap_columns("human" if human else "kib", wide, extended)
    order = Order(sort_column(sort, columns, ""), rows=rows) if sort else AsTheyCome("", rows=rows)
    printer = Printer(Shown(format, output, timestamp, wide, verbose), rolling=False, order=order)
    printer.show(report(pid, columns))
