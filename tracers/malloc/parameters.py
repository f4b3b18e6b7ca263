"""Where glibc keeps what malloc goes by (mp_ of malloc.c), and what that is in a process.

glibc has it in a variable of which it tells no name. But that begins with numbers that stand in the
file nowhere else.
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
# n_mmaps_max is somewhat behind them.
_PARAMETERS = struct.pack("<4Q", 128 << 10, 128 << 10, 128 << 10, 8)
MMAP_THRESHOLD_AT = 16
_MOST, _NEAR = struct.pack("<I", 1 << 16), 64

# Of those a process has: before n_mmaps_max stands n_mmaps, and before that, if there is room
# behind arena_max, thp_pagesize, hp_pagesize and hp_flags. Behind it stand two more numbers of 32
# bits, mmapped_mem, max_mmapped_mem, sbrk_base, and three of the tcache, its depth the last.
_ARENA_MAX_AT, _BEHIND_ARENA_MAX = 32, 40
_THP_BEFORE, _COUNT_BEFORE, _MAPPED_BEHIND, _DEPTH_BEHIND = 24, 4, 12, 40

# Of elf(5): offset, size and count of the program headers; and one of those, of 64-bit files.
_HEADER = struct.Struct("<5s27xQ14xHH")
_MAGIC = b"\x7fELF\2"
_SEGMENT = struct.Struct("<IIQQQQQQ")
_LOAD = 1

MOST_FILE_BYTES = 16 << 20


@dataclass(frozen=True)
class Segment:
    """A part of a file, and where it begins in memory, from the beginning of the file on."""

    address: int
    data: bytes

    def find(self, wanted: bytes) -> int | None:
        """The place in memory of what stands here once; else None."""
        at = self.data.find(wanted)
        return None if at < 0 or self.data.count(wanted) > 1 else self.address + at


def segments_of(elf: bytes) -> Iterator[Segment]:
    """What of a file is loaded into memory. Raises struct.error."""
    magic, at, size, count = _HEADER.unpack_from(elf)
    if magic != _MAGIC:
        return
    for number in range(count):
        kind, _, offset, address, _, length, *_ = _SEGMENT.unpack_from(elf, at + number * size)
        if kind == _LOAD:
            yield Segment(address, elf[offset : offset + length])


def only(segments: Sequence[Segment], wanted: bytes) -> int | None:
    """Where the only one of its kind stands in memory."""
    found = [at for each in segments if (at := each.find(wanted)) is not None]
    return found[0] if len(found) == 1 else None


def bytes_at(segments: Sequence[Segment], address: int, length: int) -> bytes:
    """What of a file stands at an address in memory."""
    segment = max((each for each in segments if each.address <= address), key=lambda s: s.address)
    return segment.data[address - segment.address :][:length]


@dataclass(frozen=True)
class Place:
    """Where a file has them.

    Attributes:
        address: of the first, in memory, from the beginning of the file on.
        most: how far behind that n_mmaps_max stands.
    """

    address: int
    most: int


def place_in(segments: Sequence[Segment]) -> Place | None:
    """None of a file that is no 64-bit glibc, or holds none."""
    address = only(segments, _PARAMETERS)
    if address is None:
        return None
    near = bytes_at(segments, address, _NEAR + len(_PARAMETERS))
    most = near.find(_MOST, len(_PARAMETERS))
    return Place(address, most) if most > 0 else None


@dataclass(frozen=True)
class Parameters:
    """What malloc goes by in a process.

    Attributes:
        trim_threshold: how large the top of the main heap gets before it is given back.
        mmap_threshold: the smallest chunk that is mapped on its own.
        arena_max: how many arenas there may be at most; 0 if it depends on the CPUs.
        huge_page: what the heap is given back in multiples of; 0 if that is a page.
        mapped_chunks, mapped_bytes: what is mapped on its own.
        tcache_depth: how many blocks of a size a thread keeps.
    """

    trim_threshold: int
    mmap_threshold: int
    arena_max: int
    huge_page: int
    mapped_chunks: int
    mapped_bytes: int
    tcache_depth: int


def parameters_of(memory: Memory, tgid: int, library: Mapped) -> Parameters | None:
    """Those of a process whose malloc is in this file, mapped from its beginning on."""
    with suppress(OSError, ValueError, struct.error, AbsentError):
        with open_regular(as_seen_by(tgid, library.path), is_small) as file:
            segments = list(segments_of(file.read()))
        place = place_in(segments)
        if place:
            first = min(each.address for each in segments) & -PAGE_BYTES
            return _read(memory, library.start - first + place.address, place.most)
    return None


def is_small(status: os.stat_result) -> bool:
    """Whether a file is read at all."""
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
