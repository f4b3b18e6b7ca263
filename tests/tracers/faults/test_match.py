"""What became of exceptions, by what came after them."""

from __future__ import annotations

import numpy as np
import pytest

from memtap.bpf.stream import Events
from memtap.tracers.faults.locate import where_type
from memtap.tracers.faults.match import Exceptions, Found
from memtap.tracers.faults.probes import Kind, Mark
from memtap.tracers.faults.streaks import ANON_BITS

EVENT = np.dtype(
    [
        ("ns", "u8"),
        ("address", "u8"),
        ("ip", "u8"),
        ("tgid", "u4"),
        ("tid", "u4"),
        ("seen", "u4"),
        ("count", "u2"),
        ("stack", "u2"),
        ("number", "u2"),
        ("kind", "u1"),
        ("marks", "u1"),
    ]
)
Told = dict[str, int]


def told(kind: Kind, number: int = 0, **other: int) -> Told:
    return {"kind": kind, "number": number, "tgid": 1, "tid": 1, "count": 1} | other


def raised(number: int = 0, **other: int) -> Told:
    return told(Kind.RAISED, number, **other)


def events_of(*several: Told, start: int = 1) -> Events:
    """Events a hundred nanoseconds apart."""
    events = np.zeros(len(several), EVENT)
    for place, members in enumerate(several):
        for name, value in ({"ns": 100 * (start + place)} | members).items():
            events[name][place] = value
    return events


def gone(_tgid: int, _tid: int) -> int | None:
    return None


def feed(exceptions: Exceptions, *several: Told, last: bool = False, start: int = 1) -> Events:
    events = events_of(*several, start=start)
    where, at = np.zeros(len(events), where_type()), np.arange(len(events))
    where["place"], where["site"], where["stack"], where["offset"] = at, at + 7, at + 9, at * 4096
    return exceptions.feed(events, where, last)


def faults(*several: Told) -> Events:
    return feed(Exceptions(gone), *several, last=True)


def test_a_higher_number_tells_that_the_one_before_was_completed() -> None:
    found = faults(raised(7), raised(8), raised(9))
    assert found["kind"].tolist() == [Kind.MINOR] * 3
    assert found["place"].tolist() == [0, 1, 2]
    assert found["site"].tolist() == [7, 8, 9]
    assert found["stack"].tolist() == [9, 10, 11]
    assert found["offset"].tolist() == [0, 4096, 8192]


def test_the_same_number_tells_that_it_was_not() -> None:
    found = faults(raised(7, address=1), raised(7, address=2), raised(8, address=3))
    assert found["address"].tolist() == [2, 3]


def test_numbers_begin_anew_after_the_largest() -> None:
    assert len(faults(raised(65535), raised(0), raised(1))) == 3


def test_threads_have_numbers_of_their_own() -> None:
    assert len(faults(raised(7, tid=1), raised(7, tid=2), raised(8, tid=2), raised(8, tid=1))) == 4


@pytest.mark.parametrize("kind", [Kind.MINOR, Kind.MAJOR, Kind.BAD])
def test_the_end_of_a_fault_tells_its_kind_and_time(kind: Kind) -> None:
    (fault,) = faults(raised(7, address=5), told(kind, 7, address=6))
    assert (fault["kind"], fault["time_ns"], fault["address"]) == (kind, 100, 5)
    assert fault["found"] & Found.TIMED


def test_a_wait_is_no_end_and_its_time_counts_where_nothing_tells_of_that() -> None:
    found = faults(raised(7), told(Kind.WAITED, 7), told(Kind.WAITED, 7), raised(8), raised(9))
    assert found["kind"].tolist() == [Kind.MINOR] * 3
    assert (found["found"] & Found.WAITED > 0).tolist() == [True, False, False]
    assert found["time_ns"].tolist() == [200, 0, 0]
    (ended,) = faults(raised(7), told(Kind.WAITED, 7), told(Kind.MAJOR, 7))
    assert (ended["kind"], ended["time_ns"]) == (Kind.MAJOR, 200)


def test_the_wait_of_a_system_call_is_of_no_fault() -> None:
    found = faults(raised(7), told(Kind.WAITED, 8), raised(8), told(Kind.WAITED, 9))
    assert (found["found"] & Found.WAITED > 0).tolist() == [False, False]
    assert len(faults(told(Kind.WAITED, 7))) == 0


def test_an_exception_that_is_seen_again_after_a_wait_began_the_first_time() -> None:
    again = [raised(7, address=9), told(Kind.WAITED, 7), raised(7, address=9)]
    found = faults(*again, told(Kind.MINOR, 7), raised(8))
    assert found["time_ns"].tolist() == [300, 0]
    assert found["found"][0] & Found.WAITED
    other = faults(raised(7, address=9), told(Kind.WAITED, 7), raised(7, address=8), raised(8))
    assert other["address"].tolist() == [8, 0]


def test_a_fault_has_the_room_up_to_the_next_exception_of_its_thread() -> None:
    found = faults(raised(7), raised(3, tid=2), told(Kind.MINOR, 7), raised(8), raised(4, tid=2))
    by_thread = {(int(f["tid"]), int(f["ns"])): int(f["room_ns"]) for f in found}
    assert by_thread == {(1, 100): 300, (1, 400): 100, (2, 200): 300, (2, 500): 0}


