"""Heaps of several glibcs as they were recorded: what they add up to is what malloc said.

And what becomes of them that a process may have written there instead.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtap.tracers.code.intervals import PAGE_BYTES
from memtap.tracers.malloc.arenas import LINKS_AT, LISTS, Arenas, find
from memtap.tracers.malloc.heaps import Heaps
from memtap.tracers.malloc.heapwalk import Look, looked_at, rows_of
from memtap.tracers.malloc.libraries import allocator_of
from memtap.tracers.malloc.memory import Flags, Memory, OutOfTimeError, is_data, ranges_of
from memtap.tracers.malloc.sampling import sample
from memtap.tracers.model.report import Row
from tests.live.heaping import check
from tests.tracers.malloc.recorded import NAMES, Recorded, recorded

TGID, FIRST = 7, NAMES[0]
Change = Callable[[int, bytes], bytes]


def same(_at: int, page: bytes) -> bytes:
    return page


def look(of: Recorded, change: Change = same, most_s: float = math.inf) -> Look:
    return looked_at(of.memory(change, most_s), lambda _library: of.parameters)


def rows(found: Look) -> list[Row]:
    heaps = Heaps()
    heaps.feed(rows_of(TGID, 0, found))
    return heaps.take({}) or []


def put(words: dict[int, int]) -> Change:
    """These words stand there instead."""

    def change(at: int, text: bytes) -> bytes:
        for address, word in words.items():
            offset = address - at
            if 0 <= offset <= len(text) - 8:
                text = text[:offset] + struct.pack("<Q", word) + text[offset + 8 :]
        return text

    return change


def arenas_in(of: Recorded) -> tuple[Memory, Arenas]:
    """Its memory, and where its arenas are."""
    memory = of.memory()
    library = [(m.start, m.end) for m in of.mapped if is_data(m) and allocator_of([m.path]) != "?"]
    found = find(memory, library)
    assert found
    return memory, found


def first_chunk(of: Recorded, list_number: int) -> tuple[int, int]:
    """Where the first list of the main arena is that has a chunk, from this on; and the chunk."""
    memory, found = arenas_in(of)
    arena = found.look(memory, 0)
    for number in range(list_number, LISTS):
        head = arena.first_list + 16 * number
        if arena.lists[2 * number] != head - LINKS_AT:
            return head, arena.lists[2 * number]
    raise AssertionError


def test_there_are_recordings_of_each_form_that_an_arena_has() -> None:
    assert NAMES == ["glibc-2.31", "glibc-2.36", "glibc-2.41", "glibc-2.43"]


@pytest.mark.parametrize("name", NAMES)
def test_arenas_are_what_malloc_said(name: str) -> None:
    of = recorded(name)
    found = look(of)
    assert found.notes == []
    told = rows(found)
    check(told, of.said)
    assert sum(row["tcache_bytes"] or 0 for row in told) == of.said.in_tcaches
    assert sum(row["trim_bytes"] or 0 for row in told) == of.given_back > 100_000
    assert [row["threads"] for row in told] == [1, 1, 1, None]
    assert not any(row["bound_bytes"] for row in told)


@pytest.mark.parametrize("name", NAMES)
def test_a_list_that_is_broken_makes_the_rest_unsure(name: str) -> None:
    """A chunk whose link back leads elsewhere; all that is not known to be free may be."""
    of = recorded(name)
    whole = rows(look(of))
    _, chunk = first_chunk(of, 64)
    main, *others = rows(look(of, put({chunk + 24: 1})))
    assert main["large_bytes"] < whole[0]["large_bytes"]
    assert main["bound_bytes"] == main["heap_bytes"] - main["stuck_bytes"] - main["top_bytes"]
    assert main["used_bytes"] - main["bound_bytes"] <= whole[0]["used_bytes"]
    assert others == whole[1:]


@pytest.mark.parametrize("name", NAMES)
def test_a_heap_that_moves_is_told_with_how_far(name: str) -> None:
    """Each time that an arena is read another thread has come; each other time a chunk is gone."""
    of = recorded(name)
    head, chunk = first_chunk(of, 0)  # the unsorted list has one
    _, found = arenas_in(of)
    size, following = of.memory().words(chunk + 8, 2)
    assert following == head - LINKS_AT
    memory, main = of.memory(), found.addresses[0]
    plain, whole, looks = memory.pread, 8 * (found.before + 2 * LISTS + 6), [0]
    gone = {head: head - LINKS_AT, head + 8: head - LINKS_AT}

    def pread(at: int, length: int) -> bytes:
        looks[0] += (at, length) == (main, whole)
        forged = {main + whole - 16: looks[0]} | (gone if looks[0] // 2 % 2 else {})
        return put(forged)(at, plain(at, length))

    memory.pread = pread
    first = rows(looked_at(memory, lambda _library: of.parameters))[0]
    assert first["bound_bytes"] == size & ~7


def test_a_page_that_is_not_in_memory_is_not_read() -> None:
    of = recorded(FIRST)
    _, chunk = first_chunk(of, 64)
    del of.pages[chunk + 8 & -PAGE_BYTES]
    main = rows(look(of))[0]
    assert main["bound_bytes"] > 0


def test_where_there_is_no_arena_the_size_of_the_heap_is_told() -> None:
    of = recorded(FIRST)
    of.mapped = [each for each in of.mapped if not each.path.startswith("/")]
    found = look(of)
    (row,) = rows(found)
    heap = next(each for each in of.mapped if each.path == "[heap]")
    assert row["heap_bytes"] == heap.end - heap.start
    assert row["resident_bytes"] == sum(heap.start <= at < heap.end for at in of.pages) * 4096
    assert row["used_bytes"] is None
    assert found.notes == ["it has no arena of a 64-bit glibc"]


def test_a_row_of_chunks_without_an_end_is_not_followed_for_ever() -> None:
    """A fastbin whose only chunk is also the next one: its place, mixed into it, is the link."""
    of = recorded("glibc-2.36")
    memory, found = arenas_in(of)
    chunk = next(first for first in found.look(memory, 0).fastbins if first)
    began = time.monotonic()
    forged = look(of, put({chunk + 16: chunk ^ (chunk + 16) >> 12}), most_s=0.5)
    assert time.monotonic() - began < 5
    assert forged.heaps[0].parts


def test_arenas_without_an_end_are_not_followed_for_ever() -> None:
    """Each `next` leads into an arena whose own leads into the same."""
    of = recorded("glibc-2.36")
    memory, found = arenas_in(of)
    second = found.addresses[1]
    at = second + (found.before + 2 * LISTS + 2) * 8
    assert memory.words(at, 1)[0] == found.addresses[2]
    assert rows(look(of, put({at: second})))[0]["used_bytes"] is None


WORDS = st.one_of(
    st.integers(0, 2**64 - 1), st.integers(0, 4096), st.sampled_from([2**63, 2**47 - 8, 2**47])
)


@given(st.data())
def test_whatever_stands_in_a_heap_is_told_without_an_error(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NAMES))
    of = _kept(name)
    pages = sorted(of.pages)
    at = st.sampled_from(pages).flatmap(
        lambda page: st.integers(0, PAGE_BYTES // 8 - 1).map(lambda word: page + 8 * word)
    )
    links = st.sampled_from(_words_in_use(name))
    places = st.one_of(at, links)
    values = st.one_of(WORDS, places, places.map(lambda place: place - 16))
    forged = data.draw(st.dictionaries(places, values, min_size=1, max_size=8))
    began = time.monotonic()
    found = look(of, put(forged), most_s=0.2)
    assert time.monotonic() - began < 5
    for row in rows(found):
        for column in ("used_bytes", "stuck_bytes", "top_bytes", "trim_bytes", "resident_bytes"):
            assert row[column] is None or row[column] >= 0


_KEPT: dict[str, Recorded] = {}


def _kept(name: str) -> Recorded:
    return _KEPT.setdefault(name, recorded(name))


def _words_in_use(name: str) -> list[int]:
    """Where arenas, and the heads of chunks in lists, are."""
    of = _kept(name)
    memory, found = arenas_in(of)
    arenas = [found.look(memory, number) for number in range(len(found.addresses))]
    words = [each.address + 8 * word for each in arenas for word in range(275)]
    chunks = [link for each in arenas for link in (*each.lists, *each.fastbins, each.top[0])]
    heaps = [
        start + 8 * word for each in arenas[1:] for start, _ in each.regions for word in (0, 1, 2)
    ]
    return words + [chunk + 8 * word for chunk in chunks if chunk for word in (1, 2, 3)] + heaps


def flags(pages: set[int]) -> Callable[[int, int], Flags]:
    return lambda start, end: np.array([at in pages for at in range(start, end, PAGE_BYTES)], bool)


def test_what_is_in_memory_of_ranges() -> None:
    """Ranges far from each other, and one that is longer than what is counted at a time."""
    far, long = 1 << 40, 600 << 20
    pages = {far, far + 4096, far + 5 * 4096, far + (1 << 30), far + (1 << 30) + long - 4096}
    memory = Memory([], lambda _at, length: bytes(length), flags(pages), math.inf)
    ranges = [
        (far, far + 8192),
        (far + 4 * 4096, far + 7 * 4096),
        (far + (1 << 30), far + (1 << 30) + long),
    ]
    assert memory.resident(ranges_of(ranges)) == 5 * 4096
    assert memory.resident(ranges_of([])) == 0


def test_reading_ends_when_it_is_time() -> None:
    memory = Memory([], lambda _at, length: bytes(length), flags({0}), 0.0)
    with pytest.raises(OutOfTimeError):
        for _ in range(1025):
            memory.read(0, 8)
    with pytest.raises(OutOfTimeError):
        memory.read(0, 8)  # and is not begun again


def test_parameters_that_are_not_known_cost_only_what_they_tell() -> None:
    of = recorded(FIRST)
    found = looked_at(of.memory(), lambda _library: None)
    (*arenas,) = rows(found)
    assert [row["arena"] for row in arenas] == ["main", "1", "2"]
    assert arenas[0]["arena_max"] is None
    assert found.notes == [
        "chunks with a mapping of their own are not known: its C library cannot be read"
    ]


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_an_arena_tell_what_its_lists_do(name: str) -> None:
    """All parts together tell just that; some of them, how far it may be off."""
    of = recorded(name)
    memory, found = arenas_in(of)
    for number, row in enumerate(rows(look(of))[:-1]):
        arena = found.look(memory, number)
        listed = row["stuck_bytes"] - row["fast_bytes"]
        sample_of = partial(sample, memory, arena.regions)
        whole = sample_of(size=PAGE_BYTES)
        assert whole
        assert (whole.free, whole.bound, whole.share) == (listed, 0, 1)
        assert sample_of(size=64 * PAGE_BYTES) is None  # too few
    assert row["arena"] == "2"
