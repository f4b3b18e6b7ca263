"""Segments of shared memory, by the numbers that the C program gives them."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from memtap.bpf.stream import Events, dtype_of
from memtap.tracers.host.files import FileName, dev_text, forget
from memtap.tracers.host.hostile import printable
from memtap.tracers.model.enricher import Source
from memtap.tracers.shm.rows import Sort

# As in the C program: the bytes of a title, after the numbers of `struct segment`.
TITLE = 256

_SYSTEM_V = re.compile(r"SYSV([0-9a-f]{8})")
_ANONYMOUS = ("dev/zero", "anon_hugepage")


@dataclass(frozen=True)
class Segment:
    """One segment.

    Attributes:
        inode: its address in the kernel; 0 if not known.
        born_s: when it was made, in seconds since 1970.
        name: its name, if that is not a path.
    """

    inode: int = 0
    sort: Sort = Sort.TMPFS
    is_huge: bool = False
    born_s: int = 0
    name: FileName | None = None


def sort_of(title: str) -> Sort:
    """The sort of a file, by the title that it has instead of a path."""
    if _SYSTEM_V.fullmatch(title):
        return Sort.SYSV
    if title in _ANONYMOUS:
        return Sort.ANONYMOUS
    if not title:
        return Sort.TMPFS
    return Sort.MEMFD if title.startswith("memfd:") else Sort.KERNEL


def shown(title: str, ino: int) -> str:
    """Its name in reports; the inode of a System V segment is its shmid."""
    if found := _SYSTEM_V.fullmatch(title):
        key = int(found[1], 16)
        return f"shmid {ino} key {key:#010x}" if key else f"shmid {ino}"
    return f"/{title}" if title in _ANONYMOUS else title


class Segments:
    """What the C program has described."""

    def __init__(self, session: Source) -> None:
        self._session = session
        numbers = dtype_of(session.layouts["segment_numbers"])
        self._type = np.dtype([*numbers.descr, ("title", f"S{TITLE}")])
        self._known: OrderedDict[int, Segment] = OrderedDict()

    def of(self, segment: int) -> Segment:
        """A segment; without details if it was never described, or too long ago."""
        found = self._known.get(segment) or self._read(segment)
        if found.inode:
            self._known[segment] = found
            self._known.move_to_end(segment)
            forget(self._known, 0)
        return found

    def _read(self, segment: int) -> Segment:
        key = segment.to_bytes(8, "little")
        read = self._session.look_up("segments", key, self._type.itemsize)
        return Segment() if read is None else described(np.frombuffer(read, self._type))


def described(records: Events) -> Segment:
    """The segment that a record of the C program describes."""
    record = records[0]
    title, ino = printable(bytes(record["title"]).split(b"\0")[0]), int(record["ino"])
    dev = dev_text(int(record["dev"]))
    return Segment(
        inode=int(record["inode"]),
        sort=sort_of(title),
        is_huge=bool(record["is_huge"]),
        born_s=int(record["born_s"]),
        name=FileName(dev, ino, shown(title, ino)) if title else None,
    )
