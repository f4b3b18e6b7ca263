"""What ends a run from outside: Ctrl-C, a terminal that is closed, and other signals to end.

Before a run has begun, and where there is none, such a signal ends the process with status 0 and no
message. During a run it is noted, so that a last report can be made. Unless the signal is Ctrl-C,
that report may not take long: the sender of another signal mostly kills the process soon after.
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

# What a last report may take, in our own CPU time, as other processes may keep us off the CPUs. On
# slow CPUs it may take a part of what the start took. What cannot be broken off then is broken off
# a little later.
_WORK_S, _OF_START, _AGAIN_S = 0.6, 0.5, 0.05

# The niceness with which a last report is made: on a busy machine it could take several seconds
# otherwise, while the sender of the signal waits.
_IN_FRONT = -20

# And the policy, which children do not inherit.
_REAL_TIME = os.SCHED_RR | os.SCHED_RESET_ON_FORK

_noted: list[int] = []
_noted_s = [math.inf]  # when the last signal came
_undisturbed = [0]
_work_s = [_WORK_S]


class OutOfTime(BaseException):
    """Breaks off a last report that takes too long."""


def end_at_once() -> None:
    """From now on, a signal ends the process; the kernel releases what the process holds.

    Nothing is unwound: libraries are being imported, threads compile and load, and each of them
    could swallow an exception or wait for another thread.
    """
    _handle_by(_vanish)


def end_in_order() -> None:
    """From now on, a signal ends the process by SystemExit, so that open files are completed."""
    _handle_by(_leave)


def note_endings() -> list[int]:
    """From now on, signals are only noted; gives the list to which their numbers are added.

    Only the first Ctrl-backslash is noted: at the second, the kernel ends the process.
    """
    _handle_by(_note)
    _work_s[0] = max(_WORK_S, _OF_START * time.process_time())
    signal.signal(signal.SIGPROF, _break_off)
    sys.unraisablehook = _report_unraisable
    return _noted


@contextmanager
def undisturbed() -> Iterator[None]:
    """Work that begins in here is also finished: OutOfTime is raised afterwards."""
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
    """When the last signal was noted (CLOCK_MONOTONIC); infinity if none was."""
    return _noted_s[0]


def _handle_by(handler: signal._HANDLER) -> None:
    _noted.clear()
    for number in ENDINGS:
        # Under nohup(1) we ignore that a terminal is closed.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _vanish(_number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(0)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # at the next one the kernel ends us
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
    """Gives all threads priority: we wait for those that compute, and the last one frees memory.

    With autogroups (sched(7)) niceness counts only among the processes of one terminal, so other
    processes could still keep us waiting for seconds; a real-time policy counts among all. It is
    the lowest such priority, it ends with us, and our work is limited in time; the kernel also
    leaves 5 % of the time to other tasks.
    """
    with suppress(FileNotFoundError):  # /proc was unmounted
        for thread in map(int, os.listdir("/proc/self/task")):
            with suppress(OSError):  # only root may; or it is gone
                os.setpriority(os.PRIO_PROCESS, thread, _IN_FRONT)
                os.sched_setscheduler(thread, _REAL_TIME, os.sched_param(1))


def _break_off(_number: int, _frame: FrameType | None) -> None:
    # Set only now, so that the handler of OutOfTime has that long to prevent another one.
    signal.setitimer(signal.ITIMER_PROF, _AGAIN_S)
    if not _undisturbed[0]:
        raise OutOfTime


def _report_unraisable(raised: Any) -> None:
    """Hides OutOfTime in a callback from C, which it cannot break off; it will soon after."""
    if raised.exc_type is not OutOfTime:
        sys.__unraisablehook__(raised)
