"""The loop of a live run: waits, collects, reports, until something ends it."""

from __future__ import annotations

import math
import os
import select
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import click

from memtap.bpf.errors import MemtapError
from memtap.cli.endings import OutOfTime, end_undisturbed, note_endings, told_s, undisturbed
from memtap.cli.options import DEFAULT_INTERVAL_S, Options
from memtap.cli.program import Program
from memtap.cli.telling import absent, note, partial_remarks, remarked

if TYPE_CHECKING:
    from memtap.cli.output import Display
    from memtap.tracers.live.live import Live
    from memtap.tracers.live.recording import Recorder
    from memtap.tracers.live.together import Together
    from memtap.tracers.model.chunk import Chunk
    from memtap.tracers.model.tracer import Reporter

# How often events are taken in, however long an interval is, so that memory stays small.
TICK_S = 1.0

# How often messages about processes are read, at most: to wake up for each birth and end costs more
# than they are worth. The kernel keeps some ten thousand messages meanwhile.
_PAUSE_S = 0.05

# When we are told to end, work that is not done in this time is given up. A user who pressed Ctrl-C
# can press it once more; the sender of another signal may kill us soon.
_PATIENCE_S, _OF_CTRL_C_S = 0.2, 5.0


class Signals:
    """Signals that end a run, as something to wait for; they are noted once this is made."""

    def __init__(self) -> None:
        self._ours, self.readable = socket.socketpair()
        self._ours.setblocking(False)
        self.readable.setblocking(False)
        signal.set_wakeup_fd(self._ours.fileno(), warn_on_full_buffer=False)
        self._noted = note_endings()

    @property
    def interrupts(self) -> int:
        """How often Ctrl-C was pressed."""
        return self._noted.count(signal.SIGINT)

    @property
    def terminated(self) -> bool:
        """Whether another signal came."""
        return len(self._noted) > self.interrupts

    @property
    def told_s(self) -> float:
        """When the last signal came; infinity if none did."""
        return told_s()

    def listen(self) -> None:
        """Empties the socket; the handler has run by then."""
        self.readable.recv(4096)


@dataclass
class Strand:
    """What becomes of the events of one tracer of a run.

    Attributes:
        live: where they come from.
        reporter: what makes reports of them.
        nothing: what a report without rows says did not happen.
        display: where reports are shown.
        recorder: where events are recorded; None if they are not.
        has_rows: whether rows have come in since the last report.
    """

    live: Live
    reporter: Reporter
    nothing: str
    display: Display
    recorder: Recorder | None = None
    has_rows: bool = False


