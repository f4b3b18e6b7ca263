"""What ends a run, and what becomes of its chunks; processes are real, tracing is made up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from memtap.bpf.errors import MemtapError
from memtap.cli.loop import _PAUSE_S, Loop, Strand
from memtap.cli.options import Options
from memtap.cli.program import Program
from memtap.tracers.live.recording import RecordingFullError
from memtap.tracers.model.chunk import Chunk
from memtap.tracers.model.report import Report
from memtap.tracers.pagecache.cachestat import Cachestat
from tests.tracers.builders import make_chunk, make_interval, make_origin, read

SHORT_S = 0.01


class Watchable:
    """See Processes: a pipe that becomes readable, and stays so."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self.readable = [self._reader]

    def write(self) -> None:
        os.write(self._writer, b"x")

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


@dataclass
class Tracing:
    """See Together, of which the loop asks this much."""

    processes: Watchable
    has_rows: bool = True
    is_full: bool = False
    patience_s: float = 60.0
    others: set[int] = field(default_factory=set)
    collected: list[tuple[bool, bool]] = field(default_factory=list)  # of an interval's end, last
    hurried: list[bool] = field(default_factory=list)
    consumed: int = 0
    enough: int = 0  # so often it is to consume
    after: Callable[[], object] = int  # what happens after a collect(), or when that is enough

    def __post_init__(self) -> None:
        self.interval_began_s = time.monotonic()
        self.readable: list[int] = []

    def begin_interval(self) -> None:
        self.interval_began_s = time.monotonic()

    def consume(self) -> None:
        self.consumed += 1
        if self.consumed == self.enough:
            self.after()

    def followed(self) -> set[int]:
        return self.others

    def collect(
        self, ends: bool, last: bool, hurries: Callable[[], bool]
    ) -> Iterator[tuple[int, Chunk]]:
        self.is_full = False
        self.collected.append((ends, last))
        self.after()
        self.hurried.append(hurries())
        interval = make_interval(seconds=SHORT_S / 2) if ends or last else None
        rows = [read(ns=len(self.collected))] if self.has_rows else []
        yield 0, make_chunk(*rows, interval=interval, last=last)


@dataclass
class Shown:
    """See Display."""

    reports: list[Report] = field(default_factory=list)
    inputs: tuple[int, ...] = ()
    closed: bool = False

    def listen(self) -> None:
        raise AssertionError("there is nothing to listen to")

    def show(self, report: Report) -> None:
        self.reports.append(report)


class Told:
    """See Signals: those that a test makes up."""

    def __init__(self) -> None:
        self._ours, self.readable = socket.socketpair()
        self.interrupts, self.terminated, self.told_s = 0, False, float("inf")

    def interrupt(self) -> None:
        self.interrupts += 1
        self._ours.send(b"x")

    def terminate(self) -> None:
        self.terminated = True
        self._ours.send(b"x")

    def listen(self) -> None:
        self.readable.recv(4096)

    def close(self) -> None:
        self._ours.close()
        self.readable.close()


@dataclass
class Live:
    """See Live: the number of times that its enricher was told what the report found out."""

    fed_back: int = 0

    @property
    def enricher(self) -> Live:
        return self

    def feedback(self, reporter: Any) -> None:
        self.fed_back += 1


@dataclass
class Run:
    """A loop and what it works with."""

    tracing: Tracing
    signals: Told
    live: Live = field(default_factory=Live)
    shown: Shown = field(default_factory=Shown)
    recorder: Any = None

    def go(self, pids: tuple[int, ...] = (), program: Program | None = None, **asked: Any) -> None:
        options = Options("table", None, False, False, False, None, False, None, {}, **asked)
        reporter = Cachestat(make_origin())
        self.strand = Strand(self.live, reporter, "nothing", self.shown, self.recorder)  # type: ignore[arg-type]
        loop = Loop(options, self.tracing, [self.strand], self.signals, pids, program)  # type: ignore[arg-type]
        loop.run()
        loop.close()

    @property
    def remarks(self) -> list[tuple[str, ...]]:
        return [report.remarks for report in self.shown.reports]


@pytest.fixture
def run() -> Iterator[Run]:
    before = signal.getsignal(signal.SIGPROF)
    pipe, signals = Watchable(), Told()
    yield Run(Tracing(pipe), signals)
    pipe.close()
    signals.close()
    signal.signal(signal.SIGPROF, before)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as started:
        yield started
        started.kill()


