"""shm: which processes make, map, grow and free shared memory, and how much there is now."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers.host.files import UNKNOWN, FileName
from memtap.tracers.model.arrays import group_numbers
from memtap.tracers.model.audit import audit
from memtap.tracers.model.chunk import Chunk, Interval, Origin
from memtap.tracers.model.enricher import forget_first, tell
from memtap.tracers.model.keys import identity
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Report, Row
from memtap.tracers.shm.columns import SHM_KEYS, shm_columns
from memtap.tracers.shm.probes import Kind
from memtap.tracers.shm.rows import NOW, Sort, shown

# Where shm_open(3) makes its files.
_POSIX = "/dev/shm/"

# A process, its thread, a segment.
Owner = tuple[int, int, int]


@dataclass(frozen=True)
class Now:
    """The state of a segment: bytes, and pages in memory, in swap, and of both together."""

    bytes: int
    resident: int
    swapped: int
    alloced: int


@dataclass
class Group:
    """A row: what was done, by kind, and to which segments."""

    done: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    segments: set[int] = field(default_factory=set)


class Shm:
    """Chunks in, a report out at the end of each interval."""

    def __init__(self, origin: Origin, by: tuple[str, ...] = ("segment",)) -> None:
        self.by = by
        self._origin = origin
        self._processes: dict[int, Process] = {}
        self._paths: dict[int, FileName] = {}
        self._sorts: dict[int, int] = {}
        self._huge: set[int] = set()
        self._done: defaultdict[tuple[Owner, int], int] = defaultdict(int)
        self._now: dict[int, Now] = {}
        self._alloced: dict[int, int] = {}  # at the end of the interval before
        self._moves = False  # whether pages were swapped out or moved yet
        self._names = [column.name for key in by for column in SHM_KEYS[key]]

    def feed(self, chunk: Chunk) -> Report | None:
        """Counts a chunk; returns the report if an interval ends with it."""
        tell(self._processes, chunk.processes)
        tell(self._paths, chunk.paths)
        self._count(chunk.rows[np.isin(chunk.rows["kind"], [*Kind])])
        self._look(chunk.rows[chunk.rows["kind"] == NOW])
        return self._report(chunk.interval) if chunk.interval else None

    def _count(self, rows: Events) -> None:
        group = group_numbers(*(rows[name] for name in ("tgid", "tid", "segment", "kind")))
        _, one = np.unique(group, return_index=True)
        sums = np.zeros(len(one), np.uint64)
        np.add.at(sums, group, rows["count"])
        for row, count in zip(rows[one], sums.tolist(), strict=True):
            segment = int(row["segment"])
            owner = int(row["tgid"]), int(row["tid"]), segment
            self._done[owner, int(row["kind"])] += count
            self._note(segment, row)

    def _look(self, rows: Events) -> None:
        for row in rows:
            segment = int(row["segment"])
            members = (int(row[name]) for name in ("bytes", "count", "swapped", "alloced"))
            self._now[segment] = Now(*members)
            self._note(segment, row)

    def _note(self, segment: int, row: Any) -> None:
        self._sorts[segment] = int(row["sort"])
        if row["is_huge"]:
            self._huge.add(segment)

    def _report(self, interval: Interval) -> Report:
        rows = self._rows()
        astray = self._astray(interval)
        events = sum(self._done.values())
        found = audit(
            self._origin, interval, events, unseen=sum(astray), notes=self._notes(*astray)
        )
        self._end()
        return Report("shm", interval.time, interval.seconds, shm_columns(self.by), rows, found)

    def _end(self) -> None:
        """Forgets what was done, and of segments all but the state that the next interval needs."""
        self._alloced |= {segment: now.alloced for segment, now in self._now.items()}
        forget_first(self._processes)
        forget_first(self._paths)
        forget_first(self._sorts)
        forget_first(self._alloced)
        self._huge &= self._sorts.keys()
        self._done.clear()
        self._now.clear()

    def _rows(self) -> list[Row]:
        groups: defaultdict[tuple[Any, ...], Group] = defaultdict(Group)
        for (owner, kind), count in self._done.items():
            group = groups[self._group(*owner)]
            group.done[kind] += count
            group.segments.add(owner[2])
        return [
            dict(zip(self._names, names, strict=True)) | self._sums(group)
            for names, group in sorted(groups.items(), key=lambda item: item[0])
        ]

    def _group(self, tgid: int, tid: int, segment: int) -> tuple[Any, ...]:
        known = self._identity(tgid, tid, segment)
        return tuple(known[name] for name in self._names)

    def _identity(self, tgid: int, tid: int, segment: int) -> Row:
        name = self._paths.get(segment, UNKNOWN)
        sort = self._sorts[segment]
        if sort == Sort.TMPFS and name.path.startswith(_POSIX):
            sort = Sort.POSIX
        return identity(tgid, self._processes.get(tgid, Process())) | {
            "tid": tid,
            "kind": shown(sort),
            "segment": name.path,
            "ino": name.ino,
            "dev": name.dev,
        }

    def _sums(self, group: Group) -> Row:
        """The amounts of a row; None where they are not known."""
        page, counted = self._origin.page_bytes, bool(group.segments - self._huge)
        known = [self._now[each] for each in group.segments if each in self._now]
        now = known if len(known) == len(group.segments) else None
        return {
            "created": group.done[Kind.CREATED],
            "attaches": group.done[Kind.ATTACHED],
            "grown_bytes": group.done[Kind.GREW] * page if counted else None,
            "freed_bytes": group.done[Kind.FREED] * page if counted else None,
            "size_bytes": None if now is None else sum(each.bytes for each in now),
            "resident_bytes": None if now is None else sum(each.resident for each in now) * page,
            "swapped_bytes": None if now is None else sum(each.swapped for each in now) * page,
        }

    def _astray(self, interval: Interval) -> tuple[int, int]:
        """Pages that may be counted though they came from swap; and by how much sums are wrong.

        Pages that are freed in swap, or moved, show only in the kernel's own count of a segment.
        """
        kernel, swapped = interval.kernel, any(now.swapped for now in self._now.values())
        moved = kernel.get("pswpout", 0) + kernel.get("pgmigrate_success", 0)
        self._moves |= swapped or moved > 0
        by_segment = self._by_segment()
        grown = sum(done[Kind.GREW] for done in by_segment.values())
        unseen = sum(self._unseen(segment, done) for segment, done in by_segment.items())
        return min(kernel.get("pswpin", 0), grown), unseen if self._moves else 0

    def _by_segment(self) -> dict[int, defaultdict[int, int]]:
        found: defaultdict[int, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
        for ((_, _, segment), kind), count in self._done.items():
            found[segment][kind] += count
        return found

    def _unseen(self, segment: int, done: defaultdict[int, int]) -> int:
        """By how many pages the growth of the kernel's own count of a segment differs from ours.

        Its count began at 0 if the segment is new; else it must have been known.
        """
        before = 0 if done[Kind.CREATED] else self._alloced.get(segment)
        now = self._now.get(segment)
        if before is None or now is None or segment in self._huge:
            return 0
        return abs(before + done[Kind.GREW] - done[Kind.FREED] - now.alloced)

    def _notes(self, swapped_in: int, unseen: int) -> list[str]:
        notes = []
        if swapped_in:
            notes.append(f"GROWN can be {swapped_in} pages too large: so many came out of swap")
        if unseen:
            notes.append(
                f"{unseen} pages more or fewer by the kernel's count of the segments themselves: "
                "freed in swap, out of it, moved, or of after the interval"
            )
        active = {segment for (_, _, segment), _ in self._done}
        if huge := len(active & self._huge):
            notes.append(f"{huge} segments have huge pages: who grows and frees those nobody tells")
        return notes
