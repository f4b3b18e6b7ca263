"""Finds and reads the settings of glibc's malloc.

They are in a variable without a symbol (mp_ of malloc.c). But the variable begins with numbers that
occur nowhere else in the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from memtap.bpf.sideband import Mapped
from memtap.tracers.code.intervals import PAGE_BYTES
from memtap.tracers.code.objects import open_regular
from memtap.tracers.malloc.files import as_seen_by
from memtap.tracers.malloc.memory import WORD, AbsentError, Memory

# trim_threshold, top_pad, mmap_threshold and arena_test of a 64-bit glibc, as its file has them;
# n_mmaps_max follows some bytes later.
_PARAMETERS = struct.pack("<4Q", 128 << 10, 128 << 10, 128 << 10, 8)
MMAP_THRESHOLD_AT = 16
_MOST, _NEAR = struct.pack("<I", 1 << 16), 64

# n_mmaps comes before n_mmaps_max, and before n_mmaps, if there is room behind arena_max,
# thp_pagesize, hp_pagesize and hp_flags. n_mmaps_max is followed by two numbers of 32 bits, then
# mmapped_mem, max_mmapped_mem, sbrk_base, and the tcache's number of bins, largest size and depth.
_ARENA_MAX_AT, _BEHIND_ARENA_MAX = 32, 40
_THP_BEFORE, _COUNT_BEFORE, _MAPPED_BEHIND, _DEPTH_BEHIND = 24, 4, 12, 40

# As in elf(5), for 64-bit files: offset, size and count of the program headers; and one of these.
_HEADER = struct.Struct("<5s27xQ14xHH")
_MAGIC = b"\x7fELF\2"
_SEGMENT = struct.Struct("<IIQQQQQQ")
_LOAD = 1

MOST_FILE_BYTES = 16 << 20


@dataclass(frozen=True)
class Segment:
    """A loaded part of a file, and its address in memory relative to the file's beginning."""

    address: int
    data: bytes

    def find(self, wanted: bytes) -> int | None:
        """The address of bytes that occur here exactly once; else None."""
        at = self.data.find(wanted)
        return None if at < 0 or self.data.count(wanted) > 1 else self.address + at


def segments_of(elf: bytes) -> Iterator[Segment]:
    """The parts of a file that are loaded into memory. Raises struct.error."""
    magic, at, size, count = _HEADER.unpack_from(elf)
    if magic != _MAGIC:
        return
    for number in range(count):
        kind, _, offset, address, _, length, *_ = _SEGMENT.unpack_from(elf, at + number * size)
        if kind == _LOAD:
            yield Segment(address, elf[offset : offset + length])


def only(segments: Sequence[Segment], wanted: bytes) -> int | None:
    """The address of bytes that occur exactly once in all segments."""
    found = [at for each in segments if (at := each.find(wanted)) is not None]
    return found[0] if len(found) == 1 else None


def bytes_at(segments: Sequence[Segment], address: int, length: int) -> bytes:
    """The bytes of a file at an address in memory."""
    segment = max((each for each in segments if each.address <= address), key=lambda s: s.address)
    return segment.data[address - segment.address :][:length]


@dataclass(frozen=True)
class Place:
    """Where a file has the settings.

    Attributes:
        address: of the first, in memory, relative to the file's beginning.
        most: the offset of n_mmaps_max from there.
    """

    address: int
    most: int


def place_in(segments: Sequence[Segment]) -> Place | None:
    """The place in a file; None if it is not a 64-bit glibc."""
    address = only(segments, _PARAMETERS)
    if address is None:
        return None
    near = bytes_at(segments, address, _NEAR + len(_PARAMETERS))
    most = near.find(_MOST, len(_PARAMETERS))
    return Place(address, most) if most > 0 else None


@dataclass(frozen=True)
class Parameters:
    """The settings and some counts of malloc in a process.

    Attributes:
        trim_threshold: how large the top of the main heap gets before it is given back.
        mmap_threshold: the smallest chunk that is mapped on its own.
        arena_max: how many arenas there may be at most; 0 if it depends on the CPUs.
        huge_page: the unit in which the heap is given back; 0 if that is a page.
        mapped_chunks, mapped_bytes: the chunks with a mapping of their own.
        tcache_depth: how many blocks of a size a tcache holds.
    """

    trim_threshold: int
    mmap_threshold: int
    arena_max: int
    huge_page: int
    mapped_chunks: int
    mapped_bytes: int
    tcache_depth: int


def parameters_of(memory: Memory, tgid: int, library: Mapped) -> Parameters | None:
    """The settings in a process whose malloc is in this file; None if the file cannot be read.

    Args:
        memory: of the process.
        tgid: the process.
        library: the mapping of the file's beginning.
    """
    with suppress(OSError, ValueError, struct.error, AbsentError):
        with open_regular(as_seen_by(tgid, library.path), is_small) as file:
            segments = list(segments_of(file.read()))
        place = place_in(segments)
        if place:
            first = min(each.address for each in segments) & -PAGE_BYTES
            return _read(memory, library.start - first + place.address, place.most)
    return None


def is_small(status: os.stat_result) -> bool:
    """Whether a file is small enough to be read."""
    return status.st_size <= MOST_FILE_BYTES


def _read(memory: Memory, address: int, most: int) -> Parameters:
    trim_threshold, _, mmap_threshold, _, arena_max = memory.words(address, 5)
    (chunks,) = struct.unpack("<I", memory.read(address + most - _COUNT_BEFORE, 4))
    mapped = address + (most + _MAPPED_BEHIND + WORD - 1) // WORD * WORD
    has_huge = most - _THP_BEFORE >= _BEHIND_ARENA_MAX
    return Parameters(
        trim_threshold,
        mmap_threshold,
        arena_max,
        memory.words(address + most - _THP_BEFORE, 1)[0] if has_huge else 0,
        chunks,
        memory.words(mapped, 1)[0],
        memory.words(mapped + _DEPTH_BEHIND, 1)[0],
    )
