"""Reports and recordings of known events."""

from __future__ import annotations

from pathlib import Path

from memtap.tracers.live.recording import Recorder
from memtap.tracers.model.chunk import Chunk, Origin
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Report
from memtap.tracers.pagecache.cachestat import Cachestat
from memtap.tracers.pagecache.cachetop import Cachetop
from memtap.tracers.pagecache.rows import ROW
from tests.tracers.builders import add, dirty, make_chunk, make_interval, make_origin, named, read

CAT = Process("cat", 0, "root", "/")
DD = Process("dd", 1, "daemon", "/a")
PROCESSES = {100: CAT, 2000: DD}
PATHS = named("/usr/big", 1, 1) | named("/tmp/x", 2, 2)

# cat reads 4 cold pages of /usr/big; then they are hits, and dd writes 3 new pages of /tmp/x.
FIRST = make_chunk(add(0, 4), read(0, 4), processes=PROCESSES, paths=PATHS, last=False)
SECOND = make_chunk(
    read(0, 4),
    read(0, 1, file=2, tgid=2000),
    dirty(8, 3, file=2, tgid=2000),
    interval=make_interval(time="2026-01-31T12:00:02.000Z"),
)


def record(path: Path, *chunks: Chunk, origin: Origin | None = None) -> Path:
    """A recording, which everybody may read."""
    recorder = Recorder(path, origin or make_origin(), ROW)
    for chunk in chunks:
        recorder.write(chunk)
    recorder.close()
    path.chmod(0o644)
    return path


def stat_report(chunk: Chunk, wide: bool = False, origin: Origin | None = None) -> Report:
    """cachestat's report of one chunk."""
    report = Cachestat(origin or make_origin(), wide).feed(chunk)
    assert report is not None
    return report


def top_report(chunk: Chunk, by: tuple[str, ...] = ("process",)) -> Report:
    """cachetop's report of one chunk."""
    report = Cachetop(make_origin(), by).feed(chunk)
    assert report is not None
    return report
