"""How much of a heap is used, and how much is free but cannot be given back.

brk gives back memory only from the heap's end. So a block in use keeps all free memory below it.
glibc puts a header before each block; adding them up gives what malloc_info(3) would say in the
process.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers.code.intervals import PAGE_BYTES
from memtap.tracers.code.mappings import parse_maps
from memtap.tracers.host.patience import patiently
from memtap.tracers.malloc.rows import ROW, Fact

# Of glibc's malloc_chunk: the size stands in the second word, flags in its lowest bits.
_HEADER_WORD, _WORD = 1, 8
_FLAGS, _PREVIOUS_IN_USE, _LEAST = 7, 1, 32

# Of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
_PRESENT = np.uint64(1 << 63)

# A larger heap takes too long to walk, and too much memory.
_MOST_BYTES = 256 << 20

# The process runs on meanwhile, and may change a header during the walk.
_TRIES = 3


class Part(IntEnum):
    """A part of a heap."""

    SIZE = 0
    RESIDENT = 1
    USED = 2
    STUCK = 3  # free, below a block that is used
    TOP = 4  # free, at the end: brk could give this back


@dataclass(frozen=True)
class Blocks:
    """The sums over the blocks of a heap, in bytes, headers included."""

    used: int
    stuck: int
    top: int


def rows_of(tgid: int, ns: int) -> Events:
    """The heap of a process now, a row for each Part that could be read; see Fact.WALKED."""
    parts = _parts(tgid)
    rows = np.zeros(len(parts), ROW)
    rows["kind"], rows["tgid"], rows["ns"] = Fact.WALKED, tgid, ns
    rows["part"], rows["length"] = list(parts), list(parts.values())
    return rows


def _parts(tgid: int) -> dict[Part, int]:
    parts: dict[Part, int] = {}
    for _ in range(_TRIES):
        try:
            start, end = patiently(tgid, partial(_borders, tgid))
            present = patiently(tgid, partial(_present, tgid, start, end))
            is_small = end - start <= _MOST_BYTES
            heap = patiently(tgid, partial(_read, tgid, start, present)) if is_small else b""
            blocks = measure(heap) if heap else None
        except (OSError, LookupError, ValueError):  # it has ended, is stuck, or has no heap
            return {}
        resident = int(present.sum()) * PAGE_BYTES
        parts = {Part.SIZE: end - start, Part.RESIDENT: resident}
        if blocks:
            sizes = {Part.USED: blocks.used, Part.STUCK: blocks.stuck, Part.TOP: blocks.top}
            return parts | sizes
    return parts


def _borders(tgid: int) -> tuple[int, int]:
    mapped = parse_maps(Path(f"/proc/{tgid}/maps").read_bytes(), tgid)
    heaps = [each for each in mapped if each.path == "[heap]"]
    return heaps[0].start, heaps[-1].end


def _present(tgid: int, start: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which pages of a range are in memory."""
    with Path(f"/proc/{tgid}/pagemap").open("rb", buffering=0) as file:
        file.seek(start // PAGE_BYTES * _WORD)
        entries = np.frombuffer(file.read((end - start) // PAGE_BYTES * _WORD), np.uint64)
    return entries & _PRESENT > 0


def _read(tgid: int, start: int, present: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> bytes:
    """The pages from an address on; zeros for absent ones, which a read would bring in."""
    borders = np.flatnonzero(np.diff(present, prepend=False, append=False))
    heap = bytearray(len(present) * PAGE_BYTES)
    memory = os.open(f"/proc/{tgid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for first, last in borders.reshape(-1, 2).tolist():
            run = slice(first * PAGE_BYTES, last * PAGE_BYTES)
            heap[run] = os.pread(memory, run.stop - run.start, start + run.start)
    finally:
        os.close(memory)
    return bytes(heap)


def measure(heap: bytes) -> Blocks | None:
    """Walks from header to header; None where they do not lead to the end.

    Blocks in malloc's caches for threads (tcache, fastbins) look used.
    """
    words = memoryview(heap).cast("Q")
    at = size = used = free = 0
    while at < len(heap):
        header = words[at // _WORD + _HEADER_WORD]
        if header & _PREVIOUS_IN_USE:
            used += size
        else:
            free += size
        size = header & ~_FLAGS
        if at + size == len(heap):
            return Blocks(used, free, size)
        if size < _LEAST:
            return None
        at += size
    return None
