"""The calls of an allocator, as glibc makes them, and what they are taken for."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from memtap.tracers.code.mappings import Region
from memtap.tracers.malloc.allocator import (
    THRESHOLD,
    Allocator,
    Asked,
    Path,
    Rule,
    Step,
    owners_of,
)
from memtap.tracers.malloc.probes import Call, CallMark

KIB, MIB = 1 << 10, 1 << 20
ANON, PRIVATE, FIXED, NORESERVE, STACK = 0x20, 0x02, 0x10, 0x4000, 0x20000
READ_WRITE = 3
PLACE = 0x7F0000000000


def mmap(
    allocator: Allocator, start: int, length: int, prot: int = READ_WRITE, flags: int = 0
) -> Step:
    return allocator.call(Call.MMAP, Asked(start, length, prot, ANON | PRIVATE | flags))


def munmap(allocator: Allocator, start: int, length: int) -> Step:
    return allocator.call(Call.MUNMAP, Asked(start, length))


def brk(allocator: Allocator, end: int) -> Step:
    return allocator.call(Call.BRK, Asked(end))


def test_the_heap_grows_and_is_trimmed() -> None:
    allocator = Allocator()
    assert allocator.call(Call.BRK, Asked(0x1000, marks=CallMark.ASKS)) == Step(
        Path.BRK, Rule.HEAP_SEEN
    )
    assert brk(allocator, 0x22000) == Step(Path.BRK, Rule.HEAP_GROWN, taken=0x21000)
    assert brk(allocator, 0x12000) == Step(Path.BRK, Rule.HEAP_TRIMMED, back={0: 0x10000})
    assert live(allocator, Path.BRK) == 0x11000
    assert path_of(allocator, 0x1234) is Path.BRK


def test_a_break_that_did_not_move_is_refused() -> None:
    allocator = Allocator()
    brk(allocator, 0x1000)
    assert allocator.call(Call.BRK, Asked(0x1000, marks=CallMark.REFUSED)) == Step(
        Path.BRK, Rule.FAILED
    )
    assert live(allocator, Path.BRK) == 0


def test_a_mapped_chunk_that_is_freed_moves_the_threshold() -> None:
    allocator = Allocator()
    assert allocator.least_mapped == 131_049  # measured: malloc(131048) is not mapped
    assert mmap(allocator, PLACE, 303_104) == Step(Path.MMAP, Rule.CHUNK_MAPPED, taken=303_104)
    assert live(allocator, Path.MMAP) == 303_104
    step = munmap(allocator, PLACE, 303_104)
    assert step == Step(Path.MMAP, Rule.THRESHOLD_RAISED, back={0: 303_104}, life_ns=0)
    assert allocator.threshold == 303_104
    assert live(allocator, Path.MMAP) == 0


def test_the_threshold_never_falls_and_ends_at_32_mib() -> None:
    allocator = Allocator()
    for length in (MIB, 200 * KIB, 33 * MIB):
        mmap(allocator, PLACE, length)
        munmap(allocator, PLACE, length)
    # 200 KiB are less than 1 MiB, and yet they were mapped: so the program has set a threshold.
    assert not allocator.dynamic
    allocator = Allocator()
    for length in (MIB, 33 * MIB):
        mmap(allocator, PLACE, length)
        munmap(allocator, PLACE, length)
    assert (allocator.threshold, allocator.dynamic) == (MIB, True)


@pytest.mark.parametrize(
    ("lengths", "threshold"), [((72 * KIB,), 72 * KIB), ((MIB, MIB), THRESHOLD)]
)
def test_a_chunk_below_the_threshold_tells_that_the_program_has_set_it(
    lengths: tuple[int, ...], threshold: int
) -> None:
    allocator = Allocator()
    for length in lengths:
        mmap(allocator, PLACE, length)
        munmap(allocator, PLACE, length)
    assert (allocator.threshold, allocator.dynamic) == (threshold, False)


def arena(allocator: Allocator, flags: int = 0) -> list[Step]:
    """As new_heap() makes one: twice the addresses, of which an aligned half is kept."""
    return [
        mmap(allocator, PLACE + MIB, 128 * MIB, 0, flags),
        munmap(allocator, PLACE + MIB, 63 * MIB),
        munmap(allocator, PLACE + 128 * MIB, MIB),
        allocator.call(Call.MPROTECT, Asked(PLACE + 64 * MIB, 132 * KIB, READ_WRITE)),
    ]


@pytest.mark.parametrize("flags", [0, NORESERVE], ids=["glibc 2.41", "glibc 2.36"])
def test_an_arena_is_reserved_aligned_and_grown_by_mprotect(flags: int) -> None:
    allocator = Allocator()
    rules = [step.rule for step in arena(allocator, flags)]
    assert rules == [Rule.ARENA_RESERVED, Rule.ARENA_ALIGNED, Rule.ARENA_ALIGNED, Rule.ARENA_GROWN]
    grown = allocator.call(Call.MPROTECT, Asked(PLACE + 64 * MIB + 132 * KIB, 4 * KIB, READ_WRITE))
    assert grown == Step(Path.ARENA, Rule.ARENA_GROWN, taken=4 * KIB)
    assert live(allocator, Path.ARENA) == 136 * KIB
    assert path_of(allocator, PLACE + 64 * MIB) is Path.ARENA


def test_an_arena_shrinks_by_mapping_nothing_over_its_top() -> None:
    allocator = Allocator()
    arena(allocator)
    top = PLACE + 64 * MIB + 100 * KIB
    step = mmap(allocator, top, 32 * KIB, 0, FIXED)
    assert step == Step(Path.ARENA, Rule.ARENA_SHRUNK, back={0: 32 * KIB})
    assert live(allocator, Path.ARENA) == 100 * KIB


def test_realloc_moves_a_chunk_with_what_it_holds() -> None:
    allocator = Allocator()
    mmap(allocator, PLACE, MIB)
    allocator.call(Call.MOVED_FROM, Asked(PLACE, MIB))
    step = allocator.call(Call.MOVED_TO, Asked(PLACE + 8 * MIB, 3 * MIB))
    assert step == Step(Path.MMAP, Rule.CHUNK_RESIZED, taken=2 * MIB)
    assert live(allocator, Path.MMAP) == 3 * MIB
    assert path_of(allocator, PLACE) is Path.OTHER
    assert path_of(allocator, PLACE + 10 * MIB) is Path.MMAP


@pytest.mark.parametrize("by_mprotect", [True, False])
def test_addresses_that_are_set_aside_count_when_they_are_made_usable(by_mprotect: bool) -> None:
    """As mimalloc does, and Go's runtime; made unusable they are given back."""
    allocator = Allocator()

    def change(start: int, length: int, prot: int) -> Step:
        if by_mprotect:
            return allocator.call(Call.MPROTECT, Asked(start, length, prot))
        return mmap(allocator, start, length, prot, FIXED)

    assert mmap(allocator, PLACE, 32 * MIB, 0) == Step(Path.MMAP, Rule.SET_ASIDE)
    assert live(allocator, Path.MMAP) == 0
    assert change(PLACE, MIB, READ_WRITE) == Step(Path.MMAP, Rule.COMMITTED, taken=MIB)
    middle = change(PLACE + 4 * MIB, MIB, READ_WRITE)
    assert middle == Step(Path.MMAP, Rule.COMMITTED, taken=MIB)
    both = change(PLACE, 2 * MIB, READ_WRITE)
    assert both == Step(Path.MMAP, Rule.COMMITTED, taken=MIB)
    assert path_of(allocator, PLACE + 4 * MIB) is Path.MMAP
    back = change(PLACE + MIB, MIB, 0)
    assert back == Step(Path.MMAP, Rule.DECOMMITTED, back={0: MIB})
    assert live(allocator, Path.MMAP) == 2 * MIB
    step = munmap(allocator, PLACE, 32 * MIB)
    assert (step.path, step.given) == (Path.MMAP, 2 * MIB)
    assert allocator.threshold == THRESHOLD


