"""Streaks of exceptions: told as one, they are the same faults."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from memtap.bpf.sideband import Mapped
from memtap.bpf.stream import Events
from memtap.tracers.code.intervals import NOWHERE, PAGE_BYTES, Space
from memtap.tracers.code.mappings import Mappings
from memtap.tracers.faults.locate import where_type
from memtap.tracers.faults.match import Exceptions, Found
from memtap.tracers.faults.probes import Kind
from memtap.tracers.faults.streaks import ANON_BITS, SWITCH_BITS, ends_apart, in_parts
from tests.bpf.ctext import number as defined
from tests.bpf.ctext import whole
from tests.tracers.faults.test_match import Told, events_of, feed, gone, raised, told

GONE = 4194305  # no process has this number


def faults(*several: Told) -> Events:
    """What becomes of events, of which some are streaks."""
    events = ends_apart(events_of(*several))
    where = np.zeros(len(events), where_type())
    return Exceptions(gone).feed(events, where, last=True)


def test_only_the_last_of_a_streak_can_be_undone() -> None:
    found = faults(raised(7, count=5, address=0x1000), raised(11, address=0x5000))
    assert found["count"].tolist() == [4, 1]
    assert found["address"].tolist() == [0x1000, 0x5000]
    assert found["ns"].tolist() == [100, 200]


def test_what_is_told_is_told_of_the_last_of_a_streak_whose_time_is_not_known() -> None:
    first, last = faults(raised(7, count=5, address=0x1000), told(Kind.MAJOR, 11))
    assert (first["kind"], first["count"], first["address"]) == (Kind.MINOR, 4, 0x1000)
    assert (last["kind"], last["count"], last["address"]) == (Kind.MAJOR, 1, 0x5000)
    assert not last["found"] & Found.TIMED


def test_what_could_not_be_counts_once_after_those_that_were() -> None:
    first, last = faults(raised(7, count=3), told(Kind.BAD, 9))
    assert (first["kind"], first["count"]) == (Kind.MINOR, 2)
    assert (last["kind"], last["count"]) == (Kind.BAD, 1)


@pytest.mark.parametrize(("grown", "huge"), [(600, False), (599 + 512, True), (599 + 450, True)])
def test_a_streak_of_small_pages_is_no_huge_one_but_its_last_can_be(grown: int, huge: bool) -> None:
    streak = raised(7, count=600, address=0x600000 - 599 * PAGE_BYTES, seen=1000)
    first, last, _ = faults(streak, raised(607, seen=1000 + grown))
    assert not first["found"] & Found.HUGE
    assert bool(last["found"] & Found.HUGE) is huge


def test_2_mib_that_a_streak_went_through_hold_no_huge_page() -> None:
    streak = raised(7, count=1025, address=0, tid=2)
    busy = [raised(1, address=0x200000, seen=0), raised(2, address=0x700000, seen=512)]
    found = faults(streak, raised(1032, tid=2, address=0x900000), *busy)
    assert not (found["found"] & Found.HUGE).any()


def test_numbers_and_pages_begin_anew_after_the_largest() -> None:
    _, last = ends_apart(events_of(raised(65534, count=4, seen=0xABFFFFFE)))
    assert last["number"] == 1
    assert last["seen"] == 0xABF00001


def merged(several: list[Told]) -> list[Told]:
    """What the C program makes of exceptions that are no streaks yet."""
    streaks: list[Told] = []
    for each in several:
        last = streaks[-1] if streaks else each
        more = last["count"] if each is not last else 0
        goes_on = all(last[name] == each[name] for name in ("tid", "ip", "marks"))
        goes_on &= last["address"] + more * PAGE_BYTES == each["address"]
        goes_on &= (last["number"] + more) % 65536 == each["number"]
        if streaks and goes_on and each["kind"] == last["kind"] == Kind.RAISED:
            streaks[-1] = last | {"count": more + 1}
        else:
            streaks.append(each)
    return streaks


def random_walk(chance: random.Random) -> list[Told]:
    """Exceptions of two threads that mostly touch memory in order; some are raised again."""
    tasks = [{"tid": tid, "address": tid << 32, "number": 65000} for tid in (1, 2)]
    task, several = tasks[0], []
    for ns in range(300):
        if chance.random() < 0.1:
            task = chance.choice(tasks)
        several.append(raised(task["number"] % 65536, ns=ns, ip=1, marks=0) | task)
        several[-1]["number"] %= 65536
        if chance.random() < 0.1:
            continue
        task["number"] += 1
        task["address"] += PAGE_BYTES * chance.choice((1, 1, 1, 1, 2, -7))
    return several


def pages(found: Events) -> Counter[tuple[int, int]]:
    """How often each page was faulted on, by thread and address."""
    return Counter(
        (int(fault["tid"]), int(fault["address"]) + page * PAGE_BYTES)
        for fault in found
        for page in range(fault["count"])
    )


def test_told_as_streaks_exceptions_are_the_same_faults() -> None:
    for seed in range(30):
        single = random_walk(random.Random(seed))
        streaks = merged(single)
        assert len(streaks) < len(single) * 3 / 4
        assert pages(faults(*streaks)) == pages(feed(Exceptions(gone), *single, last=True))


def test_a_streak_over_a_border_is_cut_there() -> None:
    space = [(0x1000, 0x3000), (0x3000, 0x4000), (0x6000, 0x9000)]
    mapped = [
        Mapped(n, GONE, start, end, 0x7000, 0, n, 3, 2, f"/{n}")
        for n, (start, end) in enumerate(space)
    ]
    events = events_of(
        raised(7, address=0x2010, count=6, seen=5, ns=10, tgid=GONE),
        raised(13, address=0x1000, count=2, ns=11, tgid=GONE),
    )
    mappings = Mappings()
    columns = (events[name] for name in ("tgid", "ns", "address", "count"))
    located = mappings.locate(*columns, mapped)
    found, where = located.numbers, np.zeros(len(events), where_type(callers=2))
    where["place"], where["site"], where["offset"] = found, found + 7, located.offsets
    where["callers"][:, 1] = found + 9
    cut, where = in_parts(events, where, located.parts)
    assert cut["count"].tolist() == [1, 1, 2, 2, 2]
    assert cut["address"].tolist() == [0x2010, 0x3010, 0x4010, 0x6010, 0x1000]
    assert cut["number"].tolist() == [7, 8, 9, 11, 13]
    assert [mappings.places[n].path for n in where["place"]] == ["/0", "/1", "?", "/2", "/0"]
    assert where["site"].tolist() == [found[0] + 7] * 4 + [found[1] + 7]
    assert where["callers"][:, 1].tolist() == [found[0] + 9] * 4 + [found[1] + 9]
    assert where["offset"][[0, 1, 3, 4]].tolist() == [0x8010, 0x7010, 0x7010, 0x7000]


def test_parts_agree_with_a_table_of_every_page() -> None:
    chance = random.Random(4)
    for _ in range(200):
        space, table = Space(), [NOWHERE] * 60
        for number in range(1, 9):
            start = chance.randrange(40)
            end = start + chance.randrange(1, 20)
            space.put(start * PAGE_BYTES, end * PAGE_BYTES, number)
            table[start:end] = [number] * (end - start)
        start, count = chance.randrange(30), chance.randrange(1, 30)
        parts = space.parts(start * PAGE_BYTES + chance.randrange(PAGE_BYTES), count)
        assert [n for pages, n, _ in parts for _ in range(pages)] == table[start : start + count]


def test_the_bits_of_what_was_seen_are_those_of_the_program() -> None:
    program = whole("faults")
    assert defined(program, "ANON_BITS") == ANON_BITS
    assert defined(program, "SWITCH_MASK") == (1 << SWITCH_BITS) - 1
    assert defined(program, "HINT_SHIFT") == SWITCH_BITS
