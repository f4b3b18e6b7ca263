"""Why a fault was taken, by what is known of it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from memtap.bpf.sideband import Mapped
from memtap.tracers.code.mappings import TRAITS, Place, Region
from memtap.tracers.faults.match import FAULT, Found
from memtap.tracers.faults.probes import PLAN, Kind, Mark
from memtap.tracers.faults.rows import Cause, rows_of
from tests.bpf.ctext import layout, whole

PROGRAM, MALLOC = whole("faults"), whole("malloc")
READ, WRITE, PRESENT = Mark(0), Mark.WRITE, Mark.PRESENT


def place(region: Region, shared: bool = False, path: str = "//anon") -> Place:
    return Place(Mapped(0, 1, 0, 0, 0, 0, 0, 3, 1 if shared else 2, path), region, path)


def row(
    where: Place, kind: Kind, marks: Mark, found: Found = Found.RAISED, swaps: bool = True
) -> np.void:
    fault = np.zeros(1, FAULT)
    fault["count"] = 1
    fault["kind"], fault["marks"], fault["found"] = kind, marks, found
    traits = np.array([(where.region, where.of_file, where.shared)], TRAITS)
    one: np.void = rows_of(fault, traits, swaps)[0]
    return one


ANON, FILE = place(Region.ANON), place(Region.FILE, path="/f")
SHARED_FILE = place(Region.FILE, True, "/f")
DATA, BSS = place(Region.DATA, path="/f"), place(Region.DATA)
SHM = place(Region.SHM, True, "/memfd:x")
MINOR, MAJOR = Kind.MINOR, Kind.MAJOR


@pytest.mark.parametrize(
    ("where", "kind", "marks", "found", "cause"),
    [
        (ANON, MINOR, WRITE, 0, Cause.FIRST_TOUCH),
        (place(Region.HEAP), MINOR, WRITE, 0, Cause.FIRST_TOUCH),
        (BSS, MINOR, WRITE, 0, Cause.FIRST_TOUCH),
        (ANON, MINOR, READ, 0, Cause.ZERO_PAGE),
        (ANON, MINOR, WRITE | PRESENT, 0, Cause.COW),
        (ANON, MINOR, WRITE, Found.HUGE, Cause.THP),
        (ANON, MAJOR, READ, Found.SWAPPED, Cause.SWAP_IN),
        (ANON, MINOR, WRITE, Found.SWAPPED, Cause.SWAP_IN),
        (ANON, MAJOR, READ, 0, Cause.SWAP_IN),
        (ANON, MINOR, READ, Found.USERFAULT, Cause.USERFAULT),
        (SHARED_FILE, MAJOR, WRITE, Found.USERFAULT, Cause.USERFAULT),
        (ANON, MINOR, READ, Found.NUMA, Cause.NUMA),
        (FILE, MINOR, READ, 0, Cause.FILE_MAP),
        (FILE, MAJOR, READ, 0, Cause.FILE_READ),
        (FILE, MINOR, READ, Found.WAITED, Cause.FILE_WAIT),
        (DATA, MINOR, WRITE, Found.WAITED, Cause.FILE_WAIT),
        (FILE, MAJOR, READ, Found.WAITED, Cause.FILE_READ),
        (ANON, MINOR, WRITE, Found.WAITED, Cause.FIRST_TOUCH),
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
def test_the_cause(where: Place, kind: Kind, marks: Mark, found: int, cause: Cause) -> None:
    assert Cause(row(where, kind, marks, Found.RAISED | found)["cause"]) is cause


@pytest.mark.parametrize(
    ("where", "cause"), [(ANON, Cause.FIRST_TOUCH), (SHM, Cause.SHM), (FILE, Cause.FILE_READ)]
)
def test_where_nothing_is_swapped_a_major_fault_waited_for_something_else(
    where: Place, cause: Cause
) -> None:
    shared = row(where, MAJOR, WRITE, swaps=False)
    assert Cause(shared["cause"]) is cause


def test_where_exceptions_are_not_seen_a_touch_is_a_first_touch() -> None:
    assert Cause(row(ANON, MINOR, READ, Found(0))["cause"]) is Cause.FIRST_TOUCH


def test_memory_between_stack_pointer_and_top_is_a_thread_stack_if_it_is_nothing_else() -> None:
    assert Region(row(ANON, MINOR, WRITE | Mark.STACK)["region"]) is Region.THREAD_STACK
    assert Region(row(place(Region.STACK), MINOR, WRITE | Mark.STACK)["region"]) is Region.STACK


def test_a_bad_access_to_nothing_is_unmapped_and_to_something_is_that() -> None:
    assert Region(row(place(Region.UNKNOWN), Kind.BAD, READ)["region"]) is Region.UNMAPPED
    assert Region(row(ANON, Kind.BAD, READ)["region"]) is Region.ANON


def test_the_filler_between_members_of_an_event_is_none() -> None:
    for program, size in ((PROGRAM, 40), (MALLOC, 104)):
        event = layout(program, "event")
        assert sum(size for _, _, size in event["members"]) == event["size"] == size


def test_what_is_attached_is_in_the_program() -> None:
    for variant in PLAN.variants:
        for probe in variant.probes:
            assert re.search(rf"^int {probe.function}\(", PROGRAM, re.MULTILINE)
