"""Reads files of /proc on which a process can make us wait, in a thread that we can abandon.

A process's maps, command line and memory are read under a lock of its address space (mmap_lock).
The process can hold that lock for any time: while it maps or unmaps a file on a file system that
never answers. A thread that waits for the lock ends when we end.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from memtap.tracers.host import procfs

T = TypeVar("T")

# Seconds that we wait for a process, and, if a process of its user has made us wait in vain before,
# the shorter time.
_WAIT_S, _SHORT_S = 0.5, 0.01

# At most this many threads wait for the processes of one user.
_MOST_STUCK = 8


class StuckError(OSError):
    """A process could not be read in time."""


class _Reader:
    """A thread that reads what it is asked to."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()
        self._is_left, self._uid = False, -1
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def ask(self, read: Callable[[], Any], most_s: float) -> Any:
        """What `read` returns or raises; raises Empty if the thread stands still for `most_s`."""
        self._tasks.put(read)
        before = b""
        while True:
            try:
                result, error = self._answers.get(timeout=most_s / 2)
                break
            except Empty:
                is_running, now = self._work_done()
                if not is_running and now == before:
                    raise
                before = now
        if error:
            raise error
        return result

    def _work_done(self) -> tuple[bool, bytes]:
        """Whether the thread is on a CPU or waits for one, and how often it slept or was preempted.

        A thread that waits for Python's lock, which we hold, sleeps again and again.
        """
        status = procfs.read(f"/proc/self/task/{self._thread.native_id}/status")
        return b"\nState:\tR" in status, status[status.index(b"\nvoluntary_ctxt_switches") :]

    def leave(self, uid: int) -> None:
        """Abandons the thread: it gets no more tasks, and ends if `read` ever returns."""
        _count(uid, 1)
        self._uid, self._is_left = uid, True
        self._tasks.put(int)  # `read` may have returned just now

    def _work(self) -> None:
        while not self._is_left:
            read = self._tasks.get()
            try:
                self._answers.put((read(), None))
            except Exception as error:
                self._answers.put((None, error))
        _count(self._uid, -1)


_idle: list[_Reader] = []
_stuck: Counter[int] = Counter()
_counting = threading.Lock()  # many threads can end at once


def _count(uid: int, change: int) -> None:
    """Adds to the number of threads that wait for processes of a user."""
    with _counting:
        _stuck[uid] += change


def patiently(tgid: int, read: Callable[[], T]) -> T:
    """What `read` finds in /proc of a process. Raises StuckError, and what `read` raises."""
    uid = procfs.user_of(tgid) if any(_stuck.values()) else -1
    if _stuck[uid] >= _MOST_STUCK:
        raise StuckError(f"other processes of the user of {tgid} are stuck")
    try:
        reader = _idle.pop() if _idle else _Reader()
    except RuntimeError:  # we may have no more threads
        return read()
    try:
        found: T = reader.ask(read, _SHORT_S if _stuck[uid] else _WAIT_S)
    except Empty:
        reader.leave(procfs.user_of(tgid))
        raise StuckError(f"process {tgid} is stuck") from None
    except Exception:
        _idle.append(reader)
        raise
    _idle.append(reader)
    return found
