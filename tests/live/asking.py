"""Reads at random, in all ways, of files of which some pages are cached; and what is true of them.

`asker` of the workloads does them, and looks with mincore(2) which pages are cached before each
case. Each page that a read returned bytes of is an access; the first one to a page that was not
cached is a miss. For mapped files each fault is an access, and getrusage(2) tells which they are.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.live.tracing import PAGE, has_io_uring

WAYS = ["read", "pread", "readv", "preadv2", "sendfile", "splice", "copy", "map"]
WAYS += ["aio", "aio-batch"]
RINGS = ["uring", "uring-async", "uring-sqpoll", "uring-batch"]

# Advice of posix_fadvise(2), and how many reads a case has at most.
NORMAL, RANDOM, SEQUENTIAL = 0, 1, 2
MOST = 60
MOST_AT_ONCE = 16  # what memtap looks through in one io_submit(2)

PATTERNS = ("none", "all", "half", "random", "every", "runs")
BLOCKS = (1, PAGE, 16 << 10, 64 << 10, 128 << 10, 1 << 20, 8 << 20)

Range = tuple[int, int]  # first byte, bytes


@dataclass(frozen=True)
class Case:
    """Reads of one file in one way."""

    way: str
    file: Path
    advice: int
    reads: list[Range]

    @property
    def lines(self) -> str:
        """What the workload reads."""
        head = f"{self.way} {self.file} {self.advice} {len(self.reads)}\n"
        return head + "".join(f"{at} {size}\n" for at, size in self.reads)

    def truth(self, cached: str, got: str) -> tuple[int, int]:
        """Hits and misses, given the two lines that the workload printed."""
        accesses, missed = 0, set()
        for page in self._asked(got):
            accesses += 1
            if cached[page] == "0":
                missed.add(page)
        return accesses - len(missed), len(missed)

    def _asked(self, got: str) -> Iterator[int]:
        """The pages that were asked for, in order; of a mapped file those with a fault."""
        if self.way == "map":
            touched = (page for at, size in self.reads for page in pages_of(at, size))
            yield from (page for page, faulted in zip(touched, got, strict=True) if faulted == "1")
            return
        for (at, _), result in zip(self.reads, map(int, got.split()), strict=True):
            yield from pages_of(at, max(result, 0))


def pages_of(at: int, size: int) -> range:
    """The pages in which these bytes are."""
    return range(at // PAGE, -(-(at + size) // PAGE))


def ways() -> list[str]:
    """What this kernel can do."""
    return WAYS + (RINGS if has_io_uring() else [])


def case_at_random(dice: random.Random, file: Path, choice: Sequence[str]) -> Case:
    """A case with a file that exists; makes some of its pages cached."""
    size = file.stat().st_size
    cache_some(dice, file)
    way = dice.choice(choice)
    reads = in_a_row(dice, size) if dice.random() < 0.5 else here_and_there(dice, size)
    if way == "map":
        reads = [(at, max(min(length, size - at), 1)) for at, length in reads]
    if way == "splice":  # see Bounds of docs/pagecache.md
        reads = [(at // PAGE * PAGE, length) for at, length in reads]
    if way.endswith("batch"):
        reads = reads[:MOST_AT_ONCE]
    return Case(way, file, dice.choice((NORMAL, NORMAL, RANDOM, SEQUENTIAL)), reads)


def cache_some(dice: random.Random, file: Path) -> None:
    """Makes a file cold and then reads some of its pages, without readahead."""
    pattern, every = dice.choice(PATTERNS), dice.randrange(2, 9)
    pages = -(-file.stat().st_size // PAGE)
    wanted = {
        "none": lambda page: False,
        "all": lambda page: True,
        "half": lambda page: page < pages // 2,
        "random": lambda page: dice.random() < 0.5,
        "every": lambda page: page % every == 0,
        "runs": lambda page: page // every % 2 == 1,
    }[pattern]
    fd = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        for page in filter(wanted, range(pages)):
            os.pread(fd, 1, page * PAGE)
    finally:
        os.close(fd)


def in_a_row(dice: random.Random, size: int) -> list[Range]:
    """Blocks of one size, from the beginning or from somewhere."""
    block = dice.choice((*BLOCKS, dice.randrange(1, 400_000), dice.randrange(1, 20_000)))
    starts = range(dice.choice((0, dice.randrange(size))), size, block)
    return [(at, block) for at in starts[:MOST]]


def here_and_there(dice: random.Random, size: int) -> list[Range]:
    """Blocks of all sizes at all places."""
    return [
        (
            dice.randrange(size),
            dice.choice((dice.choice(BLOCKS), dice.randrange(1, 300_000), dice.randrange(1, 9000))),
        )
        for _ in range(dice.randrange(1, 40))
    ]
