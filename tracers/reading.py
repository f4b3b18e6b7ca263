"""Reports from recordings, by the tracer that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from memtap.bpf.errors import MemtapError
from memtap.tracers import reports_of
from memtap.tracers.live.recording import Recording
from memtap.tracers.live.rows import checked
from memtap.tracers.model.chunk import Interval
from memtap.tracers.model.report import Report
from memtap.tracers.model.tracer import Query, Tracer


def by_tracer(paths: Iterable[Path], trusted: bool) -> dict[str, list[Path]]:
    """Recordings by the name that they were recorded under; see Plan.name."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(Recording(path, trusted).origin.tracer, []).append(path)
    return found


def own(tracer: Tracer, paths: list[Path], trusted: bool) -> Iterator[Recording]:
    """The recordings that were made for a tracer; each is opened when it is its turn.

    Raises MemtapError if there is one file alone and it was made for another tracer.
    """
    for path in paths:
        recording = Recording(path, trusted)
        if recording.origin.tracer == tracer.plan.name:
            recording.require(tracer.row().dtype)
            yield recording
        elif len(paths) == 1:
            commands = [f"memtap {each.name}" for each in reports_of(recording.origin.tracer)]
            what = f"{path} is a recording of another report"
            raise MemtapError(what, f"it can be shown by {' and '.join(commands)}")


def nothing_for(
    tracers: Iterable[Tracer], place: str, paths: list[Path], trusted: bool
) -> MemtapError:
    """The error that none of the recordings fits these tracers; it names those that do."""
    names = " or ".join(tracer.name for tracer in tracers)
    what = f"nothing at {place} was recorded for {names}"
    recorded = by_tracer(paths, trusted)
    there = sorted(tracer.name for each in recorded for tracer in reports_of(each))
    return MemtapError(what, f"it can be shown by {', '.join(there) or 'another memtap'}")


def reports(
    recording: Recording, tracer: Tracer, query: Query
) -> Iterator[tuple[Report, Interval]]:
    """What a tracer reports of a recording, each report with its interval."""
    reporter = tracer.make_reporter(recording.origin, query)
    for chunk in checked(recording, tracer.row()):
        report = reporter.feed(chunk)
        if report and chunk.interval:
            yield report, chunk.interval
