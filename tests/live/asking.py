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
WAYS += ["aio", "aio-batch", "aio-vectors", "twice", "mixed"]
RINGS = ["uring", "uring-async", "uring-sqpoll", "uring-batch"]
RINGS += ["uring-skip", "uring-skip-async", "uring-skip-sqpoll", "uring-skip-batch"]

# What a mixed case does; the second row asks for no page.
MIXED = ["read", "pread", "readv", "sendfile", "splice", "copy", "touch"]
MIXED += ["ahead", "willneed", "advise", "direct", "truncate"]

# Advice of posix_fadvise(2), and how many reads a case has at most.
NORMAL, RANDOM, SEQUENTIAL = 0, 1, 2
MOST = 60

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
    mixed: Sequence[str] = ()  # the way of each

    @property
    def lines(self) -> str:
        """What the workload reads."""
        head = f"{self.way} {self.file} {self.advice} {len(self.reads)}\n"
        ways = [f"{way} " for way in self.mixed] or [""] * len(self.reads)
        lines = zip(ways, self.reads, strict=True)
        return head + "".join(f"{way}{at} {size}\n" for way, (at, size) in lines)

    def truth(self, cached: str, got: str) -> tuple[int, int]:
        """Hits and misses, given the two lines that the workload printed."""
        there = {page for page, digit in enumerate(cached) if digit == "1"}
        hits = misses = 0
        for way, pages in self._asked(got):
            if way == "truncate":
                there = {page for page in there if page < pages.start}
                continue
            new = set(pages) - there
            hits, misses = hits + len(pages) - len(new), misses + len(new)
            there |= new
        return hits, misses

    def _asked(self, got: str) -> Iterator[tuple[str, range]]:
        """In which way, and which pages that were asked for, or with a fault if it is mapped."""
        if self.way == "map":
            touched = (page for at, size in self.reads for page in pages_of(at, size))
            for page, faulted in zip(touched, got, strict=True):
                yield self.way, range(page, page + int(faulted))
            return
        each = 2 if self.way == "twice" else 1  # both processes tell
        reads = [read for read in self.reads for _ in range(each)]
        ways = self.mixed or [self.way] * len(reads)
        for way, (at, _), result in zip(ways, reads, map(int, got.split()), strict=True):
            yield way, pages_of(at, PAGE if way == "truncate" else max(result, 0))


def page_begin(at: int) -> int:
    """Where a splice() is told for certain that fills its pipe; see Bounds of docs/pagecache.md."""
    return at // PAGE * PAGE


def pages_of(at: int, size: int) -> range:
    """The pages in which these bytes are."""
    return range(at // PAGE, -(-(at + size) // PAGE) if size else at // PAGE)


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
    if way == "splice":
        reads = [(page_begin(at), length) for at, length in reads]
    advice = dice.choice((NORMAL, NORMAL, RANDOM, SEQUENTIAL))
    if way == "mixed":
        return mixed_case(dice, file, advice, reads)
    return Case(way, file, advice, reads)


def mixed_case(dice: random.Random, file: Path, advice: int, reads: list[Range]) -> Case:
    """The same reads in ways that change, and what else brings pages in, or takes them away."""
    whole, choice = file.stat().st_size, MIXED if os.access(file, os.W_OK) else MIXED[:-1]
    size, ways, made, block = whole, [], [], max(file.stat().st_blksize, PAGE)
    for at, length in reads:
        way = dice.choice(choice)
        if way == "truncate":  # in the middle of a block the kernel would read it, and write zeros
            at = max(at // block, 1) * block
            way = "truncate" if at < size else "ahead"
            size = min(at, size)
        if way in ("touch", "direct", "advise") and at >= size // PAGE * PAGE:
            at = 0
        if way == "splice":
            at = page_begin(at)
        if way == "direct":
            at, length = page_begin(at), PAGE
        if way == "advise":
            length = min(length, size - at)
        ways.append(way)
        made.append((at, length))
    return Case("mixed", file, advice, made, ways)


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
