"""Reads that may never end: how long they are waited for, and how many."""

from __future__ import annotations

import os
import threading
import time

import pytest

from memtap.tracers.host.patience import StuckError, patiently


def test_what_is_read_is_given_and_what_goes_wrong_is_raised() -> None:
    assert patiently(os.getpid(), lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        patiently(os.getpid(), lambda: 1 // 0)
    assert patiently(os.getpid(), lambda: 8) == 8


def test_many_that_are_stuck_are_not_waited_for_one_after_the_other() -> None:
    """One is waited for half a second; one after the other, 21 would take ten."""
    release = threading.Event()
    began = time.monotonic()
    try:
        for _ in range(21):
            with pytest.raises(StuckError):
                patiently(os.getpid(), release.wait)
        assert time.monotonic() - began < 5
    finally:
        release.set()
    while not reads_again():
        assert time.monotonic() - began < 15
        time.sleep(0.01)


def reads_again() -> bool:
    """Those that were stuck end in their own time."""
    try:
        return patiently(os.getpid(), lambda: True)
    except StuckError:
        return False


def test_those_that_come_back_are_read_again() -> None:
    release, ended = threading.Event(), threading.Event()

    def read() -> None:
        release.wait()
        ended.set()

    with pytest.raises(StuckError):
        patiently(os.getpid(), read)
    release.set()
    assert ended.wait(10)
    assert patiently(os.getpid(), lambda: 9) == 9


def test_one_that_is_at_work_is_waited_for() -> None:
    def work() -> int:
        until = time.thread_time() + 1
        while time.thread_time() < until:
            pass
        return 5

    assert patiently(os.getpid(), work) == 5
