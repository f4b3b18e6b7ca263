"""Calls of this very process, told by hand, become rows that say who made them."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from memtap.bpf.session import Drained
from memtap.bpf.sideband import Began, Ended, Forked, SidebandEvent
from memtap.bpf.stream import Events
from memtap.tracers.faults.probes import Kind
from memtap.tracers.malloc.enrich import CALLERS, MallocEnricher
from memtap.tracers.malloc.libraries import is_loader
from memtap.tracers.malloc.probes import Call, CallMark
from memtap.tracers.malloc.readings import Part
from memtap.tracers.malloc.rows import BEYOND, Fact
from tests.tracers.faults.test_match import EVENT
from tests.tracers.sources import Given, make_drained

SELF, GONE, MAPS = os.getpid(), 2**22 - 1, Path("/proc/self/maps")
CALL = np.dtype(
    [
        *((name, EVENT[name]) for name in EVENT.names or ()),
        *((name, "u8") for name in ("length", "threshold", *CALLERS)),
        *((name, "u4") for name in ("prot", "flags")),
        *((name, "u2") for name in ("advice", "call_marks")),
    ]
)


def address_of(function: str) -> int:
    """In the C library of this process."""
    found = ctypes.cast(getattr(ctypes.CDLL(None), function), ctypes.c_void_p).value
    assert found
    return found


LIBC, PYTHON = address_of("mmap"), address_of("Py_Initialize")


def loader() -> int:
    """An address of the dynamic loader's code."""
    for line in MAPS.read_text().splitlines():
        span, mode, *_, path = line.split()
        if "x" in mode and is_loader(path):
            return int(span.split("-")[0], 16)
    raise AssertionError("this process has no dynamic loader")


def told(kind: int, ns: int = 10, **other: int) -> Events:
    event = np.zeros(1, CALL)
    usual = {"kind": kind, "ns": ns, "tgid": SELF, "tid": SELF, "count": 1}
    for name, value in (usual | other).items():
        event[name] = value
    return event


def drained(*events: Events, sideband: tuple[SidebandEvent, ...] = ()) -> Drained:
    made = make_drained(np.concatenate([np.zeros(0, CALL), *events]), 1000)
    made.sideband.extend(sideband)
    return made


def enricher() -> MallocEnricher:
    made = MallocEnricher(Given("exceptions"), walks_heaps=False)
    made.follow(SELF)
    return made


def heap() -> tuple[int, int]:
    """Where the heap of this process begins, and where it ends by now."""
    lines = MAPS.read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if line.endswith("[heap]")]
    return int(spans[0][0], 16), int(spans[-1][1], 16)


def test_a_heap_that_was_there_before_is_told_once() -> None:
    start, end = heap()
    made = enricher()
    first, second = (made.enrich(drained(), last=False).rows for _ in range(2))
    (row,) = first
    assert (row["kind"], row["tgid"], row["address"]) == (Fact.HEAP, SELF, start)
    assert end - start <= row["length"] <= heap()[1] - start
    assert len(second) == 0


def row_of(event: Events) -> np.void:
    rows = enricher().enrich(drained(event), last=True).rows
    (row,) = rows[rows["kind"] != Fact.HEAP]
    return row  # type: ignore[no-any-return]


def test_a_call_is_told_as_it_came() -> None:
    values = {"address": 0x7F0000000000, "length": 4096, "prot": 3, "flags": 0x22, "threshold": 9}
    row = row_of(told(Call.MMAP, ip=LIBC, **values))
    assert {name: int(row[name]) for name in values} == values
    assert (row["kind"], row["ns"], row["call_marks"]) == (Call.MMAP, 10, 0)


@pytest.mark.parametrize(
    ("address", "found"), [(BEYOND - 1, BEYOND - 1), (BEYOND, 0), (2**64 - 12, 0)]
)
def test_an_address_that_no_process_has_is_none(address: int, found: int) -> None:
    assert row_of(told(Call.MMAP, ip=LIBC, address=address))["address"] == found


@pytest.mark.parametrize(
    ("code", "callers", "marks"),
    [
        (LIBC, (), 0),
        (LIBC, (LIBC,), 0),
        (LIBC, (PYTHON,), CallMark.BY_OTHERS),
        (LIBC, (0, PYTHON), CallMark.BY_OTHERS),  # the first is not in code
        (LIBC, (LIBC, PYTHON), 0),
        (loader(), (PYTHON,), CallMark.BY_LOADER),
    ],
)
def test_who_made_a_call_is_told(code: int, callers: tuple[int, ...], marks: int) -> None:
    addresses = dict(zip(CALLERS, callers, strict=False))
    row = row_of(told(Call.MMAP, ip=code, call_marks=CallMark.IS_32_BIT, **addresses))
    assert row["call_marks"] == marks | CallMark.IS_32_BIT


def test_the_allocator_of_a_process_is_told_when_it_changes() -> None:
    made = enricher()
    call = told(Call.MMAP, ip=LIBC)
    first, second = (made.enrich(drained(call), last=False).texts["allocator"] for _ in range(2))
    assert (set(first), second) == ({SELF}, {})
    assert first[SELF] not in ("", "?")
    assert made.enrich(drained(call, sideband=(Began(1, SELF),)), last=True).texts["allocator"]


def test_lives_of_processes_that_are_known_are_rows() -> None:
    child, stranger = 1 << 30, 1 << 29
    sideband = (
        Forked(1, child, SELF),
        Forked(2, stranger + 1, stranger),
        Began(3, child),
        Ended(4, child),
        Began(5, child),
    )
    rows = enricher().enrich(drained(sideband=sideband), last=True).rows
    lives = rows[rows["kind"] != Fact.HEAP][["ns", "tgid", "kind", "parent"]].tolist()
    assert lives == [
        (1, child, Fact.FORK, SELF),
        (3, child, Fact.EXEC, 0),
        (4, child, Fact.EXIT, 0),
    ]


def test_faults_are_told_beside_calls_in_order_of_time() -> None:
    memory = mmap.mmap(-1, 1 << 16, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    events = told(Call.MMAP, 10, ip=LIBC), told(Kind.MINOR, 20, address=address)
    rows = enricher().enrich(drained(*events, told(Call.MUNMAP, 30, ip=LIBC)), last=True).rows
    kinds = rows["kind"][rows["kind"] != Fact.HEAP].tolist()
    assert kinds == [Call.MMAP, Kind.MINOR, Call.MUNMAP]


def test_an_mremap_is_one_call_of_two_events() -> None:
    kinds = (Call.MOVED_FROM, Call.MOVED_TO, Call.BRK, Kind.RAISED)
    assert enricher().units_of(np.concatenate([told(kind) for kind in kinds])) == 3


class Following(Given):
    """A session that follows these processes."""

    def followed(self) -> list[int]:
        return [SELF, GONE]


def test_heaps_of_processes_that_are_followed_are_looked_at() -> None:
    made = MallocEnricher(Following("exceptions"), walks_heaps=True)
    taken = made.enrich(drained(), last=True)
    walked = taken.rows[taken.rows["kind"] == Fact.WALKED]
    assert set(walked["tgid"].tolist()) == {SELF}
    assert set(walked["ns"].tolist()) == {1000}
    start, end = heap()
    sizes = walked[walked["part"] == Part.SIZE]["length"].tolist()
    assert end - start in sizes  # of the main arena
    assert f"process {GONE}: it has ended, or does not let itself be read" in taken.notes
