"""A run: from options to the last report."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memtap.bpf.cache import Cache
from memtap.bpf.errors import MemtapError
from memtap.bpf.filters import Filter
from memtap.bpf.kernel import Kernel
from memtap.bpf.loading import Attempts, Request
from memtap.cli.display import make_displays
from memtap.cli.job import Job
from memtap.cli.limits import require_room
from memtap.cli.loop import Loop, Signals, Strand
from memtap.cli.options import Options
from memtap.cli.program import Program
from memtap.cli.replay import replay
from memtap.cli.telling import absent, begun, compiles, note
from memtap.tracers.host.caller import caller
from memtap.tracers.host.hostile import one_line
from memtap.tracers.live.processes import process_of
from memtap.tracers.model.tracer import filter_of

if TYPE_CHECKING:
    from memtap.tracers.live.live import Live
    from memtap.tracers.live.recording import Recorder
    from memtap.tracers.live.together import Together
    from memtap.tracers.model.chunk import Origin

# After how many new objects Python looks for cycles among the new ones; after how many such looks,
# among those that lasted; and after how many of these, among all.
_OBJECTS, _YOUNG, _OLD = 20_000, 10, 10


def run(options: Options, jobs: Sequence[Job]) -> None:
    """Carries out a tracing command; ends the process with PROGRAM's status, if there is one."""
    from memtap.cli.output import readers_of

    require_room([job.plan for job in jobs])
    flags = [flag for job in jobs for flag in job.tracer.flags]
    files = (options.file(flag.name) for flag in flags if flag.takes_file)
    with readers_of((options.output, *files)):
        if options.replay is None:
            _run(options, jobs)
        else:
            replay(options.replay, options, jobs)


def _run(options: Options, jobs: Sequence[Job]) -> None:
    kernel = Kernel()
    kernel.require_proc()
    pids = tuple(map(process_of, options.pids))
    requests = _requests(options, jobs)
    if options.dump_c:
        kernel.require_tracing()
        for request in requests:
            click.echo(request.text(kernel, next(request.plan.require(kernel))), nl=False)
        return
    status = _trace(options, jobs, requests, kernel, pids)
    if options.program:
        raise SystemExit(status)


def _requests(options: Options, jobs: Sequence[Job]) -> list[Request]:
    """What the kernel is asked for; only the first request notes cgroups and arguments."""
    kept = filter_of(jobs[0].query, options.follow, options.own)
    notes_processes = _shows_processes(options) or any(job.query.regroups for job in jobs)
    return [
        Request(job.plan, kept, job.tracer.settings(job.query), notes_processes and job is jobs[0])
        for job in jobs
    ]


def _shows_processes(options: Options) -> bool:
    """Whether cgroups or arguments of processes are shown, or recorded."""
    return (
        options.format != "table"
        or options.wide
        or options.record is not None
        or "cgroup" in options.by
    )


def _trace(
    options: Options,
    jobs: Sequence[Job],
    requests: Sequence[Request],
    kernel: Kernel,
    pids: tuple[int, ...],
) -> int:
    """Compiles, attaches, runs, reports; returns the status of PROGRAM, or 0."""
    # Forked before there are threads, and before compiling takes its time.
    program = Program(options.program) if options.program else None
    with ExitStack() as stack:
        if program:
            stack.callback(program.end)
        _say_what_is_awaited(options, requests[0].filter)
        attempts = [Attempts(request, kernel, Cache()) for request in requests]
        for each in attempts:
            stack.callback(each.abandon)
        if any(each.takes_time for each in attempts):
            compiles()
        from memtap.tracers.live.together import Together

        together = Together(kernel, [job.tracer for job in jobs])
        stack.callback(together.close)
        starting = program.pid if program else None
        for job, each in zip(jobs, attempts, strict=True):
            together.begin(each.wait(), job.tracer, job.query, pids, starting)
        if options.dry_run:
            click.echo("\n".join(_attached(live.origin) for live in together.lives))
            return 0
        if not _shows_notes(options):
            _tell(together)
        signals = Signals()  # before a display changes the terminal and has to give it back
        strands = _strands(options, jobs, together.lives, stack)
        if not any(strand.display.inputs for strand in strands):
            begun(click.get_current_context().info_name or "memtap", options)
        loop = Loop(options, together, strands, signals, pids, program)
        stack.callback(loop.close)
        _collect_seldom()
        loop.run()
    return program.status() if program else 0


def _say_what_is_awaited(options: Options, kept: Filter) -> None:
    """Says which processes and cgroups do not exist yet."""
    if not options.program:
        for absence in absent(options.comms):
            note(f"{absence}; it waits for one")
    for wanted in kept.awaited:
        note(f"there is no cgroup {wanted} yet; it waits for that")


def _tell(together: Together) -> None:
    """Says what cannot be seen, each thing once."""
    told = [text for live in together.lives for text in (*live.origin.notes, *live.notes)]
    for text in dict.fromkeys([*told, *together.processes.notes]):
        note(text)


def _strands(
    options: Options, jobs: Sequence[Job], lives: Sequence[Live], stack: ExitStack
) -> list[Strand]:
    """The strand of each job."""
    reporters = [
        job.tracer.make_reporter(live.origin, job.query)
        for job, live in zip(jobs, lives, strict=True)
    ]
    displays = make_displays(options, list(zip(jobs, reporters, strict=True)))
    for display in displays:
        stack.callback(display.close)
    recorders = list(map(_recorder, _records(options, jobs), lives))
    nothing = [job.tracer.nothing for job in jobs]
    parts = zip(lives, reporters, nothing, displays, recorders, strict=True)
    return [Strand(*part) for part in parts]


def _records(options: Options, jobs: Sequence[Job]) -> list[Path | None]:
    """Where the events of each job are recorded: a file, or one of several in a folder."""
    if options.record is None or len(jobs) == 1:
        return [options.record] * len(jobs)
    _make_folder(options.record)
    paths: list[Path | None] = [options.record / f"{job.tracer.name}.parquet" for job in jobs]
    others = sorted(path.name for path in {*options.record.glob("*.parquet")} - {*paths})
    if others:
        what = f"{options.record} holds what another run recorded: {', '.join(others)}"
        raise MemtapError(one_line(what), "name another folder, or remove that first")
    return paths


def _make_folder(path: Path) -> None:
    """Makes a folder that only its owner can read: the user who called sudo, if there is one."""
    try:
        path.mkdir(mode=0o700)
        if owner := caller():
            os.chown(path, *owner)
    except FileExistsError:
        if not path.is_dir():
            raise MemtapError(f"{path} is no folder", "name one for several recordings") from None
    except OSError as error:
        what = f"cannot record to {path}: {error.strerror}"
        raise MemtapError(what, "name another folder") from error


def _recorder(path: Path | None, live: Live) -> Recorder | None:
    if path is None:
        return None
    from memtap.tracers.live.recording import Recorder

    return Recorder(path, live.origin, live.enricher.row)


def _collect_seldom() -> None:
    """Makes Python look for cycles of garbage more seldom than after some hundred new objects.

    Where names of files and processes come in by the thousand, those looks take a third of all
    time, and find next to nothing.
    """
    gc.freeze()
    gc.set_threshold(_OBJECTS, _YOUNG, _OLD)


def _shows_notes(options: Options) -> bool:
    """Whether the reports on the terminal show the notes anyway."""
    return options.verbose and options.format == "table" and options.output is None


def _attached(origin: Origin) -> str:
    probes = "".join(f"\n  {probe}" for probe in origin.probes)
    return f"attached variant {origin.way!r}, which is {origin.accuracy}, by{probes}"
