"""What the memory of a process is used for, and which code got it."""

from __future__ import annotations

from collections import Counter, defaultdict
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from memtap.tracers.code.intervals import Space

_USE_BITS = 3


class Use(IntEnum):
    """The use of a range of addresses."""

    NOTHING = 0
    CHUNK = 1
    RESERVED = 2  # addresses of an arena without memory
    ARENA = 3
    HEAP = 4
    OTHER = 5
    ASIDE = 6  # addresses without memory, which an allocator has set aside for chunks


# The use of a range, and the number of the code that got it; 0 if not known.
Owner = tuple[Use, int]
Held = dict[Owner, int]
NO_OWNER: Owner = (Use.NOTHING, 0)


class Owned:
    """The ranges of one process, by their owners.

    Attributes:
        space: the same, by the numbers of owners; see encoded().
    """

    def __init__(self) -> None:
        self.space = Space()
        self._bytes: Counter[Owner] = Counter()
        self._born: dict[int, int] = {}

    def copy(self) -> Owned:
        """The ranges of a forked child."""
        child = Owned()
        child.space, child._bytes = self.space.copy(), self._bytes.copy()
        child._born = self._born.copy()
        return child

    @property
    def sizes(self) -> Held:
        """How many bytes each owner has."""
        return self._bytes

    def put(self, start: int, length: int, owner: Owner, ns: int) -> Held:
        """Gives a range to an owner, at a time; returns what was held of it before."""
        held = self.drop(start, length)
        self.space.put(start, start + length, encoded(owner))
        self._bytes[owner] += length
        self._born[start] = ns
        return held

    def drop(self, start: int, length: int) -> Held:
        """Takes a range from its owners; returns what was held of it."""
        first, last = self.space.overlapping(start, start + length)
        if first == last:
            return {}
        held = self.held(start, length)
        self._bytes.subtract(held)
        for begin in self.space.starts[first:last]:
            self._born.pop(begin, None)
        self.space.drop(start, start + length)
        return held

    def held(self, start: int, length: int) -> Held:
        """How many bytes of a range each owner has."""
        first, last = self.space.overlapping(start, start + length)
        held: Held = defaultdict(int)
        for at in range(first, last):
            end = min(self.space.ends[at], start + length)
            held[decoded(self.space.numbers[at])] += end - max(self.space.starts[at], start)
        return held

    def is_free(self, start: int, length: int) -> bool:
        """Whether no part of a range has an owner."""
        first, last = self.space.overlapping(start, start + length)
        return first == last

    def is_whole(self, start: int, length: int) -> bool:
        """Whether a range is one that put() was called with."""
        first, last = self.space.overlapping(start, start + length)
        return last - first == 1 and (
            self.space.starts[first] == start and self.space.ends[first] == start + length
        )

    def is_end(self, start: int, length: int) -> bool:
        """Whether a range is the end of one that put() was called with."""
        first, last = self.space.overlapping(start, start + length)
        return last - first == 1 and (
            self.space.starts[first] < start and self.space.ends[first] == start + length
        )

    def born_ns(self, start: int) -> int | None:
        """When the range that begins at `start` was given to its owner."""
        return self._born.get(start)

    def at(self, address: int) -> Owner:
        """The owner of an address."""
        first, last = self.space.overlapping(address, address + 1)
        return decoded(self.space.numbers[first]) if first < last else NO_OWNER


def encoded(owner: Owner) -> int:
    """An owner as a number in a Space."""
    use, site = owner
    return site << _USE_BITS | use


def decoded(number: int) -> Owner:
    """The owner that has this number."""
    return Use(number & (1 << _USE_BITS) - 1), number >> _USE_BITS


def uses_and_sites(
    numbers: npt.NDArray[np.uint32],
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """decoded() for each number."""
    return numbers & np.uint32((1 << _USE_BITS) - 1), numbers >> np.uint32(_USE_BITS)
