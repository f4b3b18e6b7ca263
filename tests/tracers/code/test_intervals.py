"""Addresses in many spaces at once are where they are in each."""

from __future__ import annotations

import random

import numpy as np
import pytest

from memtap.tracers.code.intervals import NOWHERE, Space, Waiting, locate_in

PAGE = 4096
HIGHEST = 0xFFFFFFFFFF600000  # of [vsyscall]


def filled(chance: random.Random) -> Space:
    space = Space()
    for number in range(1, chance.randrange(8)):
        start = chance.choice([chance.randrange(64) * PAGE, HIGHEST, 1 << 47])
        space.put(start, start + chance.randrange(1, 9) * PAGE, number, chance.randrange(9) * PAGE)
    return space


@pytest.mark.parametrize("count", [1, 2, 300, 4096, 4097, 9000])
def test_many_spaces_are_searched_as_each_is(count: int) -> None:
    chance = random.Random(count)
    spaces = [filled(chance) for _ in range(count)]
    which = np.sort(np.array([chance.randrange(count) for _ in range(3 * count)]))
    places = [0, PAGE - 1, HIGHEST, HIGHEST + PAGE, (1 << 64) - 1, 1 << 47]
    addresses = np.array(
        [chance.choice([chance.randrange(80 * PAGE), *places]) for _ in which], np.uint64
    )
    found = locate_in([space.arrays() for space in spaces], which, addresses)
    alone = [spaces[of].locate(addresses[at : at + 1]) for at, of in enumerate(which.tolist())]
    for together, one_by_one in zip(found, zip(*alone, strict=True), strict=True):
        there = found[0] != NOWHERE if together is found[1] else np.ones(len(which), bool)
        assert (together == np.concatenate(one_by_one))[there].all()


def test_a_child_has_its_own_space() -> None:
    parent = Space()
    parent.put(PAGE, 2 * PAGE, 1)
    at = np.array([PAGE], np.uint64)
    parent.arrays()
    child = parent.copy()
    child.put(PAGE, 2 * PAGE, 2)
    both = [parent.arrays(), child.arrays()]
    assert locate_in(both, np.array([0, 1]), np.repeat(at, 2))[0].tolist() == [1, 2]


def test_what_waits_is_looked_up_where_it_stood_then() -> None:
    parent, waiting, rows = Space(), Waiting(), np.arange(2)
    parent.put(PAGE, 2 * PAGE, 1)
    waiting.add(parent, rows)
    waiting.add(parent.copy(), rows + 2)  # has changed nothing, so it is looked up with its parent
    parent.put(PAGE, 2 * PAGE, 2)
    waiting.add(parent, rows + 4)
    arrays, which, at = waiting.take()
    assert len(arrays) == 2
    assert at.tolist() == list(range(6))
    found = locate_in(arrays, which, np.full(6, PAGE, np.uint64))[0]
    assert found.tolist() == [1, 1, 1, 1, 2, 2]
    assert waiting.take()[0] == []
