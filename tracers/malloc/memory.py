"""Reads the memory of a process while it runs, without stopping or changing it.

Only pages in memory are read: reading others would bring them in, at the process's expense. The
content is the process's own, and may be made to keep us reading: so reading ends after some time.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from memtap.bpf.sideband import Mapped
from memtap.tracers.code.intervals import PAGE_BYTES
from memtap.tracers.code.mappings import MAP_SHARED, PROT_WRITE, parse_maps, read_maps

Flags = npt.NDArray[np.bool_]
U64 = npt.NDArray[np.uint64]
Ranges = tuple[U64, U64]

WORD = 8

# Of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
_PRESENT = np.uint64(1 << 63)

# Pages are looked up in blocks of this size to be read, and in larger pieces to be counted; this
# much is scanned at a time.
_BLOCK, _PIECE = 2 << 20, 256 << 20
_SCANNED = 4 << 20

# Callers keep something for each read: this bounds our memory.
_MOST_READS = 4 << 20

# Processes have no memory from here on.
_BEYOND = 1 << 47


class AbsentError(LookupError):
    """Some of this is not in memory."""


class OutOfTimeError(Exception):
    """Reading took too long."""


@dataclass
class Memory:
    """The memory of a process.

    Attributes:
        mapped: its mappings.
        pread: reads this many bytes at an address.
        pages: returns which pages of a range are in memory.
        most_s: the time for all reading.
        is_over: whether the time is over.
    """

    mapped: Sequence[Mapped]
    pread: Callable[[int, int], bytes]
    pages: Callable[[int, int], Flags]
    most_s: float

    def __post_init__(self) -> None:
        self._blocks: dict[int, bytes] = {}
        self._reads = 0
        self.begin(1.0)

    def begin(self, share: float) -> None:
        """Grants this share of the time from now on."""
        self._until_s, self.is_over = time.monotonic() + share * self.most_s, False

    def forget(self) -> None:
        """Forgets which pages are in memory."""
        self._blocks.clear()

    def read(self, address: int, length: int) -> bytes:
        """Raises AbsentError, and OutOfTimeError."""
        self._reads += 1
        if self.is_over or not self._reads & 1023:
            self.check_time()
        for at in range(address & -PAGE_BYTES, address + length, PAGE_BYTES):
            if not 0 <= at < _BEYOND or not self._block(at // _BLOCK)[at % _BLOCK // PAGE_BYTES]:
                raise AbsentError(hex(address))
        try:
            found = self.pread(address, length)
        except OSError as error:  # it was unmapped just now
            raise AbsentError(hex(address)) from error
        if len(found) < length:
            raise AbsentError(hex(address))
        return found

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """Reads this many words of 64 bits. Raises as read()."""
        return struct.unpack(f"<{count}Q", self.read(address, count * WORD))

    def check_time(self) -> None:
        """Raises OutOfTimeError if the time is over."""
        if time.monotonic() > self._until_s or self._reads > _MOST_READS:
            self.is_over = True
            raise OutOfTimeError

    def resident(self, ranges: Ranges) -> int:
        """The bytes in memory of page-aligned ranges in order. Raises OutOfTimeError."""
        starts, ends = ranges
        total = begin = 0
        while (at := int(np.searchsorted(ends, np.uint64(begin), "right"))) < len(ends):
            begin = max(begin, int(starts[at]))
            total += self._resident_from(begin, starts[at:], ends[at:])
            begin += _PIECE
        return total

    def _resident_from(self, begin: int, starts: U64, ends: U64) -> int:
        """The same for the piece that begins here."""
        self.check_time()
        count = np.searchsorted(starts, np.uint64(begin + _PIECE))
        low, high = (np.clip(of[:count], begin, begin + _PIECE) for of in (starts, ends))
        end = int(high[-1])
        before = np.concatenate([[0], np.cumsum(self.pages(begin, end))])
        at, up_to = ((each - np.uint64(begin)) // np.uint64(PAGE_BYTES) for each in (low, high))
        return int((before[up_to] - before[at]).sum()) * PAGE_BYTES

    def runs(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The parts of a range that are in memory, with their addresses. Raises OutOfTimeError."""
        for begin in range(start, end, _SCANNED):
            self.check_time()
            there = self.pages(begin, min(begin + _SCANNED, end))
            borders = np.flatnonzero(np.diff(there, prepend=False, append=False)) * PAGE_BYTES
            for first, last in borders.reshape(-1, 2).tolist():
                try:
                    yield begin + first, self.pread(begin + first, last - first)
                except OSError:  # it was unmapped just now
                    continue

    def _block(self, number: int) -> bytes:
        block = self._blocks.get(number)
        if block is None:
            start = number * _BLOCK
            block = self._blocks[number] = self.pages(start, start + _BLOCK).tobytes()
        return block


@contextmanager
def memory_of(tgid: int, most_s: float) -> Iterator[Memory]:
    """The memory of a process, to be read for this time. Raises OSError."""
    opened: list[int] = []
    try:
        for name in ("mem", "pagemap"):
            opened.append(os.open(f"/proc/{tgid}/{name}", os.O_RDONLY | os.O_CLOEXEC))
        memory, pagemap = opened
        yield Memory(
            parse_maps(read_maps(tgid), tgid),
            partial(_pread, memory),
            partial(_pages, pagemap),
            most_s,
        )
    finally:
        for each in opened:
            os.close(each)


def _pread(memory: int, address: int, length: int) -> bytes:
    return os.pread(memory, length, address)


def _pages(pagemap: int, start: int, end: int) -> Flags:
    """Which pages are in memory."""
    count = (end - start) // PAGE_BYTES
    flags = np.zeros(count, bool)
    read = os.pread(pagemap, count * WORD, start // PAGE_BYTES * WORD)
    entries = np.frombuffer(read[: len(read) // WORD * WORD], np.uint64)
    flags[: len(entries)] = entries & _PRESENT > 0
    return flags


def is_data(mapped: Mapped) -> bool:
    """Whether it is private and writable."""
    return bool(mapped.prot & PROT_WRITE) and not mapped.flags & MAP_SHARED


def ranges_of(regions: Sequence[tuple[int, int]]) -> Ranges:
    """Regions as ranges in order, for Memory.resident()."""
    made = np.array(sorted(regions), np.uint64).reshape(-1, 2)
    return made[:, 0].copy(), made[:, 1].copy()
