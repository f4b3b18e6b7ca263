"""What an allocator asked the kernel for, and why: the calls of one process, one after the other.

A state machine without clock and files: calls in, steps out. It knows how glibc's malloc grows its
heap, when it maps, and how it keeps the arenas of threads; whatever else maps anonymous memory to
read and write looks like malloc to it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memtap.tracers.mappings import MAP_SHARED, PROT_WRITE, Space
from memtap.tracers.words import Word

# Of mmap(2) and madvise(2).
_MAP_FIXED, _MAP_ANONYMOUS, _MAP_NORESERVE, _MAP_STACK = 0x10, 0x20, 0x4000, 0x20000
_MADV_DONTNEED, _MADV_FREE = 4, 8

# Of glibc's malloc.c and arena.c on 64 bits: what a heap of an arena reserves (twice that first, to
# find an aligned half), and the threshold, before which it is and beyond which it never moves.
_ARENA_BYTES = 64 << 20
THRESHOLD, _HIGHEST_THRESHOLD = 128 << 10, 32 << 20

# A request becomes a chunk of the next 16 bytes that hold it and 8 more: from so many bytes below
# the threshold on, it reaches it.
_CHUNK_EXTRA = 23


# Up to so many addresses, looking each up takes less time than making arrays of all mappings.
_FEW = 64


class Call(IntEnum):
    """What a process did: system calls, its birth, another program, its end.

    And where the heap is of a process that was there before.
    """

    BRK = 16
    MMAP = 17
    MUNMAP = 18
    MOVED_FROM = 19
    MOVED_TO = 20
    MPROTECT = 21
    MADVISE = 22
    FORK = 23
    EXEC = 24
    EXIT = 25
    HEAP = 26


class Path(Word):
    """The way to memory that a call went."""

    UNKNOWN = 0
    BRK = 1
    MMAP = 2
    ARENA = 3
    OTHER = 4


class Rule(IntEnum):
    """Why a call is taken for what it is."""

    FAILED = 0
    HEAP_SEEN = 1  # brk(0) asks where the heap ends
    HEAP_GROWN = 2
    HEAP_TRIMMED = 3
    CHUNK_MAPPED = 4
    CHUNK_FREED = 5
    THRESHOLD_RAISED = 6  # the same, and the threshold moved up to its size
    CHUNK_RESIZED = 7
    ARENA_RESERVED = 8
    ARENA_ALIGNED = 9  # what is not aligned of it is given back at once
    ARENA_GROWN = 10
    ARENA_SHRUNK = 11
    GIVEN_BACK = 12  # by madvise: the memory, not the addresses
    THREAD_STACK = 13
    FILE = 14
    LOADER = 15
    ANOTHER = 16


class Step(NamedTuple):
    """What a call did.

    Attributes:
        taken, given: bytes that the process got, and gave back.
    """

    path: Path
    rule: Rule
    taken: int = 0
    given: int = 0


class _Use(IntEnum):
    """What a mapping serves for; the numbers in a Space."""

    CHUNK = 1
    RESERVED = 2
    ARENA = 3
    OTHER = 4


_PATH_OF = {
    _Use.CHUNK: Path.MMAP,
    _Use.RESERVED: Path.ARENA,
    _Use.ARENA: Path.ARENA,
    _Use.OTHER: Path.OTHER,
}


class Allocator:
    """One process.

    Attributes:
        threshold: a chunk of so many bytes is mapped on its own (glibc's mmap_threshold).
        dynamic: whether it moves when such a chunk is freed, so far as one can see.
        heap: the program break at the first call that was seen, and now; None before.
    """

    def __init__(self) -> None:
        self.threshold, self.dynamic = THRESHOLD, True
        self.heap: tuple[int, int] | None = None
        self._space = Space()
        self._bytes = dict.fromkeys(_Use, 0)
        self._moving = _Use.OTHER, 0

    def copy(self) -> Allocator:
        """A child's."""
        child = Allocator()
        child.threshold, child.dynamic, child.heap = self.threshold, self.dynamic, self.heap
        child._space, child._bytes = self._space.copy(), self._bytes.copy()
        return child

    @property
    def least_mapped(self) -> int:
        """The smallest request that malloc would map on its own now, in bytes."""
        return self.threshold - _CHUNK_EXTRA

    def live(self, path: Path) -> int:
        """Bytes that the process holds by this way, since it is watched."""
        if path is Path.BRK:
            return max(0, self.heap[1] - self.heap[0]) if self.heap else 0
        return sum(self._bytes[use] for use in _PATH_OF if _is_live(use) and _PATH_OF[use] is path)

    def path_of(self, address: int) -> Path:
        """The way that memory was got; that of the heap is told by its borders."""
        if self.heap and self.heap[0] <= address < self.heap[1]:
            return Path.BRK
        first, last = self._space.overlapping(address, address + 1)
        return _PATH_OF[_Use(self._space.numbers[first])] if first < last else Path.OTHER

    def paths_of(self, addresses: npt.NDArray[np.uint64]) -> list[Path]:
        """path_of() of each; faster for many."""
        if len(addresses) <= _FEW:
            return [self.path_of(address) for address in addresses.tolist()]
        uses, _, _ = self._space.locate(addresses)
        return [_PATH_OF[_Use(use)] if use else Path.OTHER for use in uses.tolist()]

    def call(self, call: Call, start: int, length: int, flags: int) -> Step:
        """A system call that succeeded.

        Args:
            call: which.
            start: the address it was about or, of brk, the new break.
            length: in bytes; of brk, the break that was asked for.
            flags: prot | flags << 8 of mmap, prot of mprotect, the advice of madvise.
        """
        if call is Call.BRK:
            return self._brk(start, length)
        if call is Call.MMAP:
            return self._mmap(start, length, flags & 0xFF, flags >> 8)
        if call is Call.MPROTECT:
            return self._mprotect(start, length, flags)
        if call is Call.MADVISE:
            return self._madvise(start, length, flags)
        if call is Call.MOVED_FROM:
            return self._leave(start, length)
        if call is Call.MOVED_TO:
            return self._arrive(start, length)
        return self._munmap(start, length)

    def map_other(self, start: int, length: int, flags: int) -> Step:
        """mmap(2), by whom it was not malloc."""
        file = not flags >> 8 & _MAP_ANONYMOUS
        rule = Rule.FILE if file else Rule.ANOTHER
        return self._use(start, length, _Use.OTHER, rule, self._held(start, length))

    def _brk(self, now: int, asked: int) -> Step:
        if self.heap is None or asked == 0:
            self.heap = self.heap or (now, now)
            return Step(Path.BRK, Rule.HEAP_SEEN)
        if now != asked:
            return Step(Path.BRK, Rule.FAILED)
        begin, before = self.heap
        self.heap = min(begin, now), now
        if now >= before:
            return Step(Path.BRK, Rule.HEAP_GROWN, taken=now - before)
        return Step(Path.BRK, Rule.HEAP_TRIMMED, given=before - now)

    def _mmap(self, start: int, length: int, prot: int, flags: int) -> Step:
        held = self._held(start, length)
        if flags & _MAP_FIXED and held.get(_Use.ARENA) and not prot:
            return self._use(start, length, _Use.RESERVED, Rule.ARENA_SHRUNK, held)
        if not flags & _MAP_ANONYMOUS:
            return self._use(start, length, _Use.OTHER, Rule.FILE, held)
        if flags & _MAP_STACK:
            return self._use(start, length, _Use.OTHER, Rule.THREAD_STACK, held)
        if flags & (MAP_SHARED | _MAP_FIXED):
            return self._use(start, length, _Use.OTHER, Rule.ANOTHER, held)
        if not prot and flags & _MAP_NORESERVE and length in (_ARENA_BYTES, 2 * _ARENA_BYTES):
            return self._use(start, length, _Use.RESERVED, Rule.ARENA_RESERVED, held)
        if not prot & PROT_WRITE or flags & _MAP_NORESERVE:
            return self._use(start, length, _Use.OTHER, Rule.ANOTHER, held)
        if length <= self.threshold:  # the chunk, its header, up to a whole page: that is more
            self._was_set(length)
        return self._use(start, length, _Use.CHUNK, Rule.CHUNK_MAPPED, held)

    def _was_set(self, length: int) -> None:
        """A smaller chunk than should be is mapped: the program has set its threshold, or its trim.

        Then it moves no more (mallopt(3)), and was this at most.
        """
        self.dynamic = False
        self.threshold = min(THRESHOLD, length)

    def _mprotect(self, start: int, length: int, prot: int) -> Step:
        held = self._held(start, length)
        if prot & PROT_WRITE and held.get(_Use.RESERVED, 0) + held.get(_Use.ARENA, 0) == length:
            return self._use(start, length, _Use.ARENA, Rule.ARENA_GROWN, held)
        if not prot and held.get(_Use.ARENA):
            return self._use(start, length, _Use.RESERVED, Rule.ARENA_SHRUNK, held)
        return Step(_PATH_OF[_most(held)], Rule.ANOTHER)

    def _madvise(self, start: int, length: int, advice: int) -> Step:
        path = self.path_of(start)
        if advice not in (_MADV_DONTNEED, _MADV_FREE):
            return Step(path, Rule.ANOTHER)
        return Step(path, Rule.GIVEN_BACK, given=length)

    def _leave(self, start: int, length: int) -> Step:
        """The first half of mremap(2)."""
        held = self._held(start, length)
        self._moving = _most(held), held.get(_most(held), 0)
        self._drop(start, length, held)
        return Step(_PATH_OF[_most(held)], Rule.CHUNK_RESIZED)

    def _arrive(self, start: int, length: int) -> Step:
        """The second half."""
        use, before = self._moving
        self._use(start, length, use, Rule.CHUNK_RESIZED, self._held(start, length))
        taken, given = max(0, length - before), max(0, before - length)
        return Step(_PATH_OF[use], Rule.CHUNK_RESIZED, taken, given)

    def _drop(self, start: int, length: int, held: dict[_Use, int]) -> None:
        for use, size in held.items():
            self._bytes[use] -= size
        self._space.drop(start, start + length)

    def _munmap(self, start: int, length: int) -> Step:
        held, whole = self._held(start, length), self._is_whole(start, length)
        self._drop(start, length, held)
        path, given = (
            _PATH_OF[_most(held)],
            sum(size for use, size in held.items() if _is_live(use)),
        )
        if path is Path.ARENA and not given:
            return Step(path, Rule.ARENA_ALIGNED)
        if path is not Path.MMAP:
            return Step(path, Rule.ANOTHER, given=given)
        return Step(path, self._freed(length) if whole else Rule.CHUNK_FREED, given=given)

    def _freed(self, length: int) -> Rule:
        """As free() of glibc: who uses a mapped chunk again and again gets it from the heap."""
        if not self.dynamic or not self.threshold < length <= _HIGHEST_THRESHOLD:
            return Rule.CHUNK_FREED
        self.threshold = length
        return Rule.THRESHOLD_RAISED

    def _use(self, start: int, length: int, use: _Use, rule: Rule, held: dict[_Use, int]) -> Step:
        """Lets memory serve for something, whatever it `held` before."""
        for old, size in held.items():
            self._bytes[old] -= size
        self._bytes[use] += length
        self._space.put(start, start + length, use)
        before = sum(size for old, size in held.items() if _is_live(old))
        now = length if _is_live(use) else 0
        return Step(_PATH_OF[use], rule, taken=max(0, now - before), given=max(0, before - now))

    def _held(self, start: int, length: int) -> dict[_Use, int]:
        """How many bytes of a range serve for what."""
        held: dict[_Use, int] = {}
        first, last = self._space.overlapping(start, start + length)
        for at in range(first, last):
            use = _Use(self._space.numbers[at])
            end = min(self._space.ends[at], start + length)
            held[use] = held.get(use, 0) + end - max(self._space.starts[at], start)
        return held

    def _is_whole(self, start: int, length: int) -> bool:
        first, last = self._space.overlapping(start, start + length)
        return last - first == 1 and (
            self._space.starts[first] == start and self._space.ends[first] == start + length
        )


def _is_live(use: _Use) -> bool:
    return use is not _Use.RESERVED


def _most(held: dict[_Use, int]) -> _Use:
    """What most of a range serves for."""
    return max(held, key=lambda use: held[use], default=_Use.OTHER)
