"""What an allocator asks the kernel for, and why: the system calls of one process, in order.

A state machine without clock and files: calls in, steps out. It knows how glibc's malloc grows its
heap, when it calls mmap, and how it keeps the arenas of threads. It takes any other code that maps
anonymous, readable and writable memory for malloc, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memtap.tracers.code.intervals import Space
from memtap.tracers.code.mappings import MAP_SHARED, PROT_WRITE, Region
from memtap.tracers.malloc.owned import NO_OWNER, Held, Owned, Owner, Use, encoded, uses_and_sites
from memtap.tracers.malloc.probes import Call, CallMark
from memtap.tracers.model.labels import Label

# Of mmap(2), mremap(2) and madvise(2).
_MAP_FIXED, _MAP_ANONYMOUS, _MAP_STACK, _MAP_FIXED_NOREPLACE = 0x10, 0x20, 0x20000, 0x100000
_MREMAP_DONTUNMAP = 4
_MADV_DONTNEED, _MADV_FREE = 4, 8

# The initial threshold of glibc's malloc; and the value for a malloc that never maps a block on its
# own (mallopt(M_MMAP_MAX, 0)).
THRESHOLD = 128 << 10
NEVER = (1 << 64) - 1


class _Limits(NamedTuple):
    """Of glibc's malloc.c and arena.c.

    Attributes:
        arena: bytes that a heap of an arena reserves; twice that first, to find an aligned half.
        highest: the threshold never moves beyond this.
        extra: a chunk is the request and a header, rounded up to 16 bytes. So a request reaches the
            threshold from this many bytes below it on.
    """

    arena: int
    highest: int
    extra: int


_BITS_64 = _Limits(arena=64 << 20, highest=32 << 20, extra=23)
_BITS_32 = _Limits(arena=1 << 20, highest=512 << 10, extra=19)


class Path(Label):
    """The path by which a call got memory."""

    UNKNOWN = 0
    BRK = 1
    MMAP = 2
    ARENA = 3
    OTHER = 4


class Rule(IntEnum):
    """The reason for a call."""

    FAILED = 0
    HEAP_SEEN = 1  # brk(0) asks where the heap ends
    HEAP_GROWN = 2
    HEAP_TRIMMED = 3
    CHUNK_MAPPED = 4
    CHUNK_FREED = 5
    THRESHOLD_RAISED = 6  # the same, and the threshold moved up to its size
    CHUNK_RESIZED = 7
    ARENA_RESERVED = 8
    ARENA_ALIGNED = 9  # the unaligned part is unmapped at once
    ARENA_GROWN = 10
    ARENA_SHRUNK = 11
    GIVEN_BACK = 12  # by madvise: the memory, not the addresses
    THREAD_STACK = 13
    FILE = 14
    LOADER = 15
    ANOTHER = 16
    SET_ASIDE = 17  # addresses, which some allocators make usable bit by bit
    COMMITTED = 18
    DECOMMITTED = 19


# Bytes, by the number of the code that got them.
BySite = dict[int, int]


@dataclass(frozen=True)
class Step:
    """What a call did.

    Attributes:
        taken: bytes that the process got.
        back: bytes that it gave back.
        life_ns: how long a mapping was kept that was unmapped as it had been mapped.
    """

    path: Path
    rule: Rule
    taken: int = 0
    back: BySite = field(default_factory=dict)
    life_ns: int | None = None

    @property
    def given(self) -> int:
        """Bytes that the process gave back."""
        return sum(self.back.values())


class Asked(NamedTuple):
    """The arguments of a system call.

    Attributes:
        start: an address; for brk, the break after the call.
        length: in bytes; for brk, 0.
        prot: of mmap and mprotect.
        flags: of mmap and mremap.
        advice: of madvise.
        marks: see CallMark.
        site: the number of the code that made it; 0 if not known.
        ns: when.
        tid: of the thread that made it.
    """

    start: int
    length: int = 0
    prot: int = 0
    flags: int = 0
    advice: int = 0
    marks: int = 0
    site: int = 0
    ns: int = 0
    tid: int = 0


_PATH_OF = {
    Use.NOTHING: Path.OTHER,
    Use.CHUNK: Path.MMAP,
    Use.RESERVED: Path.ARENA,
    Use.ARENA: Path.ARENA,
    Use.HEAP: Path.BRK,
    Use.OTHER: Path.OTHER,
    Use.ASIDE: Path.MMAP,
}
_PATHS = np.array([_PATH_OF[use] for use in Use], np.uint8)
_ARENAS = (Use.RESERVED, Use.ARENA)
_CHUNKS = (Use.ASIDE, Use.CHUNK)
_WITHOUT_MEMORY = (Use.RESERVED, Use.ASIDE)

# The regions that an allocator's memory can be in.
_OURS = (Region.ANON, Region.HEAP)


class Allocator:
    """One process.

    Attributes:
        threshold: a chunk of at least this size is mapped on its own (glibc's mmap_threshold).
        dynamic: whether it moves when such a chunk is freed, as far as we can see.
        is_read: whether it was read from the process, so that it need not be inferred from calls.
        heap: the program break at the first call that was seen, and now; None before that.
    """

    def __init__(self) -> None:
        self.threshold, self.dynamic, self.is_read = THRESHOLD, True, False
        self._before = THRESHOLD
        self.heap: tuple[int, int] | None = None
        self._owned, self._shares = Owned(), False  # with a parent or children, copied on change
        self._moving: dict[int, tuple[Owner, int]] = {}
        self._limits = _BITS_64

    def copy(self) -> Allocator:
        """The allocator of a forked child."""
        child = Allocator()
        child.threshold, child.dynamic, child.is_read = self.threshold, self.dynamic, self.is_read
        child.heap = self.heap
        child._limits = self._limits
        child._owned = self._owned
        child._shares = self._shares = True
        return child

    def _unshare(self) -> None:
        if self._shares:
            self._owned, self._shares = self._owned.copy(), False

    def runs_32_bits(self) -> None:
        """Switches to the limits of a 32-bit program."""
        self._limits = _BITS_32

    def set_threshold(self, threshold: int) -> None:
        """Sets the threshold that was read from the process at the end of the next call."""
        self._before, self.threshold, self.is_read = self.threshold, threshold, True

    @property
    def least_mapped(self) -> int | None:
        """The smallest request that malloc would map on its own now, in bytes; None if none."""
        if self.threshold == NEVER:
            return None
        return max(0, self.threshold - self._limits.extra)

    def live(self) -> dict[tuple[Path, int], int]:
        """Bytes that the process got since it is traced and still holds, by path and site."""
        held: dict[tuple[Path, int], int] = {}
        for (use, site), size in self._owned.sizes.items():
            if use not in _WITHOUT_MEMORY:
                held[_PATH_OF[use], site] = held.get((_PATH_OF[use], site), 0) + size
        if self.heap:
            begin, end = self.heap
            before = end - begin - sum(self._owned.held(begin, end - begin).values())
            held[Path.BRK, 0] = held.get((Path.BRK, 0), 0) + before
        return held

    @property
    def space(self) -> Space:
        """The use of its memory now, by address; see owned.encoded() and owners_of()."""
        return self._owned.space

    def has_in_its_way(self, asked: Asked) -> bool:
        """Whether the range of this mmap(2) still holds an earlier mapping."""
        is_fixed = asked.flags & (_MAP_FIXED | _MAP_FIXED_NOREPLACE)
        return not is_fixed and not self._owned.is_free(asked.start, asked.length)

    def call(self, call: Call, asked: Asked) -> Step:
        """Takes a system call that succeeded; or a brk(2), which may have failed."""
        self._unshare()
        return _HANDLERS[call](self, asked)

    def map_other(self, asked: Asked) -> Step:
        """Takes an mmap(2) that malloc did not make."""
        self._unshare()
        file = not asked.flags & _MAP_ANONYMOUS
        return self._use(asked, Use.OTHER, Rule.FILE if file else Rule.ANOTHER)

    def _brk(self, asked: Asked) -> Step:
        now = asked.start
        if self.heap is None or asked.marks & CallMark.ASKS:
            self.heap = self.heap or (now, now)
            return Step(Path.BRK, Rule.HEAP_SEEN)
        if asked.marks & CallMark.REFUSED:
            return Step(Path.BRK, Rule.FAILED)
        begin, before = self.heap
        self.heap = min(begin, now), now
        if now > before:
            self._owned.put(before, now - before, (Use.HEAP, asked.site), asked.ns)
        if now >= before:
            return Step(Path.BRK, Rule.HEAP_GROWN, taken=now - before)
        return Step(Path.BRK, Rule.HEAP_TRIMMED, back=self._trim(now, before - now))

    def _trim(self, start: int, length: int) -> BySite:
        """What is given back of the heap, by site; the site of older memory is not known."""
        held = self._owned.drop(start, length)
        back = _live(held)
        if unknown := length - sum(held.values()):
            back[0] = back.get(0, 0) + unknown
        return back

    def _mmap(self, asked: Asked) -> Step:
        prot, flags = asked.prot, asked.flags
        if flags & _MAP_FIXED and not prot and self._holds(asked, Use.ARENA):
            return self._use(asked, Use.RESERVED, Rule.ARENA_SHRUNK)
        if not flags & _MAP_ANONYMOUS:
            return self._use(asked, Use.OTHER, Rule.FILE)
        if flags & _MAP_STACK:
            return self._use(asked, Use.OTHER, Rule.THREAD_STACK)
        if flags & MAP_SHARED:
            return self._use(asked, Use.OTHER, Rule.ANOTHER)
        if flags & _MAP_FIXED and not prot and self._holds(asked, Use.HEAP):  # musl keeps a guard
            back = _live(self._owned.put(asked.start, asked.length, (Use.ASIDE, 0), asked.ns))
            return Step(Path.BRK, Rule.DECOMMITTED, back=back)
        if flags & _MAP_FIXED:  # glibc never does that to an arena
            changed = self._change(asked, prot, (*_CHUNKS, Use.RESERVED))
            return changed or self._use(asked, Use.OTHER, Rule.ANOTHER)
        wants_arena = asked.length in (self._limits.arena, 2 * self._limits.arena)
        if not prot and wants_arena:  # older glibc sets MAP_NORESERVE, too
            return self._use(asked, Use.RESERVED, Rule.ARENA_RESERVED)
        if not prot:
            return self._use(asked, Use.ASIDE, Rule.SET_ASIDE)
        if not prot & PROT_WRITE:
            return self._use(asked, Use.OTHER, Rule.ANOTHER)
        # The chunk and its header, rounded up to a page, are more than the threshold.
        if asked.length <= self.threshold and not self.is_read:
            self._was_set(asked.length)
        return self._use(asked, Use.CHUNK, Rule.CHUNK_MAPPED)

    def _was_set(self, length: int) -> None:
        """A chunk below the threshold was mapped: the program has set its threshold, or its trim.

        Then the threshold no longer moves (mallopt(3)), and is at most this length.
        """
        self.dynamic = False
        self.threshold = min(THRESHOLD, length)

    def _change(self, asked: Asked, prot: int, of: tuple[Use, ...] = _CHUNKS) -> Step | None:
        """Makes addresses that were set aside usable, or chunks unusable; None for other memory.

        musl makes a thread's stack usable like this: all but a guard at its end.
        """
        if self._holds(asked, *of) < asked.length:
            return None
        if not prot:
            return self._use(asked, Use.ASIDE, Rule.DECOMMITTED)
        if not (prot & PROT_WRITE and self._holds(asked, *_WITHOUT_MEMORY)):
            return None
        if self._owned.is_end(asked.start, asked.length):
            return self._use(asked, Use.OTHER, Rule.THREAD_STACK)
        return self._use(asked, Use.CHUNK, Rule.COMMITTED)

    def _mprotect(self, asked: Asked) -> Step:
        if not asked.length:
            return Step(Path.OTHER, Rule.ANOTHER)
        if asked.prot & PROT_WRITE and self._holds(asked, *_ARENAS) == asked.length:
            return self._use(asked, Use.ARENA, Rule.ARENA_GROWN)
        if not asked.prot and self._holds(asked, Use.ARENA):
            return self._use(asked, Use.RESERVED, Rule.ARENA_SHRUNK)
        if changed := self._change(asked, asked.prot):
            return changed
        held = self._owned.held(asked.start, asked.length)
        return Step(_PATH_OF[_most(held)[0]], Rule.ANOTHER)

    def _madvise(self, asked: Asked) -> Step:
        use, site = self._owned.at(asked.start)
        path = Path.BRK if self._in_heap(asked.start) else _PATH_OF[use]
        if asked.advice not in (_MADV_DONTNEED, _MADV_FREE):
            return Step(path, Rule.ANOTHER)
        return Step(path, Rule.GIVEN_BACK, back={site: asked.length})

    def _in_heap(self, address: int) -> bool:
        return self.heap is not None and self.heap[0] <= address < self.heap[1]

    def _leave(self, asked: Asked) -> Step:
        """The first half of mremap(2), which may also leave the memory where it is."""
        stays = asked.flags & _MREMAP_DONTUNMAP or not asked.length
        held = self._owned.held(asked.start, asked.length or 1)
        owner = _most(held)
        self._moving[asked.tid] = owner, 0 if stays else sum(held.values())
        if not stays:
            self._owned.drop(asked.start, asked.length)
        return Step(_PATH_OF[owner[0]], Rule.CHUNK_RESIZED)

    def _arrive(self, asked: Asked) -> Step:
        """The second half; moved memory still belongs to the code that got it.

        Memory that it is moved over is given back.
        """
        (use, site), before = self._moving.pop(asked.tid, (NO_OWNER, 0))
        owner = use or Use.OTHER, site
        back = _live(self._owned.put(asked.start, asked.length, owner, asked.ns))
        taken, given = max(0, asked.length - before), max(0, before - asked.length)
        if given:
            back[site] = back.get(site, 0) + given
        return Step(_PATH_OF[owner[0]], Rule.CHUNK_RESIZED, taken, back)

    def _munmap(self, asked: Asked) -> Step:
        whole = self._owned.is_whole(asked.start, asked.length)
        born = self._owned.born_ns(asked.start) if whole else None
        held = self._owned.drop(asked.start, asked.length)
        path, back = _PATH_OF[_most(held)[0]], _live(held)
        if path is Path.ARENA and not back:
            return Step(path, Rule.ARENA_ALIGNED)
        if path is not Path.MMAP or not back:
            return Step(path, Rule.ANOTHER, back=back)
        rule = self._freed(asked.length) if whole else Rule.CHUNK_FREED
        return Step(path, rule, back=back, life_ns=None if born is None else asked.ns - born)

    def _freed(self, length: int) -> Rule:
        """As glibc's free(): raises the threshold, so that the heap serves the next such chunk."""
        if self.is_read:
            raised = self._before < length == self.threshold
            return Rule.THRESHOLD_RAISED if raised else Rule.CHUNK_FREED
        if not self.dynamic or not self.threshold < length <= self._limits.highest:
            return Rule.CHUNK_FREED
        self.threshold = length
        return Rule.THRESHOLD_RAISED

    def _use(self, asked: Asked, use: Use, rule: Rule) -> Step:
        """Sets the use of a range, whatever it was before."""
        back = _live(self._owned.put(asked.start, asked.length, (use, asked.site), asked.ns))
        before, now = sum(back.values()), 0 if use in _WITHOUT_MEMORY else asked.length
        if now >= before:
            return Step(_PATH_OF[use], rule, taken=now - before)
        return Step(_PATH_OF[use], rule, back=back)

    def _holds(self, asked: Asked, *uses: Use) -> int:
        """How many bytes of a range have one of these uses."""
        held = self._owned.held(asked.start, asked.length)
        return sum(size for (use, _), size in held.items() if use in uses)


def owners_of(
    numbers: npt.NDArray[np.uint32], regions: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """The paths and sites of memory, by its numbers in Allocator.space.

    The heap is recognised by its region, as it may be older than tracing. Stacks are not malloc's,
    nor is memory that is not anonymous.
    """
    uses, sites = uses_and_sites(np.where(np.isin(regions, _OURS), numbers, encoded(NO_OWNER)))
    in_heap = regions == Region.HEAP
    paths = np.where(in_heap, Path.BRK, _PATHS[uses]).astype(np.uint8)
    return paths, np.where(in_heap & (uses != Use.HEAP), 0, sites)


_HANDLERS: dict[Call, Callable[[Allocator, Asked], Step]] = {
    Call.BRK: Allocator._brk,
    Call.MMAP: Allocator._mmap,
    Call.MUNMAP: Allocator._munmap,
    Call.MOVED_FROM: Allocator._leave,
    Call.MOVED_TO: Allocator._arrive,
    Call.MPROTECT: Allocator._mprotect,
    Call.MADVISE: Allocator._madvise,
}


def _live(held: Held) -> BySite:
    """The bytes of usable memory in it, by site; reserved addresses of an arena do not count."""
    live: BySite = {}
    for (use, site), size in held.items():
        if use not in _WITHOUT_MEMORY:
            live[site] = live.get(site, 0) + size
    return live


def _most(held: Held) -> Owner:
    """The owner of most of a range."""
    return max(held, key=lambda owner: held[owner], default=NO_OWNER)
