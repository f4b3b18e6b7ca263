"""What malloc_trim(0) would give back, of chunks that are made by hand."""

from __future__ import annotations

from array import array

import pytest

from memtap.tracers.malloc.arenas import Arena
from memtap.tracers.malloc.freelists import Free
from memtap.tracers.malloc.trim import given_back

PAGE, START, BREAK = 4096, 1 << 30, (1 << 30) + (1 << 20)

Ranges = list[tuple[int, int]]


def arena(top: tuple[int, int], number: int = 0) -> Arena:
    return Arena(number, 0, 0, (), (), (START + top[0], START + top[1]), 1 << 20, 1, True, ())


def told(of: Arena, *chunks: tuple[int, int], huge_page: int = 0) -> Ranges:
    """Ranges in pages from the beginning on."""
    free = Free()
    free.chunks = array("Q", [START + chunk for chunk, _ in chunks])
    free.sizes = array("Q", [size for _, size in chunks])
    firsts, lasts = given_back(of, free, BREAK, huge_page)
    pairs = zip(firsts.tolist(), lasts.tolist(), strict=True)
    return [((first - START) // PAGE, (last - START) // PAGE) for first, last in pairs]


FULL = (1 << 20, 1 << 20)  # no top


@pytest.mark.parametrize(
    ("chunks", "found"),
    [
        ([], []),
        ([(0, 4096)], []),  # its header is in that page
        ([(4096 - 48, 4096 + 48)], [(1, 2)]),
        ([(4096 - 32, 4096 + 48)], []),
        ([(0, 3 * 4096)], [(1, 3)]),
        ([(0, 3 * 4096 - 16)], [(1, 2)]),
        ([(16 * 4096, 8192), (0, 8192)], [(1, 2), (17, 18)]),
    ],
)
def test_whole_pages_of_chunks_are_given_back(chunks: list[tuple[int, int]], found: Ranges) -> None:
    assert told(arena(FULL), *chunks) == found


def test_what_is_beside_a_chunk_of_a_fastbin_is_joined_with_it() -> None:
    assert told(arena(FULL), (0, 2048), (2048, 48), (2096, 8192)) == [(1, 2)]


def test_of_the_top_all_but_what_a_chunk_needs_is_given_back() -> None:
    end = 1 << 20
    assert told(arena((end - 3 * PAGE, end))) == [(254, 256)]
    assert told(arena((end - 3 * PAGE - 48, end))) == [(253, 256)]
    assert told(arena((end - 3 * PAGE - 32, end))) == [(254, 256)]  # less one byte is less a page
    assert told(arena((end - 32, end))) == []


def test_chunks_before_the_top_are_joined_with_it_and_those_behind_it_are_not() -> None:
    end = 1 << 20
    assert told(arena((end - PAGE, end)), (end - 4 * PAGE, 3 * PAGE)) == [(253, 256)]
    moved = arena((0, PAGE))  # in a piece of its own, before another one
    assert told(moved, (PAGE, 2 * PAGE)) == [(2, 3)]


def test_tops_of_threads_and_those_that_are_not_at_the_break_are_kept() -> None:
    end = 1 << 20
    assert told(arena((end - 9 * PAGE, end), number=1)) == []
    assert told(arena((end - 9 * PAGE, end - PAGE))) == []
    assert told(arena((end - 3 * PAGE, end), number=1), (end - 6 * PAGE, 3 * PAGE)) == []


def test_the_break_moves_by_huge_pages_where_malloc_wants_these() -> None:
    end = 1 << 20
    assert told(arena((end - 9 * PAGE, end)), huge_page=4 * PAGE) == [(248, 256)]
    assert told(arena((end - 3 * PAGE, end)), huge_page=4 * PAGE) == []
