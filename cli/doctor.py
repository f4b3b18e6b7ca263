"""The command `memtap doctor`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memtap.cli.options import Command, format_option, output_option, verbose_option

if TYPE_CHECKING:
    from memtap.cli.render import Look
    from memtap.tracers.doctor import Diagnosis
    from memtap.tracers.model.report import Row


@click.command("doctor", cls=Command)
@format_option
@output_option
@verbose_option
def command(format: str, output: Path | None, verbose: bool) -> None:
    """What can this host trace, by which probes, how exactly, and what to do for more?

    The probes of every report are loaded and attached for a moment, and compiled if they were not
    before, so this needs root and takes some seconds. The exit status is 0 if every report can run,
    whatever its options, else 1.

    \b
    ACCURACY  exact: each event counted once; bounded, estimated: see the
              report's notes (-v); none: the report cannot run here
    VARIANT   the best of the report's ways to see its events that works;
              below it what a better one lacks, or that the kernel refused
              it, and with which last word
    PROBES    how many places in the kernel it attaches to (-v lists them)

    \b
    sudo memtap doctor
    sudo memtap doctor --format json | jq '.rows[] | {report, accuracy, missing}'
    """
    from memtap.bpf.kernel import Kernel
    from memtap.cli.output import is_styled, open_output, write
    from memtap.cli.render import Look

    stream = open_output(output)
    kernel = Kernel()
    kernel.require_proc()
    # Imported only now: what tracers ask of the kernel depends on /proc.
    from memtap.tracers.doctor import diagnose, to_dict

    diagnosis = diagnose(kernel)
    if format == "json":
        text = json.dumps(to_dict(diagnosis)) + "\n"
    elif format == "csv":
        text = _csv(diagnosis.rows)
    else:
        look = Look(styled=is_styled(stream))
        text = "".join(f"{line}\n" for line in _table(diagnosis, verbose, look))
    write(stream, text)
    raise SystemExit(0 if diagnosis.all_run else 1)


def _csv(rows: Sequence[Row]) -> str:
    """One line per report; semicolons separate what is a list in JSON."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow("; ".join(v) if isinstance(v, list) else v for v in row.values())
    return text.getvalue()


def _table(diagnosis: Diagnosis, verbose: bool, look: Look) -> Iterator[str]:
    """A line per report and a line per fact; below each, what is amiss and what to do."""
    wide = max(7, *(len(row["way"] or "-") for row in diagnosis.rows)) + 2
    yield look.heading(f"{'REPORT':<12}{'ACCURACY':<12}{'VARIANT':<{wide}}PROBES")
    for row in diagnosis.rows:
        accuracy = row["accuracy"] or "none"
        line = f"{row['report']:<12}{accuracy:<12}{row['way'] or '-':<{wide}}{len(row['probes'])}"
        yield line if accuracy == "exact" else look.warning(line)
        if verbose:
            yield from (f"    {probe}" for probe in row["probes"])
        yield from (f"    missing: {missing}" for missing in row["missing"])
        yield from (f"    note: {note}" for note in row["notes"])
        if row["todo"]:
            yield f"    to do: {row['todo']}"
    yield ""
    yield look.heading(f"{'HOST':<18}STATE")
    for fact in diagnosis.host:
        line = f"{fact.name:<18}{fact.state}"
        yield look.warning(line) if fact.todo else line
        if fact.todo:
            yield f"    to do: {fact.todo}"
