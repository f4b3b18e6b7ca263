"""What a user is told besides the numbers: that tracing has begun, and why a table is empty."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import click

from memtap.bpf.filters import COMM_BYTES
from memtap.cli.options import DEFAULT_INTERVAL_S, Options
from memtap.tracers.host.hostile import one_line
from memtap.tracers.model.report import Report


def note(text: str) -> None:
    """Prints something that the user should know, on stderr."""
    click.echo(f"memtap: note: {one_line(text)}", err=True)


def remarked(report: Report, nothing: str = "", remarks: Iterable[str] = ()) -> Report:
    """A report with remarks; one without rows also says that `nothing` was in its interval.

    If events were lost, it says that instead. A report of one look, as of `ps`, has no interval in
    which something could have happened.
    """
    remarks = tuple(remarks)
    is_empty = not report.rows and not report.goes_on
    if is_empty and report.interval_s and nothing:
        lost = report.audit["lost"]
        said = f"all that there was is lost: {lost:,}" if lost else nothing
        remarks = (f"{said} in {report.interval_s:.1f} s", *remarks)
    return replace(report, remarks=remarks)


def partial_remarks(seconds: float, interval: float) -> list[str]:
    """A remark that an interval was cut short, if it was; one without an end cannot be."""
    is_short = seconds < interval < math.inf
    return [f"a partial interval: {seconds:.1f} s of {interval:g} s"] if is_short else []


def process_called(interval: float) -> int | None:
    """The process that an interval may be meant for: one of over ten minutes can be its number."""
    number = int(interval)
    is_one = interval > 600 and number == interval and Path(f"/proc/{number}").exists()
    return number if is_one else None


def absent(comms: Sequence[str]) -> list[str]:
    """A sentence for each of these names that no process has now."""
    if not comms:
        return []
    present = set(_names())
    return [_absent(comm, present) for comm in comms if _cut(comm) not in present]


def _cut(comm: str) -> str:
    """A name as far as the kernel keeps it."""
    return os.fsencode(comm)[: COMM_BYTES - 1].decode(errors="surrogateescape")


def _absent(comm: str, present: Iterable[str]) -> str:
    near = get_close_matches(_cut(Path(comm).name), present, 1)
    hint = f"; there is {near[0]!r}" if near else ""
    return f"no process is called {comm!r}{hint}"


def _names(root: Path = Path("/")) -> Iterable[str]:
    """The names of all processes."""
    for entry in os.listdir(root / "proc"):
        if entry.isdigit():
            try:
                comm = (root / "proc" / entry / "comm").read_bytes()
            except OSError:
                continue
            yield comm.decode(errors="surrogateescape").rstrip("\n")


def compiles() -> None:
    """Says that this start takes time, as it is the first."""
    _say_on_terminal("compiling for this kernel, once, which takes some seconds")


def begun(command: str, options: Options) -> None:
    """Says that tracing has begun, and when a report comes."""
    _say_on_terminal(f"{command} traces {_traced(options)}; {_when(options)}")


def _say_on_terminal(text: str) -> None:
    """Prints on stderr if that is a terminal, and not into a file or a pipe."""
    if sys.stderr.isatty():
        click.echo(f"memtap: {one_line(text)}", err=True)


def _traced(options: Options) -> str:
    """The processes that are traced: all that is named here must be true of them."""
    kinds = [
        ("process", list(map(str, options.pids))),
        ("program", list(options.program[:1])),
        ("processes called", list(options.comms)),
        ("cgroup", list(options.cgroups)),
    ]
    return (
        ", ".join(f"{kind} {' and '.join(names)}" for kind, names in kinds if names) or "the host"
    )


def _when(options: Options) -> str:
    end = "it ends" if options.program else "Ctrl-C"
    if options.each:
        return f"a {options.each}, until {end}"
    if options.interval is None and options.program:
        return f"a report when {end}"
    every = f"{options.interval or DEFAULT_INTERVAL_S:g} s"
    if options.count is None:
        return f"a report every {every}, until {end}"
    return f"{options.count} report{'s' * (options.count > 1)}, one every {every}"
