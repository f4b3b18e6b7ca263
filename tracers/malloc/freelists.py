"""Walks the lists of free chunks of an arena while the process runs.

A free chunk has links to the next chunk and to the previous one, which must agree. If they do not,
the list changed during the walk, and is walked again. Used chunks are not read, so the time depends
on the number of free chunks alone.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from itertools import chain

from memtap.tracers.malloc.arenas import FLAGS, LINKS_AT, Arena, Region
from memtap.tracers.malloc.memory import WORD, AbsentError, Memory, OutOfTimeError

# The first list holds the chunks freed last; from this list on lists hold chunks of 1 KiB and more.
_UNSORTED, _LARGE_FROM = 0, 63

LEAST, _ALIGNED = 32, 15

# How far apart the sizes of fastbins are, and those of a tcache.
STEP = 16

# How often a list is walked until that succeeds. From glibc 2.32 on single links are mangled with
# their own address, shifted by this; others are not, that is shifted by all bits.
_TRIES = 4
_MIXED, _PLAIN = 12, 64


class ListKind(IntEnum):
    """The kind of a list."""

    FAST = 0
    UNSORTED = 1
    SMALL = 2
    LARGE = 3


class BrokenError(LookupError):
    """The links of a list do not agree."""


class Spans:
    """The memory that can hold chunks of an arena; adjoining regions are joined."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in sorted(regions):
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(end, self._ends[-1])
            else:
                self._starts.append(start)
                self._ends.append(end)

    @property
    def ranges(self) -> list[Region]:
        """The regions in order."""
        return list(zip(self._starts, self._ends, strict=True))

    def check(self, chunk: int, size: int) -> None:
        """Raises BrokenError unless such a chunk can be there."""
        at = bisect_right(self._starts, chunk) - 1
        is_odd = chunk & _ALIGNED or size & _ALIGNED or size < LEAST
        if is_odd or at < 0 or chunk + size > self._ends[at]:
            raise BrokenError(hex(chunk))

    def check_end(self, top: Region) -> None:
        """The same for a top, which an arena may lack."""
        if top[0] != top[1]:
            self.check(top[0], top[1] - top[0])


@dataclass
class Free:
    """The free chunks of an arena, without its top.

    Attributes:
        chunks, sizes: all of them.
        bytes_of: their bytes by the kind of the list.
        is_whole: whether all lists were walked to their ends.
    """

    chunks: array[int] = field(default_factory=lambda: array("Q"))
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    bytes_of: dict[ListKind, int] = field(default_factory=lambda: dict.fromkeys(ListKind, 0))
    is_whole: bool = True

    def add(self, kind: ListKind, found: Found) -> None:
        """Adds the chunks of a list."""
        self.chunks.extend(found.chunks)
        self.sizes.extend(found.sizes)
        self.bytes_of[kind] += sum(found.sizes)
        self.is_whole &= found.is_whole


@dataclass
class Found:
    """The chunks found in a list, and whether these are all."""

    chunks: array[int] = field(default_factory=lambda: array("Q"))
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    is_whole: bool = False

    def add(self, chunk: int, size: int) -> None:
        """Adds a chunk."""
        self.chunks.append(chunk)
        self.sizes.append(size)

    def extend(self, other: Found) -> None:
        """Adds the chunks of another list."""
        self.chunks.extend(other.chunks)
        self.sizes.extend(other.sizes)


Walk = Callable[[Found], None]


def free_in(memory: Memory, arena: Arena, spans: Spans) -> Free:
    """All free chunks now; if that takes too long, those found until then."""
    walks = chain(_fast_walks(memory, arena, spans), _list_walks(memory, arena, spans))
    return _gathered(memory, walks)


def fast_in(memory: Memory, arena: Arena, spans: Spans) -> Free:
    """The same for fastbins alone."""
    return _gathered(memory, _fast_walks(memory, arena, spans))


def _gathered(memory: Memory, walks: Iterable[tuple[ListKind, Sequence[Walk]]]) -> Free:
    free = Free()
    for kind, tries in walks:
        if memory.is_over:
            free.is_whole = False
        else:
            free.add(kind, best_of(tries))
    return free


def best_of(tries: Sequence[Walk]) -> Found:
    """The result of the first walk that reaches the end; else that of the longest one."""
    best = Found()
    for walk in tries:
        found = Found()
        try:
            walk(found)
            found.is_whole = True
            return found
        except (BrokenError, AbsentError, OutOfTimeError):
            best = max(best, found, key=lambda each: len(each.chunks))
    return best


def _list_walks(
    memory: Memory, arena: Arena, spans: Spans
) -> Iterator[tuple[ListKind, Sequence[Walk]]]:
    """The walks for each list that is not empty."""
    for number, first in enumerate(arena.lists[::2]):
        head = arena.first_list + 2 * number * WORD - LINKS_AT
        kind = ListKind.UNSORTED if number == _UNSORTED else ListKind.SMALL
        kind = ListKind.LARGE if number >= _LARGE_FROM else kind
        if first != head:
            yield kind, [partial(_walk, memory, head, spans)] * _TRIES


def _walk(memory: Memory, head: int, spans: Spans, found: Found) -> None:
    """Walks a list. Raises BrokenError, AbsentError and OutOfTimeError."""
    before = head
    (chunk,) = memory.words(head + LINKS_AT, 1)
    while chunk != head:
        size, following, previous = memory.words(chunk + WORD, 3)
        size &= ~FLAGS
        if previous != before:
            raise BrokenError(hex(chunk))
        spans.check(chunk, size)
        found.add(chunk, size)
        before, chunk = chunk, following


def _fast_walks(
    memory: Memory, arena: Arena, spans: Spans
) -> Iterator[tuple[ListKind, Sequence[Walk]]]:
    """The walks for each fastbin that is not empty."""
    for number, first in enumerate(arena.fastbins):
        if first:
            yield ListKind.FAST, row_walks(memory, Row(first, LEAST + number * STEP), spans)


@dataclass(frozen=True)
class Row:
    """A chain of chunks with single links; that of the last chunk is 0.

    Attributes:
        first: the first chunk.
        size: of each chunk; 0 if sizes may differ.
        ahead: the offset in a chunk that links point to.
        count: the number of chunks; None if unknown.
    """

    first: int
    size: int
    ahead: int = 0
    count: int | None = None


def row_walks(memory: Memory, row: Row, spans: Spans) -> Sequence[Walk]:
    """The walks for a chain: its links are mangled, or they are not."""
    return [partial(_walk_row, memory, row, spans, mixed) for mixed in (_MIXED, _PLAIN)]


def _walk_row(memory: Memory, row: Row, spans: Spans, mixed: int, found: Found) -> None:
    """Walks a chain whose links are mangled by their address shifted by this. Raises as _walk()."""
    chunk, most = row.first, math.inf if row.count is None else row.count
    while chunk and len(found.chunks) < most:
        size, link = memory.words(chunk + WORD, 2)
        size &= ~FLAGS
        if row.size not in (0, size):
            raise BrokenError(hex(chunk))
        spans.check(chunk, size)
        found.add(chunk, size)
        following = link ^ (chunk + LINKS_AT) >> mixed
        chunk = following - row.ahead if following else 0
    if chunk or (row.count is not None and len(found.chunks) != row.count):
        raise BrokenError(hex(chunk))
