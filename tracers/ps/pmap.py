"""pmap: the address space of one process, mapping by mapping, from /proc/PID/smaps."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from functools import cache
from mmap import PAGESIZE
from pathlib import Path

from memtap.bpf.sideband import Mapped
from memtap.tracers.code.mappings import (
    MAP_SHARED,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    Mappings,
    Place,
    Region,
    parse_maps,
)
from memtap.tracers.host import procfs
from memtap.tracers.host.counters import Counters
from memtap.tracers.host.hostile import one_line
from memtap.tracers.model.report import Column, Report, Row
from memtap.tracers.model.tracer import Inspection, Query
from memtap.tracers.ps import placement, tables
from memtap.tracers.ps.smaps import PAGE_SIZE, Smaps
from memtap.tracers.ps.space import address_space, read_space, report_of

# The fields of smaps whose sum each column is.
_SUMS = {
    "size_bytes": ("Size",),
    "rss_bytes": ("Rss",),
    "pss_bytes": ("Pss",),
    "uss_bytes": ("Private_Clean", "Private_Dirty", "Private_Hugetlb"),
    "dirty_bytes": ("Shared_Dirty", "Private_Dirty"),
    "hugetlb_bytes": ("Shared_Hugetlb", "Private_Hugetlb"),
    "swap_bytes": ("Swap",),
    "huge_bytes": ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped"),
}

# Of smaps_rollup.
_FIELD = re.compile(rb"([A-Z]\w+): +(\d+) kB")


class PmapInspection(Inspection):
    """Inspects one process; see Inspection."""

    def __init__(self, query: Query, columns: tuple[Column, ...]) -> None:
        (self._pid,), self._columns = query.pids, columns
        self._report = report
        if query.has("tables", "numa"):
            self._report = tables.report if query.has("tables") else placement.report

    def report(self) -> Report:
        """Its mappings now, or what was asked for of them."""
        return self._report(self._pid, self._columns)


def report(pid: int, columns: tuple[Column, ...], root: Path = Path("/")) -> Report:
    """The mappings of a process. Raises MemtapError if they cannot be read."""
    space, text = address_space(pid, root)
    rows = list(_rows(Smaps(text), pid, root))
    totals: Row = {name: sum(row[name] for row in rows) for name in _SUMS}
    rollup = _rollup(read_space(space, pid, "smaps_rollup"))
    totals |= {"mapping": f"total of {len(rows)}"}
    return report_of(columns, rows, totals, procfs.audit(len(rows), 0, rollup, ()))


def _rows(smaps: Smaps, pid: int, root: Path) -> Iterator[Row]:
    mappings, all_mapped = Mappings(root=root), parse_maps(smaps.maps, pid)
    space = mappings.put(pid, all_mapped)
    numbers = dict(zip(space.starts, space.numbers, strict=True))
    stacks = sorted(stack_pointers(pid, root))
    sizes = zip(*(smaps.column(*fields) for fields in _SUMS.values()), strict=True)
    for mapped, page, of in zip(all_mapped, smaps.column(PAGE_SIZE), sizes, strict=True):
        place = mappings.places[numbers[mapped.start]]
        yield {
            "start": mapped.start,
            "end": mapped.end,
            **dict(zip(_SUMS, of, strict=True)),
            "mode": _mode(mapped.prot, mapped.flags),
            "region": _region(place, mapped, stacks, page).text,
            "mapping": one_line(place.path),
        }


@cache
def _mode(prot: int, flags: int) -> str:
    """The mode as `pmap` writes it; its last letter, whether swap is reserved, is not in /proc."""
    bits = {"r": PROT_READ, "w": PROT_WRITE, "x": PROT_EXEC}
    letters = [letter if prot & bit else "-" for letter, bit in bits.items()]
    return "".join(letters) + ("s-" if flags & MAP_SHARED else "--")


def _region(place: Place, mapped: Mapped, stacks: list[int], page: int) -> Region:
    """The region of a mapping; it is a thread's stack if a thread's stack pointer is in it.

    Huge pages that are attached (System V), or of a file, are recognised by their page size.
    """
    if page > PAGESIZE:
        return Region.HUGETLB
    if place.region is not Region.ANON:
        return place.region
    at = bisect_left(stacks, mapped.start)
    is_stack = at < len(stacks) and stacks[at] < mapped.end
    return Region.THREAD_STACK if is_stack else place.region


def stack_pointers(pid: int, root: Path) -> list[int]:
    """The stack pointers of sleeping threads, from /proc/PID/task/TID/syscall.

    Those of running threads are not known.
    """
    pointers = []
    for path in (root / f"proc/{pid}/task").glob("*/syscall"):
        try:
            *_, pointer, _instruction = path.read_text().split()
        except (OSError, ValueError):  # the thread has ended, or is running
            continue
        pointers.append(int(pointer, 16))
    return pointers


def _rollup(text: bytes) -> Counters:
    """The kernel's own sums, in KiB, taken a moment later."""
    sizes = {name.decode(): int(kib) for name, kib in _FIELD.findall(text)}
    return {name: sizes[name] for name in ("Rss", "Pss", "Swap")}
