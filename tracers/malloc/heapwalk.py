"""Reads the heaps of a process: how much of each arena is used, and how much is free but kept.

The numbers are those that malloc_info(3) would give in the process, which is not stopped, traced or
changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np

from memtap.bpf.sideband import Mapped
from memtap.bpf.stream import Events
from memtap.tracers.host.patience import patiently
from memtap.tracers.malloc.arenas import Arenas, find
from memtap.tracers.malloc.libraries import allocator_of
from memtap.tracers.malloc.memory import (
    Memory,
    OutOfTimeError,
    is_data,
    memory_of,
    ranges_of,
)
from memtap.tracers.malloc.parameters import Parameters, parameters_of
from memtap.tracers.malloc.readings import (
    MAPPED,
    Part,
    Reading,
    kept_by_threads,
    parts_of,
    read_all,
    settings,
)
from memtap.tracers.malloc.rows import BEYOND, ROW, Fact

# The time for all processes at the end of an interval, and for one process without tracing.
INTERVAL_S, LOOK_S = 1.0, 10.0

# Shares of that time: to search tcaches, and to count pages; see readings.py for the others.
_SEARCHING, _COUNTING = 0.2, 0.2

_MOVED = (
    "a heap changed while it was read, or could not be read completely: BOUND_KB (--wide) is how "
    "far USED and STUCK may be off"
)


@dataclass(frozen=True)
class Heap:
    """An arena, or the chunks with a mapping of their own.

    Attributes:
        address: of the arena; 0 for what is in none.
        parts: the numbers known.
    """

    address: int
    parts: dict[Part, int]


@dataclass(frozen=True)
class Look:
    """The heaps of a process.

    Attributes:
        heaps: all arenas, then the chunks with a mapping of their own.
        notes: what is not known, or not exact, and why.
    """

    heaps: Sequence[Heap]
    notes: Sequence[str] = ()

    def notes_of(self, tgid: int) -> list[str]:
        """The notes, naming the process, and a note on bounds if there are any."""
        listed = [heap.parts for heap in self.heaps if Part.CHUNKS in heap.parts]
        moved = any(parts.get(Part.BOUND) for parts in listed)
        return [f"process {tgid}: {note}" for note in self.notes] + [_MOVED] * moved


def look(tgid: int, most_s: float) -> Look:
    """Reads the heaps of a process, in this time."""
    try:
        return patiently(tgid, partial(_look, tgid, most_s))
    except PermissionError:
        return Look((), ["its memory is not ours to read"])
    except (OSError, ValueError):
        return Look((), ["it has ended, or does not let itself be read"])


def rows_of(tgid: int, ns: int, found: Look) -> Events:
    """A row for each Part of each heap; see Fact.WALKED."""
    parts = [
        (heap.address, part, min(value, BEYOND - 1))
        for heap in found.heaps
        for part, value in heap.parts.items()
    ]
    rows = np.zeros(len(parts), ROW)
    rows["kind"], rows["tgid"], rows["ns"] = Fact.WALKED, tgid, ns
    if parts:
        rows["address"], rows["part"], rows["length"] = zip(*parts, strict=True)
    return rows


def _look(tgid: int, most_s: float) -> Look:
    with memory_of(tgid, most_s) as memory:
        allocator = allocator_of(each.path for each in memory.mapped)
        if allocator not in ("glibc", "?"):
            return Look((), [f"{allocator} exports no symbol for its statistics"])
        return looked_at(memory, partial(parameters_of, memory, tgid))


def looked_at(memory: Memory, parameters: Callable[[Mapped], Parameters | None]) -> Look:
    """Reads the heaps in a memory.

    Args:
        memory: of the process.
        parameters: returns malloc's settings, given the mapping of the library's beginning.
    """
    try:
        for library in _libraries(memory.mapped):
            regions = [(m.start, m.end) for m in memory.mapped if _is_of(m, library)]
            if arenas := find(memory, regions):
                return _look_through(memory, arenas, parameters(library))
    except OutOfTimeError:
        return Look(_unread(memory), ["there was no time to find its arenas"])
    return Look(_unread(memory), ["it has no arena of a 64-bit glibc"])


def _libraries(mapped: Sequence[Mapped]) -> list[Mapped]:
    """The files that may have malloc: C libraries, or else the program itself."""
    files = [each for each in mapped if each.path.startswith("/") and not each.offset]
    return [each for each in files if allocator_of([each.path]) == "glibc"] or files[:1]


def _is_of(mapped: Mapped, library: Mapped) -> bool:
    return is_data(mapped) and (mapped.dev, mapped.ino) == (library.dev, library.ino)


def _unread(memory: Memory) -> list[Heap]:
    """The heap, if nothing in it can be read: its size, and how much is in memory."""
    regions = [(each.start, each.end) for each in memory.mapped if each.path == "[heap]"]
    if not regions:
        return []
    size = sum(end - start for start, end in regions)
    parts = {Part.SIZE: size, Part.NUMBER: 0}
    with suppress(OutOfTimeError):
        parts[Part.RESIDENT] = memory.resident(ranges_of(regions))
    return [Heap(0, parts)]


def _look_through(memory: Memory, arenas: Arenas, parameters: Parameters | None) -> Look:
    """Reads all arenas, then the tcaches."""
    readings = read_all(memory, arenas)
    notes = list(_notes(readings, len(arenas.addresses), parameters))
    memory.begin(_SEARCHING)
    kept = kept_by_threads(memory, [each.arena for each in readings], parameters)
    if kept is None:
        notes.append("tcaches count as used: there was no time to find them")
    memory.begin(_COUNTING)
    heaps = [
        Heap(each.arena.address, parts_of(memory, each, kept, parameters)) for each in readings
    ]
    return Look([*heaps, *_mapped_apart(parameters)], notes)


def _notes(readings: Sequence[Reading], count: int, parameters: Parameters | None) -> Iterator[str]:
    """What is not known, or not exact, and why."""
    if left := count - len(readings):
        yield f"{left} of its arenas could not be read, or there was no time"
    if shares := [each.sample.share for each in readings if each.sample]:
        which = "an arena has" if len(shares) == 1 else f"{len(shares)} arenas have"
        yield (
            f"{which} too many free chunks to walk: STUCK was estimated from a sample of "
            f"{min(shares):.0%} of the memory; it is within BOUND_KB (--wide) in 19 of 20 cases"
        )
    if any(not each.arena.number and not each.arena.is_contiguous for each in readings):
        yield "its main arena is in several pieces: RSS_KB counts only the heap and the last piece"
    if parameters is None:
        yield "chunks with a mapping of their own are not known: its C library cannot be read"


def _mapped_apart(parameters: Parameters | None) -> Iterator[Heap]:
    """The chunks with a mapping of their own."""
    if parameters:
        size = parameters.mapped_bytes
        parts = {Part.SIZE: size, Part.USED: size, Part.CHUNKS: parameters.mapped_chunks}
        yield Heap(0, {Part.NUMBER: MAPPED} | parts | settings(parameters))
