"""A run: from options to the last report."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memtap.bpf.cache import Cache
from memtap.bpf.errors import MemtapError
from memtap.bpf.filters import Filter, own_tgid
from memtap.bpf.kernel import Kernel
from memtap.bpf.loading import Attempts, Request
from memtap.bpf.plan import Plan
from memtap.cli.arrange import Order
from memtap.cli.confined import run_confined
from memtap.cli.display import make_display
from memtap.cli.endings import end_in_order
from memtap.cli.limits import require_room
from memtap.cli.loop import Display, Loop, Signals
from memtap.cli.options import Options
from memtap.cli.program import Program
from memtap.cli.telling import absent, begun, compiles, note, remarked
from memtap.tracers import reports_of
from memtap.tracers.host.hostile import one_line
from memtap.tracers.live.processes import process_of
from memtap.tracers.model.tracer import Query, Reporter, Tracer

if TYPE_CHECKING:
    from memtap.tracers.live.recording import Recording
    from memtap.tracers.model.chunk import Chunk, Origin


# What a replay may take of a CPU: so many seconds, and one more for so many bytes. The slowest
# report takes a fifth of that.
_CPU_S, _BYTES_PER_CPU_S = 50, 64 << 10


# After so many more objects Python looks for cycles among the new ones; after so many times among
# those that lasted, and after so many of these among all.
_OBJECTS, _YOUNG, _OLD = 20_000, 10, 10

_NO_END = "has no end: its recorder was killed, or still records. All that is there was shown"


@dataclass(frozen=True)
class Job:
    """What one tracer is asked, and how its reports are to be shown.

    Attributes:
        tracer: whom.
        query: what.
        order: of rows.
    """

    tracer: Tracer
    query: Query
    order: Order

    @property
    def plan(self) -> Plan:
        """By which it is attached."""
        return self.tracer.plan_of(self.query)

    def reporter(self, origin: Origin) -> Reporter:
        """What makes its reports."""
        return self.tracer.make_reporter(origin, self.query)

    def display(self, options: Options, reporter: Reporter) -> Display:
        """Where they are shown."""
        return make_display(self.tracer, self.query, options, self.order, reporter)


def run(options: Options, job: Job) -> None:
    """Carries out a tracing command; ends the process with PROGRAM's status, if there is one."""
    from memtap.cli.output import readers_of

    require_room(job.plan)
    files = (options.file(flag.name) for flag in job.tracer.flags if flag.takes_file)
    with readers_of((options.output, *files)):
        _run(options, job)


def _run(options: Options, job: Job) -> None:
    if options.replay is not None:
        _replay_any(options.replay, options, job)
        return
    kernel = Kernel()
    kernel.require_proc()
    pids = tuple(map(process_of, options.pids))
    notes_who = _shows_who(options) or job.query.regroups
    settings = job.tracer.settings(job.query)
    request = Request(job.plan, _filter(options, pids), settings, notes_who)
    if options.dump_c:
        kernel.require_tracing()
        click.echo(request.text(kernel, next(request.plan.require(kernel))), nl=False)
        return
    status = _trace(options, job, request, kernel, pids)
    if options.program:
        raise SystemExit(status)


def _shows_who(options: Options) -> bool:
    """Whether cgroups or arguments of processes are shown, or recorded."""
    return (
        options.format != "table"
        or options.wide
        or options.record is not None
        or "cgroup" in options.by
    )


def _filter(options: Options, pids: tuple[int, ...]) -> Filter:
    return Filter(
        by_tgid=bool(pids or options.program),
        starts=bool(options.program),
        own=0 if pids or options.program or options.own else own_tgid(),
        follow=options.follow,
        comms=options.comms,
        cgroups=options.cgroups,
    )


