"""Why a fault was taken, by what is known of it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from memtap.bpf.sideband import Mapped
from memtap.tracers.faultplan import PLAN, Error, Kind, Mark
from memtap.tracers.faultrows import ROW, Cause, rows_of
from memtap.tracers.mappings import Place, Region
from tests.bpf.ctext import enumerators, layout, source

PROGRAM = source("programs/faults.bpf.c")
READ, WRITE, PRESENT = Error(0), Error.WRITE, Error.PRESENT

EVENT = np.dtype(
    [
        ("ns", "u8"),
        ("address", "u8"),
        ("tgid", "u4"),
        ("tid", "u4"),
        ("time", "u4"),
        ("kind", "u1"),
        ("marks", "u1"),
        ("error", "u2"),
    ]
)


def place(region: Region, shared: bool = False, path: str = "//anon") -> Place:
    return Place(Mapped(0, 1, 0, 0, 0, 0, 0, 3, 1 if shared else 2, path), region, path)


def row(where: Place, kind: Kind, error: Error = READ, marks: Mark = Mark.TIMED) -> np.void:
    event = np.zeros(1, EVENT)
    event["kind"], event["error"], event["marks"], event["time"] = kind, error, marks, 5
    found: np.void = rows_of(event, np.zeros(1, np.uint32), [where])[0]
    return found


ANON, FILE = place(Region.ANON), place(Region.FILE, path="/f")
SHARED_FILE = place(Region.FILE, True, "/f")
DATA, BSS = place(Region.DATA, path="/f"), place(Region.DATA)
SHM = place(Region.SHM, True, "/memfd:x")
MINOR, MAJOR = Kind.MINOR, Kind.MAJOR


@pytest.mark.parametrize(
    ("where", "kind", "error", "marks", "cause"),
    [
        (ANON, MINOR, WRITE, 0, Cause.FIRST_TOUCH),
        (place(Region.HEAP), MINOR, WRITE, 0, Cause.FIRST_TOUCH),
        (BSS, MINOR, WRITE, 0, Cause.FIRST_TOUCH),
        (ANON, MINOR, READ, 0, Cause.ZERO_PAGE),
        (ANON, MINOR, WRITE | PRESENT, 0, Cause.COW),
        (ANON, MINOR, WRITE, Mark.HUGE, Cause.THP),
        (ANON, MAJOR, READ, Mark.SWAPPED, Cause.SWAP_IN),
        (ANON, MINOR, WRITE, Mark.SWAPPED, Cause.SWAP_IN),
        (ANON, MAJOR, READ, 0, Cause.USERFAULT),
        (ANON, MINOR, READ, Mark.NUMA, Cause.NUMA),
        (FILE, MINOR, READ, 0, Cause.FILE_MAP),
        (FILE, MAJOR, READ, 0, Cause.FILE_READ),
        (DATA, MINOR, WRITE, 0, Cause.COW),
        (DATA, MINOR, WRITE | PRESENT, 0, Cause.COW),
        (DATA, MAJOR, WRITE, 0, Cause.FILE_READ),
        (SHARED_FILE, MINOR, WRITE | PRESENT, 0, Cause.FILE_MAP),
        (SHM, MINOR, WRITE, 0, Cause.SHM),
        (SHM, MINOR, READ, 0, Cause.SHM),
        (SHM, MAJOR, READ, 0, Cause.SWAP_IN),
        (ANON, Kind.BAD, READ, 0, Cause.BAD_ACCESS),
        (place(Region.UNKNOWN), MINOR, WRITE, 0, Cause.UNKNOWN),
    ],
)
def test_the_cause(where: Place, kind: Kind, error: Error, marks: Mark, cause: Cause) -> None:
    assert Cause(row(where, kind, error, Mark.TIMED | marks)["cause"]) is cause


def test_where_exceptions_are_not_seen_a_touch_is_a_first_touch() -> None:
    assert Cause(row(ANON, MINOR, READ, Mark(0))["cause"]) is Cause.FIRST_TOUCH


def test_memory_between_stack_pointer_and_top_is_a_thread_stack_if_it_is_nothing_else() -> None:
    assert Region(row(ANON, MINOR, WRITE, Mark.STACK)["region"]) is Region.THREAD_STACK
    assert Region(row(place(Region.STACK), MINOR, WRITE, Mark.STACK)["region"]) is Region.STACK


def test_a_bad_access_to_nothing_is_unmapped_and_to_something_is_that() -> None:
    assert Region(row(place(Region.UNKNOWN), Kind.BAD)["region"]) is Region.UNMAPPED
    assert Region(row(ANON, Kind.BAD)["region"]) is Region.ANON


def test_long_times_come_in_longer_units() -> None:
    assert row(ANON, MINOR, READ, Mark.TIMED)["time_ns"] == 5
    assert row(ANON, MINOR, READ, Mark.TIMED | Mark.SLOW)["time_ns"] == 5 * 1024


def test_words_are_those_of_the_program() -> None:
    assert enumerators(PROGRAM, "MINOR") == {kind.name: kind for kind in Kind}
    assert enumerators(PROGRAM, "TIMED") == {mark.name: mark for mark in Mark}


def test_the_filler_between_members_of_an_event_is_none() -> None:
    event = layout(PROGRAM, "event")
    assert sum(size for _, _, size in event["members"]) == event["size"] == 40
    assert {"ns", "address", "tgid", "tid", "kind", "marks"} <= set(ROW.names or ())


def test_what_is_attached_is_in_the_program() -> None:
    for way in PLAN.ways:
        for probe in way.probes:
            assert re.search(rf"^int {probe.function}\(", PROGRAM, re.MULTILINE)
