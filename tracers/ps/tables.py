"""pmap --tables: the page tables of a process, level by level.

The kernel tells how much they take together (VmPTE). What each level takes follows from which pages
have entries: a page that is mapped needs a table of each level above it. The rest are tables that
are empty: when memory is given back, the kernel keeps most of them until it is unmapped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from mmap import PAGESIZE
from pathlib import Path
from typing import NamedTuple

import numpy as np

from memtap.bpf.errors import MemtapError
from memtap.bpf.sideband import Mapped
from memtap.tracers.code.mappings import parse_maps
from memtap.tracers.host import procfs
from memtap.tracers.model.report import Column, Report, Row
from memtap.tracers.ps.smaps import PAGE_SIZE, Smaps
from memtap.tracers.ps.space import address_space, asked, read_space, report_of
from memtap.tracers.ps.touched import Bounds, Touched

# How many entries a table has: each has 8 bytes, and a table is a page.
_ENTRIES = PAGESIZE // 8

# The levels that the kernel counts, from the bottom: those of the P4D and PGD it does not.
_LEVELS = ("pte", "pmd", "pud")

_VM_PTE = re.compile(rb"\nVmPTE:\s*(\d+) kB")

# How often tables are read before it is said that they do not stand still.
_TRIES = 5


class Level(NamedTuple):
    """Tables of one kind.

    Attributes:
        name: the kernel's.
        span: how many bytes of addresses one table is for.
    """

    name: str
    span: int


def levels(top: int) -> list[Level]:
    """The levels, from the bottom, where addresses of processes end at `top`.

    One table of the highest level, which the kernel does not count, is for all of them.
    """
    all_levels = [Level(name, PAGESIZE * _ENTRIES**n) for n, name in enumerate(_LEVELS, 1)]
    return [level for level in all_levels if level.span < 1 << (top - 1).bit_length()]


@dataclass(frozen=True)
class Entries:
    """Which pages of a process have entries in its page tables.

    Attributes:
        bounds: the start and end of each range of such pages, in order.
        pages: the size of a page in each, larger than usual in hugetlbfs.
        thp: how many bytes of files and shared memory are mapped by huge pages, which need no table
            below them. For those of private memory the kernel keeps a table in reserve.
    """

    bounds: Bounds
    pages: Bounds
    thp: int

    def tables(self, level: Level) -> int:
        """How many tables of a level they need."""
        is_below = self.pages < level.span
        found = spans(self.bounds[is_below], level.span)
        return found - (self.thp // level.span if level.name == "pte" else 0)

    def saved(self, level: Level) -> int:
        """How many more it would be without huge pages."""
        huge = self.bounds[self.pages >= level.span]
        thp = self.thp if level.name == "pte" else 0
        return (int((huge[:, 1] - huge[:, 0]).sum()) + thp) // level.span


def spans(bounds: Bounds, span: int) -> int:
    """How many aligned ranges of `span` bytes have a part of these, which are in order."""
    shift = np.uint64(span.bit_length() - 1)
    first, last = bounds[:, 0] >> shift, bounds[:, 1] - np.uint64(1) >> shift
    twice = int((first[1:] == last[:-1]).sum())
    return int((last - first).sum()) + len(first) - twice


def report(pid: int, columns: tuple[Column, ...], root: Path = Path("/")) -> Report:
    """The page tables of a process. Raises MemtapError if they cannot be read."""
    space, _ = address_space(pid, root)
    for _ in range(_TRIES):
        kib = _kib(read_space(space, pid, "status"))
        smaps = Smaps(read_space(space, pid, "smaps"))
        entries = asked(pid, partial(_entries, space, pid, smaps))
        rows = rows_of(entries, kib << 10, levels(_top()))
        is_still = kib == _kib(read_space(space, pid, "status")) and rows[-1]["tables"] >= 0
        if is_still:
            break
    note = "the process had tables made or freed while they were read"
    audit = procfs.audit(smaps.count, not is_still, {"VmPTE": kib}, [] if is_still else [note])
    return report_of(columns, rows, {"level": "total", **_totals(rows)}, audit)


def rows_of(entries: Entries, total: int, all_levels: Sequence[Level]) -> list[Row]:
    """A row for each level, from the top, and one for what is left of the total, in bytes."""
    counts = [(each, entries.tables(each), entries.saved(each)) for each in all_levels]
    rest = total // PAGESIZE - sum(tables for _, tables, _ in counts)
    rows = [_row(each.name, tables, each.span, saved) for each, tables, saved in reversed(counts)]
    return [*rows, _row("empty", rest, None, 0)]


def _row(level: str, tables: int, span: int | None, saved: int) -> Row:
    sizes = {"size_bytes": tables * PAGESIZE, "saved_bytes": saved * PAGESIZE}
    return {"level": level, "tables": tables, "span_bytes": span, **sizes}


def _totals(rows: list[Row]) -> Row:
    return {
        name: sum(row[name] for row in rows) for name in ("tables", "size_bytes", "saved_bytes")
    }


def _kib(status: bytes) -> int:
    """VmPTE. Raises MemtapError if the process has no page tables."""
    if found := _VM_PTE.search(status):
        return int(found[1])
    raise MemtapError("the process has ended", "memtap ps lists those that there are")


def _top() -> int:
    """Above all addresses of a process on this host: a stack is as high as one can be."""
    ends = [each.end for each in parse_maps(Path("/proc/self/maps").read_bytes(), 0)]
    return max(end for end in ends if not _is_of_kernel(end))


def _is_of_kernel(end: int) -> bool:
    """Whether a mapping is of the kernel's own addresses, as [vsyscall]."""
    return end >> 63 != 0


def _entries(space: Path, pid: int, smaps: Smaps) -> Entries:
    fd = os.open(space / "pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        touched = Touched(fd)
        found = [
            (touched.ranges(mapped.start, mapped.end), page)
            for mapped, page in _looked_at(smaps, pid)
        ]
    finally:
        os.close(fd)
    return Entries(
        np.concatenate([np.zeros((0, 2), np.uint64), *(bounds for bounds, _ in found)]),
        np.repeat(np.array([page for _, page in found], np.uint64), [len(b) for b, _ in found]),
        sum(smaps.column("ShmemPmdMapped", "FilePmdMapped")),
    )


def _looked_at(smaps: Smaps, pid: int) -> list[tuple[Mapped, int]]:
    """The mappings of the process's own addresses, and the size of a page in each."""
    mapped = zip(parse_maps(smaps.maps, pid), smaps.column(PAGE_SIZE), strict=True)
    return [(each, page) for each, page in mapped if not _is_of_kernel(each.end)]
