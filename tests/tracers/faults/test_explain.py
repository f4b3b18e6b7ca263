"""What is said of numbers, and only if they say it."""

from __future__ import annotations

import random

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers.code.intervals import PAGE_BYTES
from memtap.tracers.code.mappings import Region
from memtap.tracers.faults.explain import explain, touched_again
from memtap.tracers.faults.probes import Kind
from memtap.tracers.faults.rows import ROW, Cause
from memtap.tracers.faults.times import merged, tally
from memtap.tracers.host.counters import Counters
from tests.tracers.builders import make_interval

NUMBERS = ["region", "cause"]


def rows(*touches: tuple[int, int, int], **members: int) -> Events:
    """First touches, given as process, page and count."""
    found = np.zeros(len(touches), ROW)
    found["kind"], found["cause"], found["region"] = Kind.MINOR, Cause.FIRST_TOUCH, Region.ANON
    for row, (tgid, page, count) in zip(found, touches, strict=True):
        row["tgid"], row["address"], row["count"] = tgid, page * PAGE_BYTES + 8, count
    for name, value in members.items():
        found[name] = value
    return found


def said(faults: Events, kernel: Counters | None = None) -> str:
    counted = merged([tally(faults, NUMBERS)], NUMBERS)
    interval = make_interval(kernel=kernel or {})
    return " ".join(explain(counted, interval, touched_again(faults)))


def test_what_was_given_back_is_touched_again() -> None:
    assert touched_again(rows((1, 10, 5), (1, 10, 5), (1, 12, 1))) == 6
    assert touched_again(rows((1, 10, 5), (1, 15, 5), (2, 10, 5))) == 0
    assert touched_again(rows((1, 10, 5), (1, 10, 5), cause=Cause.COW)) == 0
    assert touched_again(rows()) == 0


def test_what_has_moved_or_is_of_another_program_was_not_given_back() -> None:
    faults = rows((1, 10, 5), (1, 0, 0), (1, 10, 5), (2, 10, 5), (2, 10, 5))
    faults["ns"] = np.arange(5)
    assert touched_again(faults) == 10
    faults["kind"][1], faults["cause"][1] = Kind.MOVED, Cause.UNKNOWN
    assert touched_again(faults) == 5


def test_touched_again_agrees_with_a_set_of_every_page() -> None:
    chance = random.Random(5)
    for _ in range(100):
        touches = [
            (chance.choice((1, 2)), chance.randrange(50), chance.randrange(1, 20))
            for _ in range(chance.randrange(1, 12))
        ]
        pages = [(tgid, page + n) for tgid, page, count in touches for n in range(count)]
        assert touched_again(rows(*touches)) == len(pages) - len(set(pages))


def test_memory_that_comes_and_goes_is_worth_a_sentence() -> None:
    assert "75% of the first touches were of pages" in said(rows(*[(1, 10, 5)] * 4))
    assert "touched before" not in said(rows((1, 10, 5), (1, 20, 5)))


def test_time_is_set_against_the_time_on_a_cpu() -> None:
    faults = rows((1, 10, 1), time_ns=250_000)
    assert "on a CPU for 1.0 ms: 25.0%." in said(faults, {"cpu_run_virtual_total": 1_000_000})
    assert "0.1 ms: 2.5 times as much" in said(faults, {"cpu_run_virtual_total": 100_000})
    assert "All faults took 0.2 ms, waiting included, in 1.0 s." in said(faults)
    assert "took" not in said(rows((1, 10, 1)))


def of_cause(cause: Cause, time_ns: int, **other: int) -> Events:
    return rows((1, 10, 1), cause=cause, time_ns=time_ns, **other)


def test_a_rarer_cause_that_took_most_of_the_time_is_named() -> None:
    slow, fast = of_cause(Cause.FILE_WAIT, 10**7), of_cause(Cause.FIRST_TOUCH, 1000)
    assert (
        "100% of their time went to 1 of them: touches of file pages that were in the page cache, "
        "but still being read ahead or written, and had to be waited for (file-wait), 10000.0 us"
    ) in said(np.concatenate([slow, *[fast] * 9]))


def test_what_was_not_timed_can_have_taken_all_the_room_that_it_had() -> None:
    slow, fast = of_cause(Cause.FILE_READ, 10**7), of_cause(Cause.FIRST_TOUCH, 0, room_ns=10**6)
    text = said(np.concatenate([slow, *[fast] * 9]))
    assert "At least 53% of their time went to 1 of them" in text
    unknown = of_cause(Cause.FIRST_TOUCH, 0)
    assert "went to" not in said(np.concatenate([slow, *[unknown] * 9]))


def test_no_time_is_concluded_from_causes_of_which_none_was_timed() -> None:
    slow, untimed = of_cause(Cause.FILE_READ, 10**7), of_cause(Cause.COW, 0)
    assert "All faults took" not in said(np.concatenate([slow, *[untimed] * 9]))
    several = [slow, of_cause(Cause.COW, 1000), *[untimed] * 9]
    assert "All faults took about 10.0 ms, waiting included, by the times of 2 of them" in said(
        np.concatenate(several)
    )


def test_nothing_is_said_to_be_nothing() -> None:
    assert said(rows()) == "There was no page fault."
