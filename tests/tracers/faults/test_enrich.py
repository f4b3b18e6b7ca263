"""Faults of this very process, told by hand, get the place that they have in it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memtap.bpf.session import Drained
from memtap.bpf.sideband import Began
from memtap.bpf.stream import Events
from memtap.tracers.code.mappings import Region
from memtap.tracers.faults.enrich import FaultEnricher, faults_of
from memtap.tracers.faults.probes import COUNTS, Kind, Mark
from memtap.tracers.faults.rows import Cause
from tests.tracers.faults.test_match import EVENT
from tests.tracers.sources import Given, make_drained

SELF = os.getpid()
BYTES = 1 << 16
PRIVATE = mmap.MAP_PRIVATE
SPILLED = np.dtype([("tgid", "u4"), ("kind", "u1"), ("events", "u8")])


@pytest.fixture
def anonymous() -> Iterator[int]:
    """Amid memory that nobody may touch: right above a library it would be its bss."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    flags = PRIVATE | mmap.MAP_ANONYMOUS
    start = libc.mmap(None, 3 * BYTES, 0, flags, -1, 0)
    middle = ctypes.c_void_p(start + BYTES)
    assert libc.mprotect(middle, BYTES, mmap.PROT_READ | mmap.PROT_WRITE) == 0
    yield start + BYTES
    assert libc.munmap(ctypes.c_void_p(start), 3 * BYTES) == 0


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "mapped").write_bytes(bytes(BYTES))
    with (tmp_path / "mapped").open("r+b") as opened:
        yield from mapped(mmap.mmap(opened.fileno(), BYTES, mmap.MAP_SHARED))


def mapped(memory: mmap.mmap) -> Iterator[int]:
    held = ctypes.c_char.from_buffer(memory)
    yield ctypes.addressof(held)
    del held
    memory.close()


def told(kind: Kind, ns: int, address: int = 0, number: int = 7, **other: int) -> Events:
    event = np.zeros(1, EVENT)
    usual = {"tgid": SELF, "tid": SELF, "count": 1, "marks": Mark.WRITE}
    for name, value in (
        usual | {"kind": kind, "ns": ns, "address": address, "number": number} | other
    ).items():
        event[name] = value
    return event


def drained(*events: Events, until_ns: int = 1000) -> Drained:
    return make_drained(np.concatenate([np.zeros(0, EVENT), *events]), until_ns)


def enricher(way: str = "exceptions") -> FaultEnricher:
    made = FaultEnricher(Given(way), names_code=False)
    made.follow(SELF)
    return made


def test_a_fault_in_anonymous_memory_is_its_first_touch(anonymous: int) -> None:
    fault = told(Kind.RAISED, 10, anonymous), told(Kind.MINOR, 60, anonymous)
    (row,) = enricher().enrich(drained(*fault), last=True).rows
    assert (row["region"], row["cause"]) == (Region.ANON, Cause.FIRST_TOUCH)
    assert (row["kind"], row["address"], row["time_ns"]) == (Kind.MINOR, anonymous, 50)


def test_a_fault_on_a_file_has_its_path_once_and_its_offset(file: int, tmp_path: Path) -> None:
    made = enricher()
    both = [
        made.enrich(drained(told(Kind.MAJOR, ns, file + 0x3000)), last=False) for ns in (10, 20)
    ]
    (row,), (again,) = (taken.rows for taken in both)
    assert (row["region"], row["cause"], row["offset"]) == (
        Region.FILE,
        Cause.FILE_READ,
        0x3000,
    )
    assert both[0].texts["place"] == {row["place"]: str(tmp_path / "mapped")}
    assert (again["place"], both[1].texts["place"]) == (row["place"], {})


def test_an_exception_waits_for_what_becomes_of_it(anonymous: int) -> None:
    made = enricher()
    open_ends = drained(told(Kind.RAISED, 10, anonymous), told(Kind.MINOR, 2000, anonymous))
    first = made.enrich(open_ends, last=False)
    second = made.enrich(drained(until_ns=3000), last=False)
    assert (len(first.rows), first.unsettled) == (0, 1)
    assert (second.rows["time_ns"].tolist(), second.unsettled) == ([1990], 0)


@pytest.mark.parametrize(
    ("way", "spilled", "counts"),
    [
        ("exceptions", Kind.RAISED, [5]),
        (COUNTS, Kind.RAISED, [1]),
        (COUNTS, Kind.MINOR, [5, 1]),
    ],
)
def test_what_no_ring_had_room_for_is_counted_once(
    anonymous: int, way: str, spilled: Kind, counts: list[int]
) -> None:
    sums = np.array([(SELF, spilled, 5)], SPILLED)
    alone = replace(drained(told(Kind.MINOR, 10, anonymous)), spilled=sums)
    rows = enricher(way).enrich(alone, last=True).rows
    assert sorted(rows["count"].tolist(), reverse=True) == counts


def test_a_new_program_is_a_row_without_faults() -> None:
    began = replace(drained(), sideband=[Began(10, SELF)])
    (row,) = enricher().enrich(began, last=True).rows
    assert (row["kind"], row["tgid"], row["count"]) == (Kind.MOVED, SELF, 0)


def test_units_are_faults_as_each_way_counts_them() -> None:
    events = np.concatenate(
        [told(Kind.RAISED, 1, count=3), told(Kind.MINOR, 2, count=4), told(Kind.MAJOR, 3)]
    )
    assert (enricher().units_of(events), enricher(COUNTS).units_of(events)) == (3, 5)


def test_a_thread_tells_how_often_it_faulted() -> None:
    before = faults_of(SELF, SELF)
    memory = mmap.mmap(-1, BYTES, PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(bytes(range(256)) * (BYTES // 256))
    after = faults_of(SELF, SELF)
    assert before is not None
    assert after is not None
    assert before < after
    assert faults_of(SELF, 1) is None
