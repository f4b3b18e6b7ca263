"""What ends a run from outside: Ctrl-C, a terminal that was closed, and those who say so.

Before a run has begun, and where there is none, such a signal ends the process with status 0 and no
word. While one runs it is noted, so that a last report can be made.
"""

from __future__ import annotations

import math
import os
import signal
import time
from types import FrameType
from typing import NoReturn

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_noted: list[int] = []
_noted_s = [math.inf]  # when the last of them came


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
    return _noted


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
    if number == signal.SIGQUIT:
        signal.signal(number, signal.SIG_DFL)
