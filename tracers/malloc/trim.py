"""What malloc_trim(0) would give back.

It follows mtrim() and systrim() of malloc.c. Chunks in fastbins are first joined with the free
chunks beside them. Each free chunk gives back the whole pages behind its first 48 bytes. The main
arena gives back its top, except 32 bytes and the rest of a page, unless something else has moved
the program break.
"""

from __future__ import annotations

import numpy as np

from memtap.tracers.code.intervals import PAGE_BYTES
from memtap.tracers.malloc.arenas import Arena
from memtap.tracers.malloc.freelists import Free
from memtap.tracers.malloc.memory import U64, Ranges

# The sizes of struct malloc_chunk, and of the smallest chunk.
_HEADER, _LEAST_TOP = 48, 32


def given_back(arena: Arena, free: Free, ends_at: int, huge_page: int) -> Ranges:
    """The pages that malloc_trim(0) would give back, in order.

    Args:
        arena: the arena.
        free: its free chunks.
        ends_at: the program break.
        huge_page: the unit in which the break moves; 0 for a page.
    """
    starts, ends = joined(free)
    joins_top = ends == np.uint64(arena.top[0])
    first, last = whole_pages(starts[~joins_top], ends[~joins_top])
    if not arena.number and arena.top[1] == ends_at:
        top = min([arena.top[0], *starts[joins_top].tolist()])
        extra = _trimmed(ends_at - top, huge_page or PAGE_BYTES)
        first = np.append(first, np.uint64(ends_at - extra))
        last = np.append(last, np.uint64(ends_at))
    some = first < last
    return first[some], last[some]


def joined(free: Free) -> Ranges:
    """The ranges of free memory in order, without the top."""
    starts, sizes = np.array(free.chunks, np.uint64), np.array(free.sizes, np.uint64)
    order = np.argsort(starts)
    starts, ends = starts[order], np.maximum.accumulate(starts[order] + sizes[order])
    gaps, count = starts[1:] > ends[:-1], len(starts)
    return starts[np.append(True, gaps)[:count]], ends[np.append(gaps, True)[:count]]


def whole_pages(starts: U64, ends: U64) -> Ranges:
    """The whole pages of free chunks that the headers do not reach."""
    page = np.uint64(PAGE_BYTES)
    first = (starts + np.uint64(_HEADER) + page - np.uint64(1)) // page * page
    return first, np.maximum(ends // page * page, first)


def _trimmed(size: int, unit: int) -> int:
    """How far the break moves back if this much is free before it."""
    return max(size - _LEAST_TOP - 1, 0) // unit * unit