def test_those_of_a_streak_share_their_room() -> None:
    streak = [raised(7, count=3, ns=100), raised(10, ns=100, marks=Mark.UNTIMED)]
    found = faults(*streak, raised(11, ns=900))
    assert found["room_ns"].tolist() == [600, 200, 0]


def test_who_left_the_cpu_meanwhile_is_known_by_the_next_exception() -> None:
    left = 1 << ANON_BITS
    found = faults(raised(7, seen=5), raised(8, seen=6), raised(9, seen=7 + left))
    # Of the last nobody knows.
    assert (found["found"] & Found.SWITCHED > 0).tolist() == [False, True, True]


def test_what_is_told_of_another_number_is_not_its_own() -> None:
    found = faults(raised(7), told(Kind.MAJOR, 8))
    assert found["kind"].tolist() == [Kind.MINOR, Kind.MAJOR]
    assert not found["found"][0] & Found.TIMED and not found["found"][1] & Found.RAISED


def test_a_signal_that_is_caught_ends_each_of_equal_numbers() -> None:
    found = faults(raised(7), told(Kind.BAD, 7), raised(7), told(Kind.BAD, 7), raised(7))
    assert found["kind"].tolist() == [Kind.BAD, Kind.BAD, Kind.MINOR]


def test_a_fault_without_an_exception_counts_where_it_is_completed() -> None:
    (fault,) = faults(told(Kind.MINOR, 7, address=9))
    assert (fault["kind"], fault["address"], fault["time_ns"]) == (Kind.MINOR, 9, 0)


def test_swap() -> None:
    found = faults(raised(7), told(Kind.SWAPPED, 7), told(Kind.MAJOR, 7), raised(8))
    assert (found["found"] & Found.SWAPPED > 0).tolist() == [True, False]
    assert len(faults(told(Kind.SWAPPED, 7))) == 0


@pytest.mark.parametrize(
    ("before", "after", "huge"),
    [
        (0, 512, True),
        (0, 480, True),
        (0, 64, False),
        (600, 0, False),
        (2**ANON_BITS - 5, 507, True),
    ],
)
def test_a_huge_page_is_seen_in_the_sum_of_anon_pages(before: int, after: int, huge: bool) -> None:
    first, _ = faults(raised(7, seen=before), raised(8, seen=after, address=1 << 21))
    assert bool(first["found"] & Found.HUGE) is huge


@pytest.mark.parametrize(("second", "huge"), [(0x1000, False), (1 << 21, True)])
def test_2_mib_with_a_small_fault_hold_no_huge_page(second: int, huge: bool) -> None:
    found = faults(raised(7), raised(8, seen=512, address=second), raised(9, address=5 << 21))
    assert bool(found["found"][0] & Found.HUGE) is huge


def test_the_same_2_mib_can_be_a_huge_page_again_and_again() -> None:
    several = [raised(n, seen=(n % 2) * 512 + n // 2 * 512) for n in range(0, 8, 2)]
    found = faults(*several)
    assert (found["found"][:-1] & Found.HUGE > 0).all()


def test_a_hint_is_seen_in_its_count() -> None:
    first, second = faults(raised(7, seen=3 << 24), raised(8, seen=4 << 24))
    assert first["found"] & Found.NUMA and not second["found"] & Found.NUMA


def test_the_last_of_a_thread_waits_for_what_is_told_later() -> None:
    exceptions = Exceptions(gone)
    assert len(feed(exceptions, raised(7, address=5))) == 0
    (fault,) = feed(exceptions, told(Kind.MAJOR, 7), start=9)
    assert (fault["kind"], fault["address"], fault["time_ns"]) == (Kind.MAJOR, 5, 800)


@pytest.mark.parametrize(("count", "waits"), [(7, True), (8, False), (None, False), (65543, True)])
def test_a_thread_that_is_quiet_is_asked_once_it_has_waited(count: int | None, waits: bool) -> None:
    exceptions = Exceptions(lambda tgid, tid: count)
    assert len(feed(exceptions, raised(7))) == 0
    assert len(feed(exceptions)) == (0 if waits else 1)
    assert len(feed(exceptions, last=True)) == (1 if waits else 0)


def test_nothing_is_counted_twice_however_it_is_cut() -> None:
    several = [raised(n, tid=tid, tgid=1) for n in range(50) for tid in (1, 2, 3) if (n + tid) % 4]
    whole = np.sort(faults(*several)["ns"])
    for size in (1, 2, 7, 50):
        exceptions = Exceptions(gone)
        parts = [
            feed(exceptions, *several[at : at + size], start=1 + at)
            for at in range(0, len(several), size)
        ]
        parts.append(feed(exceptions, last=True))
        counted = np.sort(np.concatenate(parts)["ns"])
        assert counted.tolist() == whole.tolist()


def test_faults_come_by_thread_each_in_order_of_time() -> None:
    found = faults(raised(1, tid=2), raised(1, tid=1), raised(2, tid=2), raised(2, tid=1))
    assert found["tid"].tolist() == [1, 1, 2, 2]
    assert found["ns"].tolist() == [200, 400, 100, 300]
