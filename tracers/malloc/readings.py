"""Reads arenas while the process runs, and adds them up.

An arena that changes while it is read is read again. If it changes each time, the difference of two
readings bounds the numbers; if its lists could not be walked, all memory that is in no list does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from memtap.tracers.malloc.arenas import Arena, Arenas, Region
from memtap.tracers.malloc.freelists import BrokenError, Free, ListKind, Spans, fast_in, free_in
from memtap.tracers.malloc.memory import AbsentError, Memory, OutOfTimeError, is_data, ranges_of
from memtap.tracers.malloc.parameters import Parameters
from memtap.tracers.malloc.sampling import Sample, sample
from memtap.tracers.malloc.tcaches import tcaches_in
from memtap.tracers.malloc.trim import given_back

# How often an arena that changes is read.
_TRIES = 5

# Shares of the time: for walking lists, and for sampling the arenas that this leaves.
_WALKING, _SAMPLING = 0.4, 0.2


class Part(IntEnum):
    """A number on an arena."""

    SIZE = 0
    RESIDENT = 1
    USED = 2
    STUCK = 3  # free, and not at the end
    TOP = 4  # free, at the end
    TRIM = 5  # what malloc_trim(0) would give back of what is in memory
    BOUND = 6  # how far USED and STUCK may be off
    TCACHE = 7
    FAST = 8
    UNSORTED = 9
    SMALL = 10
    LARGE = 11
    CHUNKS = 12
    THREADS = 13
    NUMBER = 14
    TRIM_THRESHOLD = 15
    MMAP_THRESHOLD = 16
    ARENA_MAX = 17


# The NUMBER of chunks with a mapping of their own, which are in no arena.
MAPPED = 1 << 32

_PART_OF = {
    ListKind.FAST: Part.FAST,
    ListKind.UNSORTED: Part.UNSORTED,
    ListKind.SMALL: Part.SMALL,
    ListKind.LARGE: Part.LARGE,
}

_CHUNK = np.dtype([("chunk", "u8"), ("size", "u8")])


@dataclass(frozen=True)
class Reading:
    """An arena as it was read.

    Attributes:
        arena: its state.
        free: its free chunks; None if they could not be read.
        bound: how far the free bytes may be off.
        sample: an estimate, if its lists are too long; then `free` has only the fastbins.
    """

    arena: Arena
    free: Free | None
    bound: int = 0
    sample: Sample | None = None

    @property
    def free_bytes(self) -> int:
        """The free bytes known, without the top."""
        listed = sum(self.free.bytes_of.values()) if self.free else 0
        return listed + (self.sample.free if self.sample else 0)

    @property
    def top_bytes(self) -> int:
        """The bytes of the top."""
        return self.arena.top[1] - self.arena.top[0]

    @property
    def rest(self) -> int:
        """The bytes that are neither known to be free nor the top."""
        return max(self.arena.size - self.top_bytes - self.free_bytes, 0)


def read_all(memory: Memory, arenas: Arenas) -> list[Reading]:
    """Reads all arenas that can be read; samples those that there is no time to walk."""
    readings: list[Reading] = []
    numbers = deque(range(len(arenas.addresses)))
    memory.begin(_WALKING)
    while numbers and not memory.is_over:
        with suppress(AbsentError, OutOfTimeError):  # it moves all the time, or is not in memory
            readings.append(_read(memory, arenas, numbers[0]))
        if not memory.is_over:
            numbers.popleft()
    last = (
        readings.pop() if readings and numbers and readings[-1].arena.number == numbers[0] else None
    )
    for number in numbers:
        memory.begin(_SAMPLING / len(numbers))
        with suppress(AbsentError, OutOfTimeError):
            readings.append(_sampled(memory, arenas.look(memory, number), last))
    return readings


def _sampled(memory: Memory, arena: Arena, last: Reading | None) -> Reading:
    """Samples an arena; falls back on the last reading if it is too small for that."""
    spans = Spans(where(memory, arena))
    try:
        spans.check_end(arena.top)
    except BrokenError:
        return Reading(arena, None)
    free = fast_in(memory, arena, spans)
    is_known = arena.number or arena.is_contiguous
    if is_known and (found := sample(memory, arena.regions)):
        return Reading(arena, free, found.bound, found)
    if last and last.arena.number == arena.number:
        return last
    return Reading(arena, free, Reading(arena, free).rest)


def _read(memory: Memory, arenas: Arenas, number: int) -> Reading:
    """Reads an arena until it does not change meanwhile. Raises OutOfTimeError, and AbsentError."""
    readings: list[Reading] = []
    for _ in range(_TRIES):
        with suppress(AbsentError):
            reading, stands_still = _once(memory, arenas, arenas.look(memory, number))
            if stands_still:
                return reading
            readings.append(reading)
            if memory.is_over:
                break
        memory.forget()
    if not readings:
        raise AbsentError(number)
    return _bounded(readings)


def _once(memory: Memory, arenas: Arenas, arena: Arena) -> tuple[Reading, bool]:
    """Walks its lists; also returns whether that was complete, and nothing changed meanwhile."""
    spans = Spans(where(memory, arena))
    try:
        spans.check_end(arena.top)
        free = free_in(memory, arena, spans)
        stands_still = free.is_whole and arenas.look(memory, arena.number) == arena
    except OutOfTimeError:
        stands_still = False
    except (BrokenError, AbsentError):
        return Reading(arena, None), False
    return Reading(arena, free), stands_still


def where(memory: Memory, arena: Arena) -> Sequence[Region]:
    """The memory that can hold its chunks; for a main arena in pieces all anonymous memory."""
    if arena.number or arena.is_contiguous:
        return arena.regions
    return [(m.start, m.end) for m in memory.mapped if is_data(m) and not m.path.startswith("/")]


def _bounded(readings: Sequence[Reading]) -> Reading:
    """The best of readings that all saw changes, with a bound."""
    whole = [each for each in readings if each.free and each.free.is_whole]
    if len(whole) > 1:
        before, last = whole[-2:]
        return Reading(last.arena, last.free, _difference(before, last))
    best = max(readings, key=lambda each: each.free_bytes)
    return Reading(best.arena, best.free, best.rest)


def _difference(one: Reading, other: Reading) -> int:
    """The bytes that only one of two readings has."""
    both = np.concatenate([_chunks(each.free) for each in (one, other) if each.free])
    chunks, times = np.unique(both, return_counts=True)
    grown = abs(one.arena.size - other.arena.size) + abs(one.top_bytes - other.top_bytes)
    return int(chunks["size"][times == 1].sum()) + grown


def _chunks(free: Free) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    made = np.zeros(len(free.chunks), _CHUNK)
    made["chunk"], made["size"] = free.chunks, free.sizes
    return made


def kept_by_threads(
    memory: Memory, arenas: Sequence[Arena], parameters: Parameters | None
) -> dict[int, int] | None:
    """The bytes of each arena that are in tcaches, by its number; None if there was no time."""
    spans = Spans([region for each in arenas for region in _without_top(memory, each)])
    owners = sorted((*region, each.number) for each in arenas for region in each.regions)
    depth = parameters.tcache_depth if parameters else 0
    kept = {0: 0} | dict.fromkeys((each.number for each in arenas), 0)
    try:
        for found in tcaches_in(memory, spans, depth):
            for chunk, size in zip(found.chunks, found.sizes, strict=True):
                kept[_owner(owners, chunk)] += size
    except OutOfTimeError:
        return None
    return kept


def _without_top(memory: Memory, arena: Arena) -> Iterator[Region]:
    """The memory that can hold its chunks, without its top, where a former tcache may have been."""
    top, behind = arena.top
    for start, end in where(memory, arena):
        if start <= top < end:
            yield start, top
            yield min(behind, end), end
        else:
            yield start, end


def _owner(owners: Sequence[tuple[int, int, int]], chunk: int) -> int:
    """The number of a chunk's arena; a chunk in no thread's arena belongs to the main arena."""
    at = bisect_right(owners, chunk, key=lambda owner: owner[0]) - 1
    return owners[at][2] if at >= 0 and chunk < owners[at][1] else 0


def parts_of(
    memory: Memory, reading: Reading, kept: dict[int, int] | None, parameters: Parameters | None
) -> dict[Part, int]:
    """The numbers on an arena, as far as known."""
    arena = reading.arena
    parts = {Part.SIZE: arena.size, Part.NUMBER: arena.number, Part.THREADS: arena.threads}
    parts |= settings(parameters) if parameters else {}
    with suppress(OutOfTimeError):
        parts[Part.RESIDENT] = memory.resident(ranges_of(arena.regions))
    if not reading.free:
        return parts
    with suppress(OutOfTimeError):
        parts[Part.TRIM] = _trimmed(memory, reading, reading.free, parameters)
    found = kept[arena.number] if kept else 0
    tcache = min(found, reading.rest)  # more has come since the arena was read
    parts |= {Part.TCACHE: tcache} if kept is not None else {}
    if reading.sample:
        parts[Part.FAST] = reading.free.bytes_of[ListKind.FAST]
    else:
        parts |= {_PART_OF[kind]: size for kind, size in reading.free.bytes_of.items()}
        parts[Part.CHUNKS] = len(reading.free.chunks)
    return parts | {
        Part.USED: reading.rest - tcache,
        Part.STUCK: reading.free_bytes,
        Part.TOP: reading.top_bytes,
        Part.BOUND: reading.bound + found - tcache,
    }


def _trimmed(memory: Memory, reading: Reading, free: Free, parameters: Parameters | None) -> int:
    """The bytes that malloc_trim(0) would give back."""
    huge_page = parameters.huge_page if parameters else 0
    pages = given_back(reading.arena, free, _break(memory), huge_page)
    return memory.resident(pages) + (reading.sample.trimmed if reading.sample else 0)


def settings(parameters: Parameters) -> dict[Part, int]:
    """The settings of malloc that rows show."""
    return {
        Part.TRIM_THRESHOLD: parameters.trim_threshold,
        Part.MMAP_THRESHOLD: parameters.mmap_threshold,
        Part.ARENA_MAX: parameters.arena_max,
    }


def _break(memory: Memory) -> int:
    """The program break; 0 if there is no heap."""
    return max((each.end for each in memory.mapped if each.path == "[heap]"), default=0)