def _replay_any(pattern: str, options: Options, job: Job) -> None:
    """Replays what somebody has recorded; in a process of its own, unless that is trusted."""
    from memtap.tracers.live.recording import TRUST, find

    paths, output = find(pattern), options.output
    if output and output.exists() and any(map(output.samefile, paths)):
        raise MemtapError(f"{output} is the recording itself", "name another file for the report")
    end_in_order()
    replay = partial(_replay, paths, options, job)
    if options.trust:
        replay()
        return
    size = sum(path.stat().st_size for path in paths if path.is_file())
    run_confined(replay, pattern, _CPU_S + size // _BYTES_PER_CPU_S, TRUST)


def _replay(paths: list[Path], options: Options, job: Job) -> None:
    trusted, nothing = options.trust, job.tracer.nothing
    _require_kept(paths, job, trusted)
    with ExitStack() as stack:
        display: Display | None = None
        for path in paths:
            recording = _recording_of(path, job.tracer, trusted)
            reporter = job.reporter(recording.origin)
            if display is None:
                display = job.display(options, reporter)
                stack.callback(display.close)
            for chunk in _chunks(recording, job.tracer):
                report = reporter.feed(chunk)
                if report and chunk.interval:
                    display.show(remarked(report, nothing, chunk.interval.remarks))
                if display.closed:
                    return
            if recording.was_cut_off:
                click.echo(f"memtap: note: {one_line(str(path))} {_NO_END}", err=True)


def _require_kept(paths: list[Path], job: Job, trusted: bool) -> None:
    """MemtapError if none of the recordings kept what the job wants, though events are there."""
    field, what = job.tracer.kept(job.query)
    if not field:
        return
    has_rows = False
    for path in paths:
        for chunk in _recording_of(path, job.tracer, trusted):
            if chunk.rows[field].any():
                return
            has_rows |= len(chunk.rows) > 0
    if has_rows:
        names = " and ".join(map(str, paths))
        raise MemtapError(f"{names} has no {what}", f"record again, with --{what}")


def _recording_of(path: Path, tracer: Tracer, trusted: bool) -> Recording:
    from memtap.tracers.live.recording import Recording

    recording = Recording(path, trusted)
    if recording.origin.tracer != tracer.plan.name:
        commands = [f"memtap {each.name}" for each in reports_of(recording.origin.tracer)]
        what = f"{path} is a recording of another report"
        raise MemtapError(what, f"it can be shown by {' and '.join(commands)}")
    recording.require(tracer.row().dtype)
    return recording


def _chunks(recording: Recording, tracer: Tracer) -> Iterator[Chunk]:
    """What was recorded, if all of it can have been."""
    from memtap.tracers.live.rows import Checked

    checked = Checked(tracer.row())
    for chunk in recording:
        try:
            checked.look(chunk.rows)
        except ValueError as error:
            what = f"cannot read {recording.path}: it contradicts itself ({error})"
            raise MemtapError(what, "it is damaged, or was not recorded by memtap") from error
        yield chunk


def _trace(
    options: Options, job: Job, request: Request, kernel: Kernel, pids: tuple[int, ...]
) -> int:
    """Compiles, attaches, runs, reports; the status of PROGRAM, or 0."""
    # Forked before there are threads, and before compiling takes its time.
    program = Program(options.program) if options.program else None
    with ExitStack() as stack:
        if program:
            stack.callback(program.end)
        else:
            for absence in absent(options.comms):
                note(f"{absence}; it waits for one")
        for wanted in request.filter.awaited:
            note(f"there is no cgroup {wanted} yet; it waits for that")
        attempts = Attempts(request, kernel, Cache())
        stack.callback(attempts.abandon)
        if attempts.takes_time:
            compiles()
        from memtap.tracers.live.live import Live
        from memtap.tracers.live.processes import Processes

        processes = Processes(kernel.btf, kernel.possible_cpus, job.tracer.exit_record)
        stack.callback(processes.close)
        starting = program.pid if program else None
        live = Live(
            attempts.wait(),
            kernel,
            processes,
            lambda session: job.tracer.make_enricher(session, job.query),
            pids,
            job.tracer.counters,
            starting,
            job.tracer.names_threads(job.query),
        )
        stack.callback(live.close)
        if options.dry_run:
            click.echo(_attached(live.origin))
            return 0
        if not _shows_notes(options):
            for each in (*live.origin.notes, *live.notes, *processes.notes):
                note(each)
        reporter = job.reporter(live.origin)
        signals = Signals()  # before a display changes the terminal, which then must be given back
        display = job.display(options, reporter)
        stack.callback(display.close)
        if not display.inputs:
            begun(click.get_current_context().info_name or "memtap", options)
        loop = Loop(options, live, reporter, job.tracer.nothing, display, signals, pids, program)
        stack.callback(loop.close)
        _collect_seldom()
        loop.run()
    return program.status() if program else 0


def _collect_seldom() -> None:
    """Python looks for cycles of garbage whenever some hundred objects were made.

    Where names of files and processes come in by the thousand that takes a third of all time, and
    finds next to nothing.
    """
    gc.freeze()
    gc.set_threshold(_OBJECTS, _YOUNG, _OLD)


def _shows_notes(options: Options) -> bool:
    """Whether the reports show them to the same person."""
    return options.verbose and options.format == "table" and options.output is None


def _attached(origin: Origin) -> str:
    probes = "".join(f"\n  {probe}" for probe in origin.probes)
    return f"attached the way {origin.way!r}, which is {origin.accuracy}, by{probes}"
