"""A replay: the reports of what was recorded, without tracing anything."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memtap.bpf.errors import MemtapError
from memtap.cli.confined import run_confined
from memtap.cli.display import make_displays
from memtap.cli.endings import end_in_order
from memtap.cli.job import Job
from memtap.cli.options import Options
from memtap.cli.output import Display
from memtap.cli.telling import remarked
from memtap.tracers.host.hostile import one_line

if TYPE_CHECKING:
    from memtap.tracers.live.recording import Recording

# The CPU time that a replay may take: so many seconds, and one more for so many bytes. The slowest
# report takes a fifth of that.
_CPU_S, _BYTES_PER_CPU_S = 50, 64 << 10

_NO_END = "has no end: its recorder was killed, or still records. All that is there was shown"


def replay(pattern: str, options: Options, jobs: Sequence[Job]) -> None:
    """Replays recordings; in a process of its own, unless they are trusted."""
    from memtap.tracers.live.recording import TRUST, find

    paths, output = find(pattern), options.output
    if output and output.exists() and any(map(output.samefile, paths)):
        raise MemtapError(f"{output} is the recording itself", "name another file for the report")
    end_in_order()
    work = partial(_replay, pattern, paths, options, jobs)
    if options.trust:
        work()
        return
    size = sum(path.stat().st_size for path in paths if path.is_file())
    run_confined(work, pattern, _CPU_S + size // _BYTES_PER_CPU_S, TRUST)


def _replay(pattern: str, paths: list[Path], options: Options, jobs: Sequence[Job]) -> None:
    """Does one job after the other, each with the recordings that were made for its tracer."""
    from memtap.tracers.reading import by_tracer, nothing_for, own

    made = by_tracer(paths, options.trust) if len(jobs) > 1 else None
    displays: list[Display] = []
    with ExitStack() as stack:
        for number, job in enumerate(jobs):
            mine = paths if made is None else made.get(job.tracer.plan.name, [])
            _require_kept(mine, job, options.trust)
            for recording in own(job.tracer, mine, options.trust):
                if not displays:  # made only now that there is something to show
                    displays = make_displays(options, [(each, None) for each in jobs])
                    for each in displays:
                        stack.callback(each.close)
                _show(
                    recording,
                    job,
                    displays[number],
                    named=len(mine) > 1 and options.format == "table",
                )
                if displays[number].closed:
                    return
    if not displays:
        raise nothing_for([job.tracer for job in jobs], pattern, paths, options.trust)


def _show(recording: Recording, job: Job, display: Display, named: bool) -> None:
    """Shows all reports of one recording; if `named`, the first says which recording it is."""
    from memtap.tracers.reading import reports

    source = [f"recorded in {one_line(str(recording.path))}"] if named else []
    for report, interval in reports(recording, job.tracer, job.query):
        display.show(remarked(report, job.tracer.nothing, [*interval.remarks, *source]))
        source = []
        if display.closed:
            return
    if recording.was_cut_off:
        click.echo(f"memtap: note: {one_line(str(recording.path))} {_NO_END}", err=True)


def _require_kept(paths: list[Path], job: Job, trusted: bool) -> None:
    """Raises MemtapError if the recordings have events, but not what the job wants of them."""
    from memtap.tracers.reading import own

    field, what = job.tracer.kept(job.query)
    if not field:
        return
    has_rows = False
    for recording in own(job.tracer, paths, trusted):
        for chunk in recording:
            if chunk.rows[field].any():
                return
            has_rows |= len(chunk.rows) > 0
    if has_rows:
        names = " and ".join(map(str, paths))
        raise MemtapError(f"{names} has no {what}", f"record again, with --{what}")
