"""Where the stacks of threads are."""

from __future__ import annotations

import numpy as np
import pytest

from memtap.bpf.stream import Events
from memtap.tracers.faults.match import FAULT
from memtap.tracers.faults.probes import Mark
from memtap.tracers.faults.threadstacks import ThreadStacks

TGID, TID = 10, 11
LOW, TOP = 0x100000, 0x900000


def thread(marks: int) -> Events:
    event = np.zeros(1, [("tgid", "u4"), ("tid", "u4"), ("address", "u8"), ("marks", "u1")])
    event[0] = TGID, TID, TOP, marks
    return event


def on_stack(stacks: ThreadStacks, address: int, tid: int = TID) -> bool:
    """Whether a fault near the stack pointer is in the stack."""
    fault = np.zeros(1, FAULT)
    fault["tgid"], fault["tid"], fault["address"], fault["marks"] = TGID, tid, address, Mark.STACK
    stacks.check(fault)
    return bool(fault["marks"][0] & Mark.STACK)


@pytest.mark.parametrize(
    ("address", "inside"), [(LOW - 1, False), (LOW, True), (TOP - 1, True), (TOP, False)]
)
def test_a_stack_is_from_where_it_was_mapped_to_where_its_thread_began(
    address: int, inside: bool
) -> None:
    stacks = ThreadStacks()
    stacks.note(thread(Mark.JOINABLE), lambda *_: LOW)
    assert on_stack(stacks, address) is inside


def test_a_thread_that_nobody_joins_has_a_small_one() -> None:
    stacks = ThreadStacks()
    stacks.note(thread(0), lambda *_: LOW)
    assert on_stack(stacks, TOP - (16 << 10))
    assert not on_stack(stacks, TOP - (16 << 10) - 1)


def test_of_threads_that_were_there_before_the_stack_pointer_tells_alone() -> None:
    assert on_stack(ThreadStacks(), LOW)
    assert not on_stack(ThreadStacks(), LOW, tid=TGID)  # its stack is that of the process
