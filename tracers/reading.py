"""Reports of what was recorded, for whichever tracer is asked."""

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
    """Recordings by what they were recorded under, see Plan.name."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(Recording(path, trusted).origin.tracer, []).append(path)
    return found


def own(tracer: Tracer, paths: list[Path], trusted: bool) -> Iterator[Recording]:
    """The recordings that were made for a tracer, each opened in its turn.

    Raises MemtapError if what is named alone was made for another.
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
    """That none of several recordings was made for any of these, and what there is."""
    names = " or ".join(tracer.name for tracer in tracers)
    what = f"nothing at {place} was recorded for {names}"
    recorded = by_tracer(paths, trusted)
    there = sorted(tracer.name for each in recorded for tracer in reports_of(each))
    return MemtapError(what, f"it can be shown by {', '.join(there) or 'another memtap'}")


def reports(
    recording: Recording, tracer: Tracer, query: Query
) -> Iterator[tuple[Report, Interval]]:
    """What a tracer reports of a recording, with the interval that each report is of."""
    reporter = tracer.make_reporter(recording.origin, query)
    for chunk in checked(recording, tracer.row()):
        report = reporter.feed(chunk)
        if report and chunk.interval:
            yield report, chunk.interval
