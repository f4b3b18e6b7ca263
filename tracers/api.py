"""Tracing from Python: for notebooks and scripts.

    import memtap

    with memtap.trace("faults", by=("process", "cause"), pid=1234) as trace:
        for report in trace.reports(interval=1, count=5):
            print(report.frame())

    for report in memtap.read("recording.parquet"):
        print(report.frame(), report.audit["accuracy"])

Nothing global is changed: no signal handler, no setting of the interpreter. Several traces can run
at once, each in its own thread. The end of the `with` block ends the tracing, also when an
exception (such as Ctrl-C) ends the block.
"""

from __future__ import annotations

import math
import selectors
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from memtap.bpf.cache import Cache
from memtap.bpf.errors import MemtapError
from memtap.bpf.filters import Filter
from memtap.bpf.kernel import Kernel
from memtap.bpf.loading import Attempts, Request
from memtap.tracers import NAMES, load, readers, reading
from memtap.tracers.live.processes import process_of
from memtap.tracers.live.recording import Recorder, Recording, find
from memtap.tracers.live.together import Together
from memtap.tracers.model.chunk import Chunk
from memtap.tracers.model.report import Report
from memtap.tracers.model.tracer import Query, Tracer, filter_of

Some = int | Sequence[int]
Names = str | Sequence[str]

# Events are read from the buffers this often, however long an interval is, so that no buffer
# overflows.
_TICK_S = 1.0


class Trace:
    """A running trace; `trace()` begins one.

    Attributes:
        tracer: the tracer.
        notes: what cannot be seen on this host.
    """

    def __init__(self, tracer: Tracer, query: Query, kept: Filter, record: Path | None) -> None:
        """Compiles and attaches, which takes some seconds the first time.

        Raises MemtapError where this host, or this user, cannot trace.
        """
        self.tracer = tracer
        with ExitStack() as stack:
            kernel = Kernel()
            request = Request(tracer.plan_of(query), kept, tracer.settings(query))
            attempts = Attempts(request, kernel, Cache())
            stack.callback(attempts.abandon)
            self._together = Together(kernel, [tracer])
            stack.callback(self._together.close)
            live = self._together.begin(attempts.wait(), tracer, query, query.pids)
            self._live, self._reporter = live, tracer.make_reporter(live.origin, query)
            self._recorder = Recorder(record, live.origin, live.enricher.row) if record else None
            if self._recorder:
                stack.callback(self._recorder.close)
            self._stack = stack.pop_all()
        self.notes = (*live.origin.notes, *live.notes, *self._together.processes.notes)

    def reports(self, interval: float = 1.0, count: int | None = None) -> Iterator[Report]:
        """A report after each `interval` seconds, `count` times or until the caller stops.

        If your code takes long over a report, choose a long interval. The kernel buffers some
        hundred thousand events meanwhile, and the audit says how many were lost.
        """
        left = math.inf if count is None else count
        end = self._together.interval_began_s + interval
        while left > 0:
            ends = self._wait(end)
            for _, chunk in self._together.collect(ends, last=False, hurries=bool):
                if report := self._feed(chunk):
                    left -= 1
                    yield report
            if ends:
                end = max(end + interval, time.monotonic())

    def _wait(self, end: float) -> bool:
        """Reads events until the interval ends, or for a tick; says whether it has ended."""
        until = min(end, time.monotonic() + _TICK_S)
        readable = (*self._together.readable, *self._together.processes.readable)
        with selectors.DefaultSelector() as selector:
            for descriptor in readable:
                selector.register(descriptor, selectors.EVENT_READ)
            while (left := until - time.monotonic()) > 0 and not self._together.is_full:
                selector.select(min(left, self._together.patience_s))
                self._together.consume()
        return time.monotonic() >= end

    def _feed(self, chunk: Chunk) -> Report | None:
        if self._recorder:
            self._recorder.write(chunk)
        report = self._reporter.feed(chunk)
        self._live.enricher.feedback(self._reporter)
        return report if chunk.interval else None

    def close(self) -> None:
        """Ends the tracing, and the recording if there is one; nothing stays attached."""
        self._stack.close()

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def trace(
    name: str,
    *,
    by: Names | None = None,
    pid: Some = (),
    comm: Names = (),
    cgroup: Names = (),
    follow: bool = True,
    own: bool = False,
    wide: bool = False,
    record: str | Path | None = None,
    **flags: bool,
) -> Trace:
    """Begins to trace.

    Args:
        name: the tracer's name, one of memtap.tracers.NAMES.
        by: the keys to group by; if none are given, the tracer's first.
        pid: only events of these processes are kept; if none are given, those of the whole host.
        comm: only events of processes with these names.
        cgroup: only events of processes in these cgroups or below them.
        follow: whether children of traced processes are traced too.
        own: whether reports of the host include what this process itself does.
        wide: whether reports have the columns that a table leaves out, also where they cost time.
        record: a file in which to keep the events as well.
        **flags: the tracer's own options, such as `hist=True`.

    Raises:
        ValueError: there is no such tracer, key or flag.
        MemtapError: this host, or this user, cannot trace.
    """
    tracer = _tracer(name)
    pids = tuple(process_of(each) for each in ((pid,) if isinstance(pid, int) else pid))
    query = Query(
        by=_keys(tracer, by),
        wide=wide,
        records=record is not None,
        flags=_flags(tracer, flags),
        pids=pids,
        comms=_several(comm),
        cgroups=_several(cgroup),
    )
    tracer.check(query)
    return Trace(tracer, query, filter_of(query, follow, own), Path(record) if record else None)


