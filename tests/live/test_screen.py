"""cachetop on a terminal: what a user sees, and what the keys do."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator

import pyte
import pytest

from tests.live.tracing import MEMTAP


class Terminal:
    """A process on a terminal of its own, and what stands on that."""

    def __init__(
        self,
        command: list[str],
        lines: int = 24,
        columns: int = 80,
        inherited: tuple[int, ...] = (),
    ) -> None:
        self._ours, theirs = pty.openpty()
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.resize(lines, columns)
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            pass_fds=inherited,
            env=os.environ | {"TERM": "linux"},
        )
        self._theirs = theirs

    def resize(self, lines: int, columns: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, size)
        self._screen.resize(lines, columns)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def shows(self, condition: Callable[[list[str]], bool], seconds: float = 10) -> bool:
        """Whether the screen comes to look so; it is judged between two drawings, never in one."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self._ours], [], [], 0.1)[0]:
                self._stream.feed(os.read(self._ours, 65536))
            elif condition(self.lines):
                return True
        return False

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def cachetop() -> Iterator[Terminal]:
    reader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time\nwhile True: open('/etc/passwd').read(); time.sleep(.01)",
        ]
    )
    terminal = Terminal([*MEMTAP, "cachetop", "0.3", "-p", str(reader.pid)])
    yield terminal
    terminal.close()
    reader.kill()
    reader.wait()


def heading(lines: list[str]) -> str:
    return lines[1]


def test_it_is_redrawn_in_place(cachetop: Terminal) -> None:
    assert cachetop.shows(lambda lines: lines[2].split()[1:3] == ["root", "python3"])
    first, columns, *_, keys = cachetop.lines
    assert first.startswith("cachetop ") and first.endswith("by process  HITS first")
    assert "READ_HIT%" in columns
    assert keys.startswith("< > sort")
    assert cachetop.shows(lambda lines: lines[0] not in ("", first)), "the time goes on"


def test_b_goes_on_to_the_next_grouping(cachetop: Terminal) -> None:
    assert cachetop.shows(lambda lines: "CMD" in heading(lines))
    cachetop.press("b")
    assert cachetop.shows(lambda lines: "PATH" in heading(lines))
    assert cachetop.shows(lambda lines: any(line.endswith("/etc/passwd") for line in lines))
    cachetop.press("b")
    assert cachetop.shows(lambda lines: "CGROUP" in heading(lines))
    cachetop.press("b")
    assert cachetop.shows(lambda lines: heading(lines).split()[:2] == ["UID", "USER"])


def test_sort_reverse_and_pause(cachetop: Terminal) -> None:
    assert cachetop.shows(lambda lines: "HITS first" in lines[0])
    cachetop.press(">")
    assert cachetop.shows(lambda lines: "MISSES first" in lines[0])
    cachetop.press("<r")
    assert cachetop.shows(lambda lines: "HITS reversed" in lines[0])
    cachetop.press(" ")
    assert cachetop.shows(lambda lines: "paused" in lines[0])
    still = cachetop.lines
    assert not cachetop.shows(lambda lines: lines != still, 1)


def test_it_follows_the_size_of_the_terminal(cachetop: Terminal) -> None:
    assert cachetop.shows(lambda lines: "READ_HIT%" in heading(lines))
    cachetop.resize(10, 60)
    assert cachetop.shows(lambda lines: len(lines) == 10 and lines[-1].startswith("< > sort"))
    assert cachetop.shows(lambda lines: lines[0].startswith("cachetop ")), "no line is wrapped"
    assert cachetop.shows(lambda lines: "CMD" in heading(lines))


def test_q_gives_the_terminal_back(cachetop: Terminal) -> None:
    assert cachetop.shows(lambda lines: "HITS first" in lines[0])
    cachetop.press("q")
    assert cachetop.process.wait(10) == 0
    cachetop.shows(lambda lines: False, 0.5)
    assert not any("Traceback" in line for line in cachetop.lines)
