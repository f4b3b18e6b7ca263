"""Heaps, made by hand header by header, and what they add up to."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtap.tracers.malloc.heapwalk import Blocks, measure

IN_USE = 1


def heap(*blocks: tuple[int, bool]) -> bytes:
    """Blocks of these sizes, each with whether it is used; the last is the top."""
    text, before = b"", True
    for size, used in blocks:
        text += struct.pack("<QQ", 0, size | (IN_USE if before else 0)) + bytes(size - 16)
        before = used
    return text


@pytest.mark.parametrize(
    ("blocks", "found"),
    [
        ([(4096, False)], Blocks(0, 0, 4096)),
        ([(32, True), (64, True), (4000, False)], Blocks(96, 0, 4000)),
        ([(32, True), (1024, False), (48, True), (2992, False)], Blocks(80, 1024, 2992)),
    ],
)
def test_blocks_are_used_stuck_or_the_top(blocks: list[tuple[int, bool]], found: Blocks) -> None:
    assert measure(heap(*blocks)) == found


@pytest.mark.parametrize("size", [0, 8, 24])
def test_headers_that_lead_nowhere_tell_nothing(size: int) -> None:
    broken = heap((64, True)) + struct.pack("<QQ", 0, size | IN_USE) + bytes(4096)
    assert measure(broken) is None


def test_a_block_beyond_the_end_tells_nothing() -> None:
    assert measure(heap((64, True), (4096, False))[:-16]) is None


@given(st.binary(min_size=16, max_size=4096).map(lambda text: text[: len(text) // 16 * 16]))
def test_anything_can_be_looked_at(text: bytes) -> None:
    found = measure(text)
    assert found is None or found.used + found.stuck + found.top == len(text)


@given(st.lists(st.tuples(st.integers(2, 100).map(lambda n: 16 * n), st.booleans()), min_size=1))
def test_all_bytes_are_counted_once(blocks: list[tuple[int, bool]]) -> None:
    *inner, (top, _) = blocks
    used = sum(size for size, is_used in inner if is_used)
    free = sum(size for size, is_used in inner if not is_used)
    assert measure(heap(*blocks)) == Blocks(used, free, top)
