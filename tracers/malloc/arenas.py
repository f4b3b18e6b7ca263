"""Finds the arenas of glibc's malloc in a process, and reads them.

The main arena is a variable without a symbol (main_arena of malloc.c). Its content gives it away:
the links of an empty list point to the list itself, the last list is always empty, and `next` leads
through all arenas and back. The same pointers show how far an arena's lists are from its beginning,
which differs between versions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from memtap.tracers.code.intervals import PAGE_BYTES
from memtap.tracers.malloc.memory import U64, WORD, AbsentError, Memory

# struct malloc_state has two words for each list. Behind the lists it has 16 bytes of bits, `next`,
# next_free, attached_threads and system_mem; before them `top` and last_remainder, and before these
# the fastbins, which glibc 2.43 no longer has.
LISTS, _BITS = 127, 2
_NEXT = 2 * LISTS + _BITS
_TAIL = 4
_BEFORE_WITHOUT, _BEFORE = 3, (13, 14)
FASTBINS = 10

# A flag in malloc_state, behind the mutex: the memory is not contiguous.
_NONCONTIGUOUS = 2 << 32

# The links of an empty list point here before the list: malloc treats the list as a chunk, which
# has its links at this offset.
LINKS_AT = 16

# The lowest bits of a chunk's size are flags.
FLAGS = 7

# How often an arena is read whose top moves meanwhile.
_TRIES = 10

# No process needs more arenas; one that has more wants to keep us busy.
_MOST_ARENAS = 4096

# A heap of a thread's arena begins with the address of the arena, that of the previous heap, and
# its size. It is aligned to the size that it may grow to: 64 MiB, or up to glibc 2.41 and with huge
# pages four of these.
_HEAP_WORDS = 3
_HEAP_BITS = (26, 23, 24, 25, *range(27, 37), 22, 21, 20)
_LARGEST_HEAP = 1 << 36

Region = tuple[int, int]


@dataclass(frozen=True)
class Arena:
    """An arena at a moment.

    Attributes:
        number: as in malloc_info(3): 0 is the main arena, the others follow in the order of `next`.
        address: of its malloc_state.
        first_list: the address of the links of its first list; the others follow.
        lists: the links of all lists, two for each list.
        fastbins: the first chunk of each; empty if this glibc has no fastbins.
        top: start and end of the chunk at its end; equal if it has none.
        size: the bytes that it has from the kernel.
        threads: how many use it.
        is_contiguous: whether its memory is in one piece.
        regions: its memory, as far as known.
    """

    number: int
    address: int
    first_list: int
    lists: tuple[int, ...]
    fastbins: tuple[int, ...]
    top: Region
    size: int
    threads: int
    is_contiguous: bool
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class Arenas:
    """The arenas of a process.

    Attributes:
        before: words of malloc_state before its lists.
        addresses: of all, the main arena first.
    """

    before: int
    addresses: tuple[int, ...]

    def look(self, memory: Memory, number: int) -> Arena:
        """Reads one of them. Raises AbsentError, and OutOfTimeError."""
        address = self.addresses[number]
        words, length = self._with_top(memory, address)
        begin, lists = words[self.before - 2], words[self.before : self.before + 2 * LISTS]
        _, _, threads, size = words[self.before + _NEXT :]
        fastbins = words[: self.before - 2][-FASTBINS:] if self.before > FASTBINS else ()
        regions = _heaps(memory, address, begin) if number else _main(memory, begin)
        return Arena(
            number,
            address,
            address + self.before * WORD,
            lists,
            fastbins,
            (begin, begin + length),
            size,
            threads,
            not words[0] & _NONCONTIGUOUS,
            tuple(regions),
        )

    def _with_top(self, memory: Memory, address: int) -> tuple[tuple[int, ...], int]:
        """The words of an arena, and the size of its top, which has not moved meanwhile."""
        for _ in range(_TRIES):
            words = memory.words(address, self.before + _NEXT + _TAIL)
            begin = words[self.before - 2]
            if address <= begin < address + len(words) * WORD:  # it has none yet
                return words, 0
            with suppress(AbsentError):
                length = memory.words(begin + WORD, 1)[0] & ~FLAGS
                if memory.words(address + (self.before - 2) * WORD, 1)[0] == begin:
                    return words, length
            memory.forget()
        raise AbsentError(hex(address))


def find(memory: Memory, regions: Iterable[Region]) -> Arenas | None:
    """Searches these regions for the main arena; None if it is not there, or was never used."""
    for start, end in regions:
        for at, words in memory.runs(start, end):
            for last_list in _last_lists(np.frombuffer(words, np.uint64), at):
                if found := _arenas_by(memory, last_list - 2 * (LISTS - 1) * WORD):
                    return found
    return None


def _last_lists(words: U64, at: int) -> list[int]:
    """The addresses of possible last lists: of an empty list that no empty list follows."""
    own = np.uint64(at - LINKS_AT) + np.arange(len(words), dtype=np.uint64) * np.uint64(WORD)
    is_empty = np.append((words[:-1] == own[:-1]) & (words[1:] == own[:-1]), [False] * 3)
    return [at + int(place) * WORD for place in np.flatnonzero(is_empty[:-2] & ~is_empty[2:])]


def _arenas_by(memory: Memory, first_list: int) -> Arenas | None:
    """The arenas, if the main arena has its first list at this address."""
    for before in (*_BEFORE, _BEFORE_WITHOUT):
        with suppress(AbsentError):
            addresses = _chain(memory, first_list - before * WORD, before)
            if addresses:
                return Arenas(before, tuple(addresses))
    return None


def _chain(memory: Memory, main: int, before: int) -> Sequence[int]:
    """The arenas from this one on, if `next` leads through all of them and back; else empty."""
    found: dict[int, None] = {}
    address = main
    while len(found) < _MOST_ARENAS:
        words = memory.words(address, before + _NEXT + 1)
        if not _are_lists(words[before : -_BITS - 1], address + before * WORD):
            return ()
        found[address] = None
        address = words[-1]
        if address in found:
            return list(found) if address == main else ()
    return ()


def _are_lists(links: Sequence[int], first_list: int) -> bool:
    """Whether each list is either empty or has two links elsewhere, and the last list is empty."""
    own = [first_list + 2 * number * WORD - LINKS_AT for number in range(LISTS)]
    firsts, lasts = links[::2], links[1::2]
    pairs = zip(own, firsts, lasts, strict=True)
    could_be = all((first == self) == (last == self) for self, first, last in pairs)
    return could_be and firsts[-1] == own[-1] and all(links)


def _main(memory: Memory, top: int) -> Iterator[Region]:
    """The memory of the main arena: the heap, and the mapping that holds its top."""
    for mapped in memory.mapped:
        if mapped.path == "[heap]" or mapped.start <= top < mapped.end:
            yield mapped.start, mapped.end


def _heaps(memory: Memory, arena: int, top: int) -> Iterator[Region]:
    """The heaps of a thread's arena, the last first; stops at one that is forged."""
    base, seen = _last_heap(memory, arena, top), set[int]()
    while base and base not in seen:
        seen.add(base)
        owner, before, size = memory.words(base, _HEAP_WORDS)
        if owner != arena or size % PAGE_BYTES or not 0 < size <= _LARGEST_HEAP:
            return
        yield base, base + size
        base = before


def _last_heap(memory: Memory, arena: int, top: int) -> int:
    """The start of the heap that holds the top; 0 if there is none."""
    for bits in _HEAP_BITS:
        base = top >> bits << bits
        with suppress(AbsentError):
            owner, _, size = memory.words(base, _HEAP_WORDS)
            if owner == arena and top < base + size:
                return int(base)
    return 0
