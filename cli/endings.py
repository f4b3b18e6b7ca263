"""What ends a run from outside: Ctrl-C, a terminal that was closed, and those who say so.

Before a run has begun, and where there is none, such a signal ends the process with status 0 and no
word. While one runs it is noted, so that a last report can be made; but that may not take long,
unless it was Ctrl-C: who sends another signal mostly kills soon after.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

# What a last report may take, of our own time on CPUs: others may keep us from having any. Where
# these are slow it may take a part of what the start took. What could not be broken off then is
# broken off a little later.
_WORK_S, _OF_START, _AGAIN_S = 0.6, 0.5, 0.05

# The niceness with which that is done: on a busy machine it would else take several seconds, and
# who sent the signal waits.
_IN_FRONT = -20

# And the policy, which children do not inherit.
_REAL_TIME = os.SCHED_RR | os.SCHED_RESET_ON_FORK

_noted: list[int] = []
_noted_s = [math.inf]  # when the last of them came
_undisturbed = [0]
_work_s = [_WORK_S]


class OutOfTime(BaseException):
    """A last report would have taken too long: it is to be broken off."""


def end_at_once() -> None:
    """From now on, a signal ends the process; the kernel gives back what it holds.

    Nothing is unwound: libraries are just being imported, threads compile and load, and each of
    them could swallow an exception or wait for another.
    """
    _handle_by(_vanish)


def end_in_order() -> None:
    """From now on, a signal ends the process by SystemExit, so that open files get their end."""
    _handle_by(_leave)


def note_endings() -> list[int]:
    """From now on, signals are only noted; gives the list to which their numbers are added.

    Who says it a second time by Ctrl-backslash is obeyed by the kernel.
    """
    _handle_by(_note)
    _work_s[0] = max(_WORK_S, _OF_START * time.process_time())
    signal.signal(signal.SIGPROF, _break_off)
    sys.unraisablehook = _report_unraisable
    return _noted


@contextmanager
def undisturbed() -> Iterator[None]:
    """What is begun in here is also ended: OutOfTime is raised afterwards."""
    _undisturbed[0] += 1
    try:
        yield
    finally:
        _undisturbed[0] -= 1


def end_undisturbed() -> None:
    """From now on OutOfTime is not raised any more."""
    signal.setitimer(signal.ITIMER_PROF, 0)


def is_told_to_end() -> bool:
    """Whether a signal was noted."""
    return bool(_noted)


def told_s() -> float:
    """When the last of them was noted (CLOCK_MONOTONIC); never, if none was."""
    return _noted_s[0]


def _handle_by(handler: signal._HANDLER) -> None:
    _noted.clear()
    for number in ENDINGS:
        # nohup(1) has us ignore that a terminal was closed.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _vanish(_number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(0)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # the next one is the kernel's
    raise SystemExit(0)


def _note(number: int, _frame: FrameType | None) -> None:
    _noted.append(number)
    _noted_s[0] = time.monotonic()
    if number != signal.SIGINT:
        signal.setitimer(signal.ITIMER_PROF, _work_s[0])
        _go_in_front()
    if number == signal.SIGQUIT:
        signal.signal(number, signal.SIG_DFL)


def _go_in_front() -> None:
    """All threads: we wait for those that compute, and whichever is the last gives memory back.

    Niceness counts among the processes of one terminal alone where there are autogroups (sched(7)),
    so others could still keep us waiting for seconds; a real-time policy counts among all. It is
    the lowest, it ends with us, and how long we may work is limited; the kernel also leaves 5 % of
    the time to others.
    """
    with suppress(FileNotFoundError):  # /proc was unmounted
        for thread in map(int, os.listdir("/proc/self/task")):
            with suppress(OSError):  # only root may; or it is gone
                os.setpriority(os.PRIO_PROCESS, thread, _IN_FRONT)
                os.sched_setscheduler(thread, _REAL_TIME, os.sched_param(1))


def _break_off(_number: int, _frame: FrameType | None) -> None:
    # Only now, so that who catches what is raised has that long to see to it that no other comes.
    signal.setitimer(signal.ITIMER_PROF, _AGAIN_S)
    if not _undisturbed[0]:
        raise OutOfTime


def _report_unraisable(raised: Any) -> None:
    """Where C has called Python nothing can be broken off; it will be soon after."""
    if raised.exc_type is not OutOfTime:
        sys.__unraisablehook__(raised)
