"""Estimates how much is free in an arena whose lists are too long to walk, from a random sample.

A free chunk can be recognised without its list: its size is repeated at its end, the next chunk
has a flag that it is free, and it has two links. (Chunks in fastbins look used.) So a sample of the
arena's memory gives an estimate for all of it, and the variance between its parts gives a bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from memtap.tracers.malloc.arenas import Region
from memtap.tracers.malloc.memory import U64, WORD, AbsentError, Memory, OutOfTimeError
from memtap.tracers.malloc.trim import whole_pages

_PART = 1 << 20

# The least number of parts for an estimate. The bound is this many standard errors, which was
# enough in 97 of 100 samples even where parts differed much.
_FEWEST, _TIMES = 30, 2.5

_LEAST, _SLOT, _FLAGS, _FREE_FLAGS, _IN_USE = 32, 16, 15, 1, 1
_BEYOND = 1 << 47


@dataclass(frozen=True)
class Sample:
    """An estimate of the free bytes in an arena, without its top and its fastbins.

    Attributes:
        free: the free bytes.
        bound: how far they may be off.
        trimmed: the bytes of whole pages in them, which malloc_trim(0) would give back.
        share: the share of the arena that was read, of 1.
    """

    free: int
    bound: int
    trimmed: int
    share: float


def sample(memory: Memory, regions: Sequence[Region], size: int = _PART) -> Sample | None:
    """An estimate from parts of this size, as many as time allows; None if there are too few."""
    parts = [(at, min(at + size, end)) for start, end in regions for at in range(start, end, size)]
    order = np.random.default_rng(len(parts)).permutation(len(parts)).tolist()
    found: list[tuple[int, int]] = []
    with suppress(OutOfTimeError):
        for number in order:
            found.append(_free_in(memory, *parts[number]))
    return _told_by(np.array(found, float), len(parts)) if len(found) >= _FEWEST else None


def _told_by(found: np.ndarray[tuple[int, int], np.dtype[np.float64]], parts: int) -> Sample:
    """The estimate from some of all parts, given the free and trimmed bytes of each."""
    free, trimmed = found.mean(axis=0) * parts
    share = len(found) / parts
    error = found[:, 0].std(ddof=1) / math.sqrt(len(found)) * math.sqrt(1 - share) * parts
    return Sample(round(free), math.ceil(_TIMES * error), round(trimmed), share)


def _free_in(memory: Memory, start: int, end: int) -> tuple[int, int]:
    """The bytes of the free chunks that begin in a part, and of their whole pages."""
    free = trimmed = 0
    for at, text in memory.runs(start, end):
        starts, sizes = _chunks_in(memory, at, np.frombuffer(text, np.uint64))
        first, last = whole_pages(starts, starts + sizes)
        free += int(sizes.sum())
        trimmed += int((last - first).sum())
    return free, trimmed


def _chunks_in(memory: Memory, at: int, words: U64) -> tuple[U64, U64]:
    """The free chunks that begin in these words: their addresses and sizes."""
    heads = words.reshape(-1, 2)
    sizes = heads[:, 1] & ~np.uint64(_FLAGS)
    links = np.vstack([heads[1:], np.full((1, 2), WORD, np.uint64)])  # the last are elsewhere
    could_be = (heads[:, 1] & np.uint64(_FLAGS) == _FREE_FLAGS) & (sizes >= _LEAST)
    could_be &= ((links > 0) & (links < _BEYOND) & (links % np.uint64(WORD) == 0)).all(axis=1)
    slots = np.flatnonzero(could_be & (sizes < _BEYOND))
    ends = slots + (sizes[slots] // np.uint64(_SLOT)).astype(int)
    inside = ends < len(heads)
    footers = heads[ends[inside]]
    is_free = np.zeros(len(slots), bool)
    is_free[inside] = (footers[:, 0] == sizes[slots[inside]]) & (footers[:, 1] & np.uint64(1) == 0)
    for place in np.flatnonzero(~inside).tolist():
        is_free[place] = _ends_free(memory, at + int(ends[place]) * _SLOT, int(sizes[slots[place]]))
    starts = np.uint64(at) + slots[is_free].astype(np.uint64) * np.uint64(_SLOT)
    return starts, sizes[slots[is_free]]


def _ends_free(memory: Memory, end: int, size: int) -> bool:
    """Whether a chunk of this size that ends in another part is free."""
    with suppress(AbsentError):
        before, head = memory.words(end, 2)
        return before == size and not head & _IN_USE
    return False
