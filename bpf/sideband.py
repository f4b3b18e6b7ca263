"""The kernel's side-band events: memory mapped, processes forked, programs begun.

These are records of perf (uapi/linux/perf_event.h), in the same rings as our own, so that the
record of a mapping is there before the first event in it. All numbers are u32 or u64.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import NamedTuple

MMAP2, LOST, COMM, EXIT, FORK = 10, 2, 3, 4, 7
KINDS = (MMAP2, LOST, COMM, EXIT, FORK)

_MISC_COMM_EXEC = 1 << 13
_HEADER = struct.Struct("=IHH")
_TASK = struct.Struct("=8xIIIIQ")  # tgid, the parent's tgid, tid, the parent's tid, when
_MAP = struct.Struct("=IIQQQIIQQII")  # up to the name
_TIME = struct.Struct("=Q")  # ends every record: sample_id_all, PERF_SAMPLE_TIME


class Mapped(NamedTuple):
    """PERF_RECORD_MMAP2: memory of a process from `start` up to `end`.

    Attributes:
        ns: when (CLOCK_MONOTONIC).
        offset: where in the file the mapping begins, in bytes.
        dev, ino: the file (the kernel's dev_t: major << 20 | minor); 0 if there is none.
        prot, flags: as of mmap(2).
        path: of the file; `//anon`, `[heap]`, `[stack]`, `[vdso]` where there is none.
    """

    ns: int
    tgid: int
    start: int
    end: int
    offset: int
    dev: int
    ino: int
    prot: int
    flags: int
    path: str


class Forked(NamedTuple):
    """A process was born: it has all mappings of its parent."""

    ns: int
    tgid: int
    parent: int


class Began(NamedTuple):
    """A process began another program: all its earlier mappings are gone."""

    ns: int
    tgid: int


class Ended(NamedTuple):
    """The first thread of a process is gone, and mostly the process with it."""

    ns: int
    tgid: int


@dataclass(frozen=True)
class Lost:
    """The ring was full: `count` records are missing before this one."""

    ns: int
    count: int


SidebandEvent = Mapped | Forked | Began | Ended


def decode(record: bytes) -> SidebandEvent | Lost | None:
    """Decodes a record of one of KINDS, header included; None if it says nothing new."""
    kind, misc, size = _HEADER.unpack_from(record)
    if kind in (FORK, EXIT):  # by far the most
        tgid, parent, tid, _, ns = _TASK.unpack_from(record)
        if kind == FORK:
            return Forked(ns, tgid, parent) if tgid != parent else None
        return Ended(ns, tgid) if tgid == tid else None
    body, ns = record[8 : size - _TIME.size], _TIME.unpack_from(record, size - _TIME.size)[0]
    if kind == MMAP2:
        return _mapped(body, ns)
    if kind == LOST:
        return Lost(ns, struct.unpack_from("=QQ", body)[1])
    return Began(ns, struct.unpack_from("=I", body)[0]) if misc & _MISC_COMM_EXEC else None


def _mapped(body: bytes, ns: int) -> Mapped:
    tgid, _, start, size, offset, major, minor, ino, _, prot, flags = _MAP.unpack_from(body)
    path = os.fsdecode(body[_MAP.size :].partition(b"\0")[0])
    dev = major << 20 | minor
    return Mapped(ns, tgid, start, start + size, offset, dev, ino, prot, flags, path)