def test_a_guard_that_musl_keeps_in_the_heap_is_no_memory() -> None:
    allocator = Allocator()
    allocator.call(Call.BRK, Asked(PLACE, marks=CallMark.ASKS))
    brk(allocator, PLACE + 8 * KIB)
    guard = mmap(allocator, PLACE, 4 * KIB, 0, FIXED)
    assert (guard.path, guard.given) == (Path.BRK, 4 * KIB)
    assert sum(allocator.live().values()) == live(allocator, Path.BRK) == 4 * KIB
    assert brk(allocator, PLACE).given == 4 * KIB
    assert sum(allocator.live().values()) == 0


def test_a_stack_of_musl_is_all_but_the_guard_of_what_is_set_aside() -> None:
    allocator = Allocator()
    mmap(allocator, PLACE, 140 * KIB, 0)
    made = allocator.call(Call.MPROTECT, Asked(PLACE + 8 * KIB, 132 * KIB, READ_WRITE))
    assert (made.path, made.rule) == (Path.OTHER, Rule.THREAD_STACK)
    assert live(allocator, Path.MMAP) == 0


def test_nothing_becomes_usable_of_no_bytes() -> None:
    step = Allocator().call(Call.MPROTECT, Asked(PLACE, 0, READ_WRITE))
    assert step == Step(Path.OTHER, Rule.ANOTHER)