def read(
    path: str | Path,
    name: str | None = None,
    *,
    by: Names | None = None,
    wide: bool = False,
    trust: bool = False,
    **flags: bool,
) -> Iterator[Report]:
    """The reports of recordings: of a file, a glob or a folder.

    Args:
        path: where they are.
        name: the tracer's name; if none is given, that of the tracer that made the first recording.
        by: as in trace().
        wide: as in trace().
        **flags: as in trace().
        trust: whether the recordings may take any amount of memory; see docs/recordings.md.

    Raises:
        ValueError: there is no such tracer, key or flag.
        MemtapError: they cannot be read, or were recorded by another tracer.
    """
    paths = find(str(path))
    first = Recording(paths[0], trust).origin.tracer
    tracer = _tracer(name or _reader(first))
    query = Query(_keys(tracer, by), wide, flags=_flags(tracer, flags), replays=True)
    tracer.check(query)
    is_read = False
    for recording in reading.own(tracer, paths, trust):
        is_read = True
        for report, _ in reading.reports(recording, tracer, query):
            yield report
    if not is_read:
        raise reading.nothing_for([tracer], str(path), paths, trust)


def _reader(recorded: str) -> str:
    """The tracer that reports most of the events that were recorded under this name."""
    known = readers()
    if recorded not in known:
        raise MemtapError(f"nothing here reads recordings of {recorded}", "get a newer memtap")
    return known[recorded]


def _tracer(name: str) -> Tracer:
    if name not in NAMES:
        raise ValueError(f"there is no tracer {name!r}, but {', '.join(NAMES)}")
    return load(name)


def _keys(tracer: Tracer, by: Names | None) -> tuple[str, ...]:
    wanted = _several(by) if by else tracer.usual_by
    for key in wanted:
        if key not in tracer.keys:
            raise ValueError(f"{tracer.name} groups by {', '.join(tracer.keys)}, not by {key!r}")
    return wanted


def _flags(tracer: Tracer, flags: Mapping[str, bool]) -> dict[str, bool]:
    known = {flag.name: False for flag in tracer.flags if not (flag.takes_file or flag.looks)}
    for flag in flags:
        if flag not in known:
            raise ValueError(f"{tracer.name} has no {flag!r}, but {', '.join(known) or 'none'}")
    return {**known, **flags}


def _several(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