def test_count_ends_a_run_and_the_last_chunk_is_told_so(run: Run) -> None:
    run.go(interval=SHORT_S, count=3)
    assert run.tracing.collected == [(True, False), (True, False), (True, True)]
    assert len(run.shown.reports) == 3
    assert run.live.fed_back == 2
    assert run.remarks == [()] * 3


def test_a_signal_ends_a_run_with_a_report_of_a_part(run: Run) -> None:
    run.signals.terminate()
    run.go(interval=60)
    assert run.tracing.collected == [(True, True)]
    assert run.remarks == [("a partial interval: 0.0 s of 60 s",)]


def test_ctrl_c_ends_a_run_without_a_program(run: Run) -> None:
    run.signals.interrupt()
    run.go(interval=60)
    assert run.tracing.collected == [(True, True)]


@pytest.mark.parametrize(
    ("interrupts", "terminated", "told_ago_s", "hurries"),
    [
        (1, False, 1, False),  # a user waits for what was traced
        (1, False, 6, True),
        (2, False, 1, True),
        (0, True, 1, True),
        (0, True, 0, False),
    ],
)
def test_work_is_given_up_sooner_for_others_than_for_who_pressed_ctrl_c(
    run: Run, interrupts: int, terminated: bool, told_ago_s: int, hurries: bool
) -> None:
    run.signals.interrupts, run.signals.terminated = interrupts, terminated
    run.signals.told_s = time.monotonic() - told_ago_s
    run.go(interval=60)
    assert run.tracing.hurried == [hurries]


def test_ctrl_c_is_left_to_the_program_the_first_time(run: Run) -> None:
    program = Program(("sleep", "60"))
    try:
        run.signals.interrupt()
        run.tracing.is_full = True
        run.tracing.after = run.signals.interrupt
        run.go(program=program)
        assert not program.has_ended()
    finally:
        program.end()
        program.status()
    assert run.tracing.collected == [(False, False), (True, True)]


def test_a_run_ends_with_its_program(run: Run) -> None:
    program = Program(("true",))
    run.go(program=program)
    assert program.status() == 0
    assert run.tracing.collected[-1] == (True, True)
    assert run.remarks == [()]


def test_an_interval_begins_with_the_program_and_not_with_the_first_of_the_tracers(
    run: Run,
) -> None:
    before = run.tracing.interval_began_s = time.monotonic()
    run.go(program=Program(("true",)))
    assert run.tracing.interval_began_s > before


def test_a_run_ends_with_its_targets(run: Run, child: subprocess.Popen[bytes]) -> None:
    run.tracing.processes.write()
    run.tracing.is_full, run.tracing.after = True, child.kill
    run.tracing.has_rows = False
    run.go(pids=(child.pid,), interval=60)
    assert run.tracing.collected[-1] == (True, True)
    assert run.remarks[0][0] == f"process {child.pid} ended"


def test_a_run_lasts_as_long_as_a_child_of_its_targets(
    run: Run, child: subprocess.Popen[bytes]
) -> None:
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    run.tracing.others = {child.pid, os.getpid()}
    run.go(pids=(child.pid,), interval=SHORT_S, count=2)
    assert run.tracing.collected == [(True, False), (True, True)]


def test_a_target_that_is_gone_is_an_error(run: Run, child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    with pytest.raises(MemtapError, match=f"process {child.pid} is gone"):
        run.go(pids=(child.pid,))


def test_a_reader_that_left_ends_a_run(run: Run) -> None:
    run.shown.closed = True
    run.go()
    assert run.tracing.collected == [(True, True)]


def test_events_are_taken_in_when_nothing_wakes_the_loop(run: Run) -> None:
    run.tracing.patience_s = SHORT_S / 10
    run.tracing.enough, run.tracing.after = 2, run.signals.terminate
    run.go(interval=5, count=1)
    assert run.tracing.collected == [(True, True)]


def test_processes_are_not_listened_to_all_the_time(run: Run) -> None:
    run.tracing.processes.write()
    run.tracing.enough, run.tracing.after = 6, run.signals.terminate
    began = time.monotonic()
    run.go(interval=5, count=1)
    assert time.monotonic() - began >= 2 * _PAUSE_S
    assert run.tracing.collected == [(True, True)]


class Full:
    """A recorder on a file system that is full."""

    closed = False

    def write(self, chunk: Chunk) -> None:
        raise RecordingFullError("no room", "make some")

    def close(self) -> None:
        self.closed = True


def test_a_recording_that_is_full_ends_alone(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.recorder = Full()
    run.go(interval=SHORT_S, count=2)
    assert len(run.shown.reports) == 2
    assert capsys.readouterr().err == "memtap: no room; make some\n"
    assert run.strand.recorder is None
