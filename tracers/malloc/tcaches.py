"""Finds the tcaches of threads, whose chunks look used to their arenas.

A tcache is a block of malloc itself, whose size depends on the version. It holds a number for each
size of chunk, and as many pointers to chains of chunks. A block of such a size is a tcache if its
numbers match the lengths of the chains, and the chunks have the right sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memtap.tracers.code.intervals import PAGE_BYTES
from memtap.tracers.malloc.arenas import LINKS_AT
from memtap.tracers.malloc.freelists import (
    LEAST,
    STEP,
    BrokenError,
    Found,
    Row,
    Spans,
    best_of,
    row_walks,
)
from memtap.tracers.malloc.memory import U64, WORD, AbsentError, Memory

# Flags in the lowest bits of a size: the previous chunk is used; the arena is a thread's.
_FLAGS = 1 | 4

# So many chains hold chunks of one size each; those that glibc 2.42 added hold several sizes.
_SMALL = 64

Numbers = npt.NDArray[np.int64]

# A tcache may change while it is read.
_TRIES = 3


@dataclass(frozen=True)
class Form:
    """The layout of a tcache in some versions of glibc.

    Attributes:
        sizes: of its chunk; malloc takes a free chunk whole if only 16 bytes would be left.
        number: the type of each number.
        count: how many numbers there are, and pointers.
        tell_room: whether numbers are of free slots, instead of chunks.
    """

    sizes: tuple[int, ...]
    number: str
    count: int
    tell_room: bool = False

    @property
    def words(self) -> int:
        """The number of 64-bit words that the numbers take."""
        return np.dtype(self.number).itemsize * self.count // WORD

    def held(self, numbers: Numbers, depth: int) -> Numbers:
        """How many chunks of each size are held, by the numbers of possible tcaches."""
        if not self.tell_room:
            return numbers
        return np.where(numbers.any(axis=1, keepdims=True), depth - numbers, 0)


# From glibc 2.26, 2.30 and 2.42 on; 2.43 rounds the size up twice for some.
_FORMS = (
    Form((0x250, 0x260), "u1", 64),
    Form((0x290, 0x2A0), "u2", 64),
    Form((0x300, 0x310, 0x320), "u2", 76, tell_room=True),
)


def tcaches_in(memory: Memory, spans: Spans, depth: int) -> Iterator[Found]:
    """The chunks of each tcache in these regions. Raises OutOfTimeError.

    Args:
        memory: of the process.
        spans: the memory that can hold chunks.
        depth: how many blocks of a size a tcache holds.
    """
    for start, end in spans.ranges:
        for at, text in memory.runs(start & -PAGE_BYTES, end + PAGE_BYTES - 1 & -PAGE_BYTES):
            words = np.frombuffer(text, np.uint64)
            for form in _FORMS:
                for place in _likely(words, form, depth):
                    yield from _tried(memory, at + place * WORD, form, spans, depth)


def _likely(words: U64, form: Form, depth: int) -> list[int]:
    """The places of possible tcaches: the size fits, and pointers are set where numbers say so."""
    places = 2 * np.flatnonzero(np.isin(words[1::2] & ~np.uint64(_FLAGS), form.sizes)) + 2
    ends = places + form.words + form.count
    at_end = places[ends > len(words)]  # the rest is in the next part
    places = places[ends <= len(words)]
    numbers = words[places[:, None] + np.arange(form.words)].view(form.number).astype(int)
    firsts = words[places[:, None] + np.arange(form.words, form.words + form.count)]
    held = form.held(numbers, depth) != 0
    is_likely = (held == (firsts != 0)).all(axis=1) & held.any(axis=1)
    return [*places[is_likely].tolist(), *at_end.tolist()]


def _tried(memory: Memory, at: int, form: Form, spans: Spans, depth: int) -> Iterator[Found]:
    """The chunks of the tcache at this address; nothing if there is none."""
    for _ in range(_TRIES):
        with suppress(BrokenError, AbsentError):
            yield _kept(memory, at, form, spans, depth)
            return


def _kept(memory: Memory, at: int, form: Form, spans: Spans, depth: int) -> Found:
    """The same. Raises BrokenError if there is none, and AbsentError."""
    spans.check(at - 2 * WORD, form.sizes[0])
    words = np.array(memory.words(at, form.words + form.count), np.uint64)
    numbers = words[: form.words].view(form.number).astype(int)
    counts = form.held(numbers[None], depth)[0].tolist()
    kept = Found()
    for index, (count, first) in enumerate(zip(counts, words[form.words :].tolist(), strict=True)):
        if (count != 0) != (first != 0):
            raise BrokenError(hex(at))
        if count:
            size = LEAST + index * STEP if index < _SMALL else 0
            row = best_of(row_walks(memory, Row(first - LINKS_AT, size, LINKS_AT, count), spans))
            if not row.is_whole:
                memory.check_time()
                raise BrokenError(hex(at))
            kept.extend(row)
    return kept