class Loop:
    """One live run, of one tracer or several."""

    def __init__(
        self,
        options: Options,
        together: Together,
        strands: Sequence[Strand],
        signals: Signals,
        pids: Sequence[int],
        program: Program | None,
    ) -> None:
        self._together, self._strands = together, strands
        self._program = program
        self._pidfds = {pid: _pidfd(pid) for pid in pids}
        self._interval = options.interval or (math.inf if program else DEFAULT_INTERVAL_S)
        self._reports_left = options.count or math.inf
        self._options = options
        self._signals = signals
        self._selector = selectors.DefaultSelector()
        self._deaf_until = math.inf  # when processes are listened to again, if they are not
        self._watch(together.readable, together.consume)
        self._watch(together.processes.readable, self._hear)
        for strand in strands:
            self._watch(strand.display.inputs, strand.display.listen)
        self._watch([self._signals.readable.fileno()], self._signals.listen)
        for pidfd in (*self._pidfds.values(), *([program.pidfd] if program else [])):
            self._watch([pidfd], partial(self._unwatch, pidfd))

    def _watch(self, descriptors: Sequence[int], react: Callable[[], None]) -> None:
        for descriptor in descriptors:
            self._selector.register(descriptor, selectors.EVENT_READ, react)

    def _unwatch(self, pidfd: int) -> None:
        """A pidfd stays readable, so it may wake the loop only once, which then checks for ends."""
        self._selector.unregister(pidfd)

    def _hear(self) -> None:
        """Takes in messages about processes, and then does not listen to them for a while."""
        self._together.consume()
        if math.isinf(self._deaf_until):
            self._deaf_until = time.monotonic() + _PAUSE_S
            for descriptor in self._together.processes.readable:
                self._selector.unregister(descriptor)

    def _listen(self) -> None:
        """Listens to messages about processes again, if it is time."""
        if time.monotonic() >= self._deaf_until:
            self._deaf_until = math.inf
            self._watch(self._together.processes.readable, self._hear)

    def run(self) -> None:
        """Runs until COUNT reports, a signal, or the end of PROGRAM, the targets or the reader."""
        try:
            try:
                self._run()
            finally:
                end_undisturbed()  # or the next message could be broken off as well
        except OutOfTime:
            end_undisturbed()  # it may have been raised just before that was done
            note("a last report would have taken too long: it was not made")

    def _run(self) -> None:
        if self._program:
            self._together.begin_interval()  # other tracers may have been compiling until now
            self._program.go()
        end = self._together.interval_began_s + self._interval
        while True:
            self._wait(min(end, time.monotonic() + TICK_S))
            ends = time.monotonic() >= end
            self._reports_left -= ends
            last = self._is_over() or self._reports_left < 1
            for number, chunk in self._together.collect(ends or last, last, self._hurries):
                strand = self._strands[number]
                self._handle(strand, self._remarked(strand, chunk, partial=not ends))
            if last:
                return
            if ends:
                end = max(end + self._interval, time.monotonic())

    def _wait(self, until: float) -> None:
        while not self._is_over():
            left = until - time.monotonic()
            if left <= 0:
                return
            self._listen()
            pause = max(self._deaf_until - time.monotonic(), 0)
            ready = self._selector.select(min(left, self._together.patience_s, pause))
            for key, _ in ready:
                key.data()
            if not ready:
                self._together.consume()
            if self._together.is_full:
                return

    def _is_over(self) -> bool:
        if any(strand.display.closed for strand in self._strands) or self._is_told_to_end():
            return True
        return self._program.has_ended() if self._program else self._targets_are_gone()

    def _is_told_to_end(self) -> bool:
        """Whether by a signal. Ctrl-C reaches PROGRAM too, which may want to end in its own way."""
        return self._signals.terminated or self._signals.interrupts > bool(self._program)

    def _hurries(self) -> bool:
        """Whether we were told to end some time ago, and there is still work."""
        if not self._is_told_to_end():
            return False
        signals = self._signals
        is_urged = signals.terminated or signals.interrupts > 1 + bool(self._program)
        return time.monotonic() > signals.told_s + (_PATIENCE_S if is_urged else _OF_CTRL_C_S)

    def _targets_are_gone(self) -> bool:
        if not self._pidfds or not all(map(_is_dead, self._pidfds.values())):
            return False
        return not self._together.followed() - set(self._pidfds)

    def _remarked(self, strand: Strand, chunk: Chunk, partial: bool) -> Chunk:
        """With what there is to say of an interval that ends with this chunk."""
        strand.has_rows |= len(chunk.rows) > 0
        if chunk.interval is None:
            return chunk
        remarks = [] if strand.has_rows or self._program else self._reasons()
        if partial and not self._options.each:
            remarks += partial_remarks(chunk.interval.seconds, self._interval)
        strand.has_rows = False
        return replace(chunk, interval=replace(chunk.interval, remarks=tuple(remarks)))

    def _reasons(self) -> list[str]:
        """Why nothing came in, as far as can be seen."""
        ended = [str(pid) for pid, pidfd in self._pidfds.items() if _is_dead(pidfd)]
        gone = [f"process {' and '.join(ended)} ended"] if ended else []
        return gone + absent(self._options.comms)

    def _handle(self, strand: Strand, chunk: Chunk) -> None:
        if strand.recorder:
            with undisturbed():
                _keep(strand, strand.recorder, chunk)
        report = strand.reporter.feed(chunk)
        if not chunk.last:
            strand.live.enricher.feedback(strand.reporter)
        if report and chunk.interval:
            with undisturbed():
                strand.display.show(remarked(report, strand.nothing, chunk.interval.remarks))

    def close(self) -> None:
        """Ends the recordings."""
        for strand in self._strands:
            if strand.recorder:
                strand.recorder.close()
        self._selector.close()


def _keep(strand: Strand, recorder: Recorder, chunk: Chunk) -> None:
    from memtap.tracers.live.recording import RecordingFullError

    try:
        recorder.write(chunk)
    except RecordingFullError as full:
        click.echo(f"memtap: {full.what}; {full.hint}", err=True)
        strand.recorder = None


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise MemtapError(f"process {pid} is gone", "ps -e lists those that there are") from error


def _is_dead(pidfd: int) -> bool:
    """A pidfd becomes readable when its process ends."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
