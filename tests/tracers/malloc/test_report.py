"""The report of malloc, out of rows made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from memtap.bpf.stream import Events
from memtap.cli.telling import remarked
from memtap.tracers import load
from memtap.tracers.code.mappings import Region
from memtap.tracers.faults.probes import Kind
from memtap.tracers.malloc.allocator import NEVER
from memtap.tracers.malloc.libraries import allocator_of
from memtap.tracers.malloc.probes import Call, CallMark
from memtap.tracers.malloc.report import Malloc
from memtap.tracers.malloc.rows import ROW, Fact, are_possible
from memtap.tracers.malloc.timeline import Timeline
from memtap.tracers.model.chunk import Chunk
from memtap.tracers.model.report import Report, Row
from tests.tracers.builders import make_chunk, make_interval, make_origin

PLACE, CHUNK = 0x7F0000000000, 303_104
ANON = {"prot": 3, "flags": 0x22}
NAMES = {"allocator": {100: "glibc", 200: "jemalloc"}}


def call(kind: Call, address: int = PLACE, length: int = CHUNK, **members: int) -> dict[str, int]:
    usual = {"kind": kind, "address": address, "length": length, "tgid": 100, "tid": 100}
    return usual | (ANON if kind is Call.MMAP else {}) | members


def brk(end: int, **members: int) -> dict[str, int]:
    return call(Call.BRK, end, 0, **members)


def fact(kind: Fact, **members: int) -> dict[str, int]:
    return {"kind": kind, "tgid": 100} | members


def fault(address: int = PLACE, **members: int) -> dict[str, int]:
    usual: dict[str, int] = {"kind": Kind.MINOR, "address": address, "count": 1, "tgid": 100}
    return usual | {"tid": 100, "region": Region.ANON, "time_ns": 500} | members


def rows_of(*several: dict[str, int]) -> Events:
    rows = np.zeros(len(several), ROW)
    for number, members in enumerate(several):
        for name, value in ({"ns": number} | members).items():
            rows[name][number] = value
    return rows


def chunk(*several: dict[str, int], **other: Any) -> Chunk:
    return replace(make_chunk(**other), rows=rows_of(*several), texts=NAMES)


def report(*several: dict[str, int], by: str = "process,path") -> Report:
    found = Malloc(make_origin(tracer="malloc"), tuple(by.split(","))).feed(chunk(*several))
    assert found is not None
    return found


def paths(*several: dict[str, int]) -> dict[str, Row]:
    return {row["path"]: row for row in report(*several).rows}


def test_memory_that_is_shared_is_held_once_and_by_all_in_turn() -> None:
    """Whatever the numbers of the processes are, what they did has the order in which it was."""
    for child in (99, 101):
        born = [*(fact(kind, parent=100, tgid=child) for kind in (Fact.FORK, Fact.SHARE))]
        gets = [*born, call(Call.MMAP, tgid=child), fault(), call(Call.MUNMAP)]
        (row,) = report(*gets, by="path").rows
        assert (row["calls"], row["faults"], row["live_bytes"]) == (2, 1, 0)
        (row,) = report(*gets[:-1], by="path").rows
        assert row["live_bytes"] == CHUNK
        own = [*born, fact(Fact.EXEC, tgid=child), call(Call.MMAP, tgid=child), fault()]
        assert {row["path"]: row["faults"] for row in report(*own, by="path").rows}["other"] == 1


def test_a_fault_counts_for_whoever_got_the_memory_by_then() -> None:
    found = paths(
        fault(),
        call(Call.MMAP),
        fault(),
        fault(PLACE + 4096, count=70, time_ns=0, room_ns=10**6),
        call(Call.MUNMAP),
        fault(),
        fault(region=Region.HEAP),
        fault(region=Region.FILE),
        fault(kind=Kind.BAD),
    )
    assert {path: row["faults"] for path, row in found.items()} == {
        "mmap": 71,
        "brk": 1,
        "other": 3,
    }
    assert found["mmap"]["fault_time_ns"] == 71 * 500
    assert (found["mmap"]["calls"], found["mmap"]["requested_bytes"]) == (2, CHUNK)
    assert (found["mmap"]["returned_bytes"], found["mmap"]["live_bytes"]) == (CHUNK, 0)


def test_a_thread_that_returns_late_gives_back_what_was_there_before() -> None:
    """Another one got the memory meanwhile, which it could not if it had not been given back."""
    first, second = call(Call.MMAP, tid=1), call(Call.MMAP, tid=2)
    late = [call(Call.MUNMAP, tid=1), call(Call.MOVED_FROM, tid=1)]
    (row,) = report(first, second, late[0], by="path").rows
    assert (row["calls"], row["requested_bytes"]) == (3, 2 * CHUNK)
    assert (row["returned_bytes"], row["live_bytes"]) == (CHUNK, CHUNK)
    moved = call(Call.MOVED_TO, PLACE - 2 * CHUNK, 2 * CHUNK, tid=1)
    (row,) = report(first, second, late[1], moved, by="path").rows
    assert (row["calls"], row["requested_bytes"], row["live_bytes"]) == (3, 3 * CHUNK, 3 * CHUNK)
    over = call(Call.MMAP, tid=2, flags=0x32)  # MAP_FIXED replaces what there is
    (row,) = report(first, over, late[0], by="path").rows[-1:]
    assert row["live_bytes"] == 0


def test_what_the_kernel_refused_can_have_been_recorded() -> None:
    """It can have been asked for any length."""
    refused = call(Call.MMAP, 0, 2**64 - 4096)
    assert are_possible(rows_of(refused | {"call_marks": CallMark.REFUSED}))
    assert not are_possible(rows_of(refused))


def test_what_one_thread_got_another_can_give_back() -> None:
    (row,) = report(call(Call.MMAP, tid=1), call(Call.MUNMAP, tid=2), by="path").rows
    assert (row["returned_bytes"], row["live_bytes"]) == (CHUNK, 0)


def test_many_faults_between_two_calls_are_found_as_few_are() -> None:
    several = [fault(PLACE + page * 4096) for page in range(-50, 124)]
    found = paths(call(Call.MMAP), *several)
    assert {path: row["faults"] for path, row in found.items()} == {"mmap": 74, "other": 100}


def test_where_no_fault_was_timed_there_is_no_time_and_the_audit_says_of_how_many_it_is() -> None:
    found = report(fault(time_ns=0, count=9), fault(region=Region.HEAP))
    assert {row["path"]: row["fault_time_ns"] for row in found.rows} == {"other": None, "brk": 500}
    assert found.audit["notes"] == ["times are of 1 of 10 minor faults, and of 0 of 0 major ones"]
    assert found.audit["events"] == 10


def test_a_few_slow_faults_do_not_take_longer_than_there_was_time_for() -> None:
    """One of 10 ms is timed; a hundred that are not had 20 us each until the next one."""
    slow = fault(time_ns=10**7)
    fast = fault(PLACE + 4096, count=100, time_ns=0, room_ns=100 * 20_000)
    found = report(call(Call.MMAP), slow, fast)
    (row,) = found.rows
    assert (row["faults"], row["timed"]) == (101, 1)
    assert row["fault_time_ns"] == 10**7 + 100 * 20_000
    (note,) = found.audit["notes"]
    assert note.startswith("times are of 1 of 101 minor faults, ")
    assert note.endswith(": all took from 10.0 to 12.0 ms")


def test_a_threshold_that_the_process_tells_is_believed() -> None:
    """Set upwards nothing is seen of it; and what is freed above it does not move it."""
    told = {"call_marks": CallMark.TELLS_THRESHOLD, "threshold": 1 << 20}
    large = 40 * CHUNK
    several = [brk(PLACE, **told), call(Call.MMAP, length=large, **told)]
    found = report(*several, call(Call.MUNMAP, length=large, **told))
    assert {row["threshold_bytes"] for row in found.rows} == {(1 << 20) - 23}
    low = report(call(Call.MMAP, length=8192, call_marks=CallMark.TELLS_THRESHOLD, threshold=0))
    assert [row["threshold_bytes"] for row in low.rows] == [0]
    never = report(brk(PLACE, call_marks=CallMark.TELLS_THRESHOLD, threshold=NEVER))
    assert [row["threshold_bytes"] for row in never.rows] == [None]


def test_a_timeline_tells_what_moves_the_threshold_as_the_process_has_it() -> None:
    before = {"call_marks": CallMark.TELLS_THRESHOLD, "threshold": 128 << 10}
    freed = call(Call.MUNMAP, call_marks=CallMark.TELLS_THRESHOLD, threshold=CHUNK)
    again = [call(Call.MMAP, length=2 * CHUNK, **before | {"threshold": CHUNK})]
    again.append(call(Call.MUNMAP, length=2 * CHUNK, **before | {"threshold": CHUNK}))
    made = chunk(call(Call.MMAP, **before), freed, *again)
    told = Timeline(make_origin(tracer="malloc")).feed(made)
    assert told is not None
    whys = [row["why"] for row in told.rows]
    assert "threshold now 303,104" in whys[1]
    assert "given back at once" in whys[3]


def test_what_malloc_did_not_do_is_other() -> None:
    found = paths(
        call(Call.MMAP, call_marks=CallMark.BY_OTHERS),
        call(Call.MMAP, PLACE + (1 << 30), call_marks=CallMark.BY_LOADER),
        call(Call.MMAP, 0, call_marks=CallMark.REFUSED),
    )
    assert {path: row["calls"] for path, row in found.items()} == {"other": 3}
    assert found["other"]["requested_bytes"] == CHUNK


def test_mremap_is_one_call_of_the_kernel() -> None:
    moved = [call(Call.MOVED_FROM), call(Call.MOVED_TO, PLACE * 2, 2 * CHUNK)]
    found = paths(call(Call.MMAP), *moved)
    assert (found["mmap"]["calls"], found["mmap"]["requested_bytes"]) == (2, 2 * CHUNK)


def test_only_glibc_has_a_threshold_and_only_one_process_at_a_time() -> None:
    both = [call(Call.MMAP), call(Call.MMAP, tgid=200)]
    by_process = {row["pid"]: row["threshold_bytes"] for row in report(*both, by="process").rows}
    assert by_process == {100: 131_049, 200: None}
    assert [row["threshold_bytes"] for row in report(*both, by="path").rows] == [None]


def test_a_child_has_its_parents_memory_and_a_new_program_none() -> None:
    born = [call(Call.MMAP), fact(Fact.FORK, parent=100, tgid=300)]
    child = [fault(tgid=300), fact(Fact.EXEC, tgid=300), fault(tgid=300)]
    faults = {(row["pid"], row["path"]): row["faults"] for row in report(*born, *child).rows}
    assert faults == {(100, "mmap"): 0, (300, "mmap"): 1, (300, "other"): 1}


def test_what_is_live_outlasts_an_interval_and_what_was_counted_does_not() -> None:
    malloc = Malloc(make_origin(tracer="malloc"), ("process",))
    first, second = (
        malloc.feed(chunk(*rows)) for rows in ([call(Call.MMAP)], [fault(region=Region.HEAP)])
    )
    assert first and second
    assert [row["calls"] for row in first.rows + second.rows] == [1, 0]
    assert [row["live_bytes"] for row in first.rows + second.rows] == [CHUNK, CHUNK]


def test_a_process_that_was_there_before_has_its_heap() -> None:
    found = paths(fact(Fact.HEAP, address=0x1000, length=0x5000), brk(0x8000))
    assert (found["brk"]["requested_bytes"], found["brk"]["live_bytes"]) == (0x2000, 0x7000)


def test_requests_are_told_by_size_and_by_the_way_that_the_kernel_was_asked() -> None:
    asked = {"request": 300_000, "request_number": 5}
    several = [
        brk(0x1000, call_marks=CallMark.ASKS),
        brk(0x22000, **asked),  # malloc's first, and then it maps
        call(Call.MMAP, **asked),
        call(Call.MUNMAP, **asked),
        call(Call.MMAP, PLACE * 2, call_marks=CallMark.BY_OTHERS, **asked),
        fact(Fact.REQUESTED, size_class=19, requests=10),
        fact(Fact.REQUESTED, size_class=1, requests=3),
        fact(Fact.REQUESTED, size_class=0, requests=13),  # free()
    ]
    found = report(*several).section("sizes")
    assert found == [
        {"from_bytes": 0, "to_bytes": 1, "requests": 3, "reused": 3, "refused": 0}
        | {"brk": 0, "mmap": 0, "arena": 0},
        {
            "from_bytes": 1 << 18,
            "to_bytes": (1 << 19) - 1,
            "requests": 10,
            "reused": 9,
            "refused": 0,
        }
        | {"brk": 0, "mmap": 1, "arena": 0},
    ]
    assert report(call(Call.MMAP)).section("sizes") is None


def test_a_heap_is_told_as_it_was_last() -> None:
    before = [fact(Fact.WALKED, length=size, part=part) for part, size in enumerate(range(5))]
    after = [fact(Fact.WALKED, length=10, part=0), fact(Fact.WALKED, length=7, part=1)]
    malloc = Malloc(make_origin(tracer="malloc"))
    malloc.feed(chunk(*before, interval=None, last=False))
    found = malloc.feed(chunk(*after))
    assert found
    heaps = found.section("heaps")
    assert heaps
    assert [(row["heap_bytes"], row["resident_bytes"]) for row in heaps] == [(10, 7)]
    assert heaps[0]["used_bytes"] is None
    assert "heaps" in found.to_dict()


def test_code_has_what_it_got_and_what_was_given_back_of_that() -> None:
    texts = NAMES | {"site": {7: "f+0x1 prog", 8: "g+0x2 prog"}}
    rows = [
        call(Call.MMAP, site=7, ns=10),
        call(Call.MMAP, PLACE * 2, site=8, ns=20),
        fault(),
        call(Call.MUNMAP, ns=40),
    ]
    malloc = Malloc(make_origin(tracer="malloc"), ("site",))
    found = malloc.feed(replace(chunk(*rows), texts=texts))
    assert found
    by_site = {row["site"]: row for row in found.rows}
    f, g = by_site["f+0x1 prog"], by_site["g+0x2 prog"]
    assert (f["calls"], f["requested_bytes"], f["returned_bytes"]) == (2, CHUNK, CHUNK)
    assert (f["live_bytes"], f["faults"], f["life_ns"]) == (0, 1, 30)
    assert (g["calls"], g["live_bytes"], g["faults"], g["life_ns"]) == (1, CHUNK, 0, None)


def test_a_timeline_has_a_row_for_each_call_and_waits_for_the_end_of_an_interval() -> None:
    timeline = Timeline(make_origin(tracer="malloc"))
    assert timeline.feed(chunk(call(Call.MMAP, ns=7), interval=None, last=False)) is None
    found = timeline.feed(chunk(fault(), call(Call.MUNMAP, ns=9, tid=101)))
    assert found is not None
    assert [(row["time_ns"], row["tid"], row["change_bytes"]) for row in found.rows] == [
        (0, 100, CHUNK),
        (2, 101, -CHUNK),
    ]
    assert found.rows[1]["why"].endswith("threshold now 303,104, trim 606,208")
    assert timeline.feed(chunk(interval=make_interval(), last=False)) is None


def test_a_timeline_that_ends_does_not_say_that_nothing_was_asked_if_something_was() -> None:
    timeline = Timeline(make_origin(tracer="malloc"))
    none, told, end = (timeline.feed(chunk(*rows)) for rows in ([], [call(Call.MMAP)], []))
    assert none is not None and told is not None and end is not None
    nothing = load("malloc").nothing
    assert remarked(none, nothing).remarks == (f"{nothing} in 1.0 s",)
    assert end.rows == []
    assert remarked(told, nothing).remarks == remarked(end, nothing).remarks == ()


def test_allocators_are_known_by_their_libraries() -> None:
    libc = "/usr/lib/x86_64-linux-gnu/libc.so.6"
    assert allocator_of([libc, "/bin/cat"]) == "glibc"
    assert allocator_of([libc + " (deleted)"]) == "glibc"
    assert allocator_of([libc, "/usr/lib/libjemalloc.so.2"]) == "jemalloc"
    assert allocator_of(["/opt/libtcmalloc_minimal.so.4", libc]) == "tcmalloc"
    assert allocator_of(["/lib/ld-musl-x86_64.so.1"]) == "musl"
    assert allocator_of(["/usr/bin/go", "?"]) == "?"
