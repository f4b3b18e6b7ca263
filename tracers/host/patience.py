"""What a process can make its readers wait for is read by a thread that can be left behind.

Its maps, its command line and its memory are read under a lock of its address space, which it has
for as long as it likes: while it maps or gives back a file on a file system that never answers. A
thread that waits for that lock ends with us.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from memtap.tracers.host import procfs

T = TypeVar("T")

# So long a process is waited for; one whose user has made us wait in vain before, not so long.
_WAIT_S, _SHORT_S = 0.5, 0.01

# So many threads wait for the processes of one user; no more are begun.
_MOST_STUCK = 8


class StuckError(OSError):
    """A process did not let itself be read in time."""


class _Reader:
    """A thread that reads what it is told to."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()
        self._is_left, self._uid = False, -1
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def ask(self, read: Callable[[], Any], most_s: float) -> Any:
        """Raises Empty if it stands still for longer, and what `read` raises."""
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
        """Whether it is on a CPU or waits for one, and how often it slept, or was made to wait.

        One that we keep from running, as we have Python's lock, sleeps again and again.
        """
        status = procfs.read(f"/proc/self/task/{self._thread.native_id}/status")
        return b"\nState:\tR" in status, status[status.index(b"\nvoluntary_ctxt_switches") :]

    def leave(self, uid: int) -> None:
        """Nobody asks it any more; it ends if it ever comes back."""
        _count(uid, 1)
        self._uid, self._is_left = uid, True
        self._tasks.put(int)  # it may have come back just now

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
_counting = threading.Lock()  # many can come back at once


def _count(uid: int, change: int) -> None:
    """So many more threads wait for processes of a user."""
    with _counting:
        _stuck[uid] += change


def patiently(tgid: int, read: Callable[[], T]) -> T:
    """What `read` finds in /proc of a process. Raises StuckError, and what it raises itself."""
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