@pytest.mark.parametrize(
    ("prot", "flags", "rule"),
    [
        (READ_WRITE, STACK, Rule.THREAD_STACK),
        (READ_WRITE, FIXED, Rule.ANOTHER),
        (1, 0, Rule.ANOTHER),
    ],
)
def test_what_is_not_of_malloc(prot: int, flags: int, rule: Rule) -> None:
    step = mmap(Allocator(), PLACE, MIB, prot, flags)
    assert (step.path, step.rule) == (Path.OTHER, rule)


def test_a_file_is_not_of_malloc() -> None:
    step = Allocator().call(Call.MMAP, Asked(PLACE, MIB, READ_WRITE, PRIVATE))
    assert step == Step(Path.OTHER, Rule.FILE, taken=MIB)


def test_a_child_has_what_its_parent_had_and_goes_its_own_way() -> None:
    parent = Allocator()
    mmap(parent, PLACE, MIB)
    child = parent.copy()
    munmap(child, PLACE, MIB)
    assert (live(parent, Path.MMAP), live(child, Path.MMAP)) == (MIB, 0)
    assert (parent.threshold, child.threshold) == (THRESHOLD, MIB)


@pytest.mark.parametrize("by", [mmap, Allocator.map_other])
def test_what_a_family_has_in_common_changes_for_none_but_whoever_changes_it(by: Any) -> None:
    parent = Allocator()
    mmap(parent, PLACE, MIB)
    child = parent.copy()
    grandchild = child.copy()
    asked = (PLACE + 2 * MIB, MIB) if by is mmap else (Asked(PLACE, MIB, flags=FIXED),)
    by(parent, *asked)
    held = {mmap: 2 * MIB, Allocator.map_other: 0}[by]
    assert [live(each, Path.MMAP) for each in (parent, child, grandchild)] == [held, MIB, MIB]
    munmap(grandchild, PLACE, MIB)
    assert [live(each, Path.MMAP) for each in (parent, child, grandchild)] == [held, MIB, 0]


def live(allocator: Allocator, path: Path) -> int:
    return sum(size for (way, _), size in allocator.live().items() if way is path)


def path_of(allocator: Allocator, address: int) -> Path:
    numbers = allocator.space.locate(np.array([address], np.uint64))[0]
    paths, sites = owners_of(numbers, np.array([Region.ANON], np.uint8))
    assert sites.tolist() == [0]
    return Path(int(paths[0]))


def test_what_is_live_agrees_with_a_table_of_every_page() -> None:
    chance = random.Random(6)
    for _ in range(100):
        allocator, table = Allocator(), [0] * 100
        for _ in range(40):
            start, length = chance.randrange(80), chance.randrange(1, 20)
            span = slice(start, start + length)
            at, size = PLACE + start * MIB, length * MIB
            if chance.random() < 0.6:
                mmap(allocator, at, size)
                table[span] = [1] * length
            else:
                given = munmap(allocator, at, size).given
                assert given == sum(table[span]) * MIB
                table[span] = [0] * length
        assert live(allocator, Path.MMAP) == sum(table) * MIB


def test_what_is_given_back_is_of_the_code_that_had_got_it() -> None:
    allocator = Allocator()
    allocator.call(Call.BRK, Asked(0x1000, marks=CallMark.ASKS))
    allocator.call(Call.BRK, Asked(0x3000, site=7))
    allocator.call(Call.BRK, Asked(0x6000, site=8))
    step = allocator.call(Call.BRK, Asked(0x2000, site=9))
    assert step.back == {7: 0x1000, 8: 0x3000}
    assert allocator.live() == {(Path.BRK, 7): 0x1000, (Path.BRK, 8): 0, (Path.BRK, 0): 0}


def test_a_mapping_that_is_given_back_whole_has_lived() -> None:
    allocator = Allocator()
    for ns, length in ((10, MIB), (20, 2 * MIB)):
        allocator.call(
            Call.MMAP, Asked(PLACE * ns, length, READ_WRITE, ANON | PRIVATE, site=ns, ns=ns)
        )
    whole = allocator.call(Call.MUNMAP, Asked(PLACE * 10, MIB, ns=15))
    half = allocator.call(Call.MUNMAP, Asked(PLACE * 20, MIB, ns=25))
    assert (whole.back, whole.life_ns) == ({10: MIB}, 5)
    assert (half.back, half.life_ns) == ({20: MIB}, None)
