"""The pace of reports that do not trace: waits for the ends of intervals, or to be told to end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from memtap.cli.endings import ENDINGS


@contextmanager
def pace() -> Iterator[Callable[[float], bool]]:
    """Gives a function that waits until a time (CLOCK_MONOTONIC) and says whether we are to end.

    Otherwise signals are blocked, so that none comes in the middle of a report.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)

    def is_told_to_end(until: float) -> bool:
        left = max(0.0, until - time.monotonic())
        return signal.sigtimedwait(ENDINGS, left) is not None

    try:
        yield is_told_to_end
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
