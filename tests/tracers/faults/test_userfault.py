"""Which faults a handler answers: by how their threads slept, and by what userfaultfd watches."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable

import numpy as np
import pytest

from memtap.bpf.stream import Events
from memtap.tracers.code.intervals import NOWHERE
from memtap.tracers.code.mappings import TRAITS
from memtap.tracers.faults.match import FAULT, Found
from memtap.tracers.faults.probes import Mark
from memtap.tracers.faults.userfault import Watched, handed_over, leave_files_out, tell_between
from tests.tracers.sources import Given

MISSING, WP = 0x200, 0x1000  # VM_UFFD_MISSING, VM_UFFD_WP
SELF = os.getpid()


def test_who_sleeps_in_a_fault_on_a_file_waits_for_its_file_system() -> None:
    faults = np.zeros(3, FAULT)
    faults["place"] = [1, 2, 2]
    faults["found"] = [Found.USERFAULT | Found.RAISED, Found.USERFAULT | Found.RAISED, Found.TIMED]
    traits = np.array([(0, False, False), (4, False, False), (5, True, False)], TRAITS)
    leave_files_out(faults, traits)
    assert faults["found"].tolist() == [
        Found.USERFAULT | Found.RAISED,
        Found.RAISED,
        Found.TIMED,
    ]


def faults_at(*addresses: int, tgid: int = SELF, found: int = Found.SWITCHED) -> Events:
    faults = np.zeros(len(addresses), FAULT)
    faults["tgid"], faults["address"], faults["found"] = tgid, addresses, found
    return faults


def watching(*ranges: tuple[int, int, int], tgid: int = SELF) -> Given:
    return Given(written={tgid: np.array(ranges, np.uint64).tobytes()})


def handled(watched: Watched, faults: Events, now: float = 10.0, ended: Iterable[int] = ()) -> str:
    """For each fault 1 if a handler answers it."""
    watched.tell(faults, now, {*ended})
    return "".join(str(int(found & Found.USERFAULT > 0)) for found in faults["found"])


def test_faults_in_watched_memory_are_the_handlers() -> None:
    session = watching((0x1000, 0x3000, MISSING), (0x8000, 0x9000, MISSING))
    faults = faults_at(0xFFF, 0x1000, 0x2FFF, 0x3000, 0x8000)
    assert handled(Watched(session), faults) == "01101"


def test_a_fault_in_which_a_thread_never_slept_is_the_kernels() -> None:
    session = watching((0x1000, 0x3000, MISSING))
    assert handled(Watched(session), faults_at(0x1000, found=Found.RAISED)) == "0"


def test_a_handler_that_answers_before_the_thread_sleeps_is_known_by_its_neighbours() -> None:
    asleep, quick, present = Found.USERFAULT, Found.RAISED, Mark.PRESENT
    shapes = [(1, 1, quick, 0), (2, 1, asleep, 0), (3, 1, quick, 0), (4, 1, quick, present)]
    shapes += [(5, 1, asleep, 0), (6, 1, quick, 0), (3, 2, quick, 0), (3, NOWHERE, quick, 0)]
    faults = np.concatenate([faults_at(page << 12, found=found) for page, _, found, _ in shapes])
    faults["place"], faults["marks"] = [place for _, place, _, _ in shapes], [m for *_, m in shapes]
    tell_between(faults)
    told = faults["found"] & Found.USERFAULT > 0
    assert told.tolist() == [False, True, True, False, True, False, False, False]


def test_memory_of_other_processes_is_not_meant() -> None:
    session = watching((0x1000, 0x3000, MISSING))
    faults = np.concatenate([faults_at(0x1000), faults_at(0x1000, tgid=os.getppid())])
    assert handled(Watched(session), faults) == "10"


@pytest.mark.parametrize(
    ("flags", "marks", "is_handed_over"),
    [
        (MISSING, 0, True),
        (MISSING, Mark.WRITE, True),
        (MISSING, Mark.PRESENT | Mark.WRITE, False),
        (WP, 0, False),
        (WP, Mark.PRESENT, False),
        (WP, Mark.PRESENT | Mark.WRITE, True),
        (MISSING | WP, 0, True),
        (0, 0, True),  # UFFD_MINOR
        (0, Mark.PRESENT | Mark.WRITE, False),
    ],
)
def test_what_is_watched_for_decides(flags: int, marks: int, is_handed_over: bool) -> None:
    assert handed_over(np.array([marks], np.uint8), flags).tolist() == [is_handed_over]


def test_a_process_is_asked_again_after_twice_as_long() -> None:
    session = watching()
    watched = Watched(session)
    times = [10, 10.4, 10.5, 11.4, 11.5]
    asked = []
    for now in times:
        watched.tell(faults_at(0x1000, found=0), now, set())
        asked.append(len(session.asked))
    assert asked == [1, 1, 2, 2, 3]


def test_a_sleeper_is_asked_at_once() -> None:
    session = watching()
    watched = Watched(session)
    assert handled(watched, faults_at(0x1000, found=0), 10) == "0"
    session.written[SELF] = np.array([0x1000, 0x2000, MISSING], np.uint64).tobytes()
    assert handled(watched, faults_at(0x1000), 10.1) == "1"


def test_of_a_process_that_is_gone_only_what_was_known_is_told() -> None:
    gone = subprocess.Popen(["true"])
    session = watching((0x1000, 0x3000, MISSING), tgid=gone.pid)
    watched = Watched(session)
    before = handled(watched, faults_at(0x1000, tgid=gone.pid))  # a zombie, at the latest
    gone.wait()
    session.written.clear()
    assert (before, handled(watched, faults_at(0x1000, tgid=gone.pid), 20, {gone.pid})) == (
        "1",
        "1",
    )
    assert handled(watched, faults_at(0x1000, tgid=gone.pid), 30, {gone.pid}) == "0"
