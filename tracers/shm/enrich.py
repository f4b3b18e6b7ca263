"""Shared memory's rows: segments get numbers, names, and the kernel's own counters."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from memtap.bpf.session import Drained
from memtap.bpf.stream import Events
from memtap.tracers.host.files import FileName, Files
from memtap.tracers.model.enricher import Enricher, Source, Taken
from memtap.tracers.shm.looks import Looks, Numbers
from memtap.tracers.shm.probes import Kind
from memtap.tracers.shm.rows import NOW, ROW, Sort
from memtap.tracers.shm.segments import Segment, Segments

# A segment from shmget(2) existed before if its inode is older than tracing by more than this, the
# time that tracing takes to begin; inodes have whole seconds.
_BEGINS_S = 2

_ANSWERED = {"count": "resident"} | {name: name for name in ("bytes", "swapped", "alloced")}


class ShmEnricher(Enricher):
    """See Enricher."""

    row = ROW

    def __init__(self, session: Source) -> None:
        self._files, self._segments, self._looks = Files(), Segments(session), Looks(session)
        self._began_s = time.time() - _BEGINS_S

    def enrich(self, drained: Drained, last: bool) -> Taken:
        """See Enricher."""
        waiting = self._looks.waiting()
        done = np.concatenate(
            [_events(drained.events), _spilled(drained.spilled), _waiting(waiting)]
        )
        distinct, which = np.unique(done["segment"], return_inverse=True)
        found = [self._segments.of(segment) for segment in distinct.tolist()]
        done["sort"] = np.array([each.sort for each in found], np.uint8)[which]
        done["is_huge"] = np.array([each.is_huge for each in found], np.uint8)[which]
        born = np.array([each.born_s for each in found], np.int64)[which]
        rows = np.concatenate([done[self._is_new(done, born)], self._now(distinct, found)])
        rows["ns"][rows["ns"] == 0] = drained.until_ns
        paths = self._files.resolve(drained.names) | self._names(distinct, found)
        rows["segment"] = self._files.number(rows["segment"])
        return Taken(rows, paths)

    def _is_new(self, rows: Events, born_s: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """All rows but those of shmget(2) that returned an older System V segment."""
        got = (rows["kind"] == Kind.CREATED) & (rows["sort"] == Sort.SYSV)
        is_new: npt.NDArray[np.bool_] = ~(got & (born_s < self._began_s))
        return is_new

    def _now(self, segments: Numbers, found: list[Segment]) -> Events:
        """The present state of the segments in rows."""
        known = [at for at, each in enumerate(found) if each.inode]
        inodes = np.array([found[at].inode for at in known], np.uint64)
        answers = self._looks.at(inodes, segments[known])
        rows = np.zeros(len(answers), ROW)
        rows["kind"], rows["segment"] = NOW, segments[known][: len(answers)]
        rows["sort"] = [found[at].sort for at in known[: len(answers)]]
        rows["is_huge"] = [found[at].is_huge for at in known[: len(answers)]]
        for name, answered in _ANSWERED.items():
            rows[name] = answers[answered]
        return rows

    def _names(self, segments: Numbers, found: list[Segment]) -> dict[int, FileName]:
        """The names of segments that have no path."""
        named = [(at, each.name) for at, each in enumerate(found) if each.name]
        numbers = self._files.number(segments[[at for at, _ in named]])
        return {int(n): name for n, (_, name) in zip(numbers, named, strict=True)}


def _events(events: Events) -> Events:
    rows = np.zeros(len(events), ROW)
    for name in ("ns", "segment", "count", "tgid", "tid", "kind"):
        rows[name] = events[name]
    return rows


def _spilled(spilled: Events) -> Events:
    """Spilled events, as rows: their thread is not known."""
    rows = np.zeros(len(spilled), ROW)
    for name, told in (("segment",) * 2, ("tgid",) * 2, ("kind",) * 2, ("count", "units")):
        rows[name] = spilled[told] if len(spilled) else 0
    return rows


def _waiting(answers: Events) -> Events:
    rows = np.zeros(len(answers), ROW)
    rows["segment"], rows["count"], rows["kind"] = answers["segment"], answers["count"], Kind.GREW
    rows["tgid"], rows["tid"] = answers["owner"] >> np.uint64(32), answers["owner"] & 0xFFFFFFFF
    return rows
