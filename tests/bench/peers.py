"""bcc's cachestat and cachetop, looking at a workload from its begin to its end.

They run as they are installed, but for the clock: an interval ends when we say so. So a tool is
started once, and no interval is too short for a workload.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable

from tests.live.test_screen import Terminal

# As Debian calls them.
CACHESTAT, CACHETOP = "cachestat-bpfcc", "cachetop-bpfcc"
_START_S = 300.0

Run = Callable[[], object]
Counts = tuple[int, int, int]

# Says that it waits, and waits for us, wherever the tool would sleep.
_CLOCK = """
import os, runpy, sys, time
told, ticks = map(int, sys.argv[1:3])
def sleep(seconds):
    os.write(told, b".")
    os.read(ticks, 1)
time.sleep = sleep
del sys.argv[:3]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class DidNotStartError(Exception):
    """A tool ended before it had attached anything."""


class _Clock:
    """The time of a tool.

    Attributes:
        command: what starts the tool.
        inherited: descriptors that it needs for that.
    """

    def __init__(self, tool: str) -> None:
        self._told, theirs = os.pipe()
        ticks, self._ticks = os.pipe()
        self.inherited = (theirs, ticks)
        numbers = [str(fd) for fd in self.inherited]
        command = [sys.executable, "-u", "-c", _CLOCK, *numbers, shutil.which(tool) or tool]
        self.command = command

    def begun(self) -> None:
        """Closes what belongs to the tool."""
        for fd in self.inherited:
            os.close(fd)

    def tick(self) -> None:
        """Ends an interval."""
        os.write(self._ticks, b".")

    def is_waiting(self, seconds: float) -> bool:
        """Whether the tool comes to wait for that; DidNotStartError if it is gone."""
        if not select.select([self._told], [], [], seconds)[0]:
            return False
        if not os.read(self._told, 1):
            raise DidNotStartError
        return True

    def close(self) -> None:
        os.close(self._told)
        os.close(self._ticks)


class Cachestat:
    """Hits, misses and dirties of the host."""

    def __init__(self) -> None:
        self._clock = _Clock(CACHESTAT)
        self._process = subprocess.Popen(
            self._clock.command,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=self._clock.inherited,
        )
        self._clock.begun()
        assert self._clock.is_waiting(_START_S)
        self._line()  # the heading

    def _line(self) -> list[str]:
        assert self._process.stdout
        return self._process.stdout.readline().split()

    def _interval(self) -> list[str]:
        self._clock.tick()
        assert self._clock.is_waiting(_START_S)
        return self._line()

    def counts(self, run: Run, _comm: str) -> Counts:
        """While something runs."""
        self._interval()
        run()
        hits, misses, dirties = map(int, self._interval()[:3])
        return hits, misses, dirties

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._clock.close()


class Cachetop:
    """Hits, misses and dirties of the processes of a name."""

    def __init__(self) -> None:
        self._clock = _Clock(CACHETOP)
        self._terminal = Terminal(
            self._clock.command, lines=60, columns=100, inherited=self._clock.inherited
        )
        self._clock.begun()
        assert self._wait()

    def _wait(self) -> bool:
        """Until it has drawn, and waits; what it draws must be taken meanwhile."""
        return self._terminal.shows(lambda _: self._clock.is_waiting(0), _START_S)

    def _interval(self) -> list[list[str]]:
        self._clock.tick()
        assert self._wait()
        return [line.split() for line in self._terminal.lines]

    def counts(self, run: Run, comm: str) -> Counts:
        """While something runs."""
        self._interval()
        run()
        rows = [row for row in self._interval() if len(row) > 5 and row[2] == comm[:15]]
        hits, misses, dirties = (sum(int(row[at]) for row in rows) for at in (3, 4, 5))
        return hits, misses, dirties

    def close(self) -> None:
        self._terminal.close()
        self._clock.close()
