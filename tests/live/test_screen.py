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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyte
import pytest

from tests.live.tracing import MEMTAP, eventually, memtap, reports


class Terminal:
    """A process on a terminal of its own, and what stands on that."""

    def __init__(
        self,
        command: list[str],
        lines: int = 24,
        columns: int = 80,
        inherited: tuple[int, ...] = (),
        **environment: str,
    ) -> None:
        self._ours, theirs = pty.openpty()
        self._screen = pyte.Screen(columns or 80, lines or 24)
        self._stream = pyte.ByteStream(self._screen)
        self.resize(lines, columns)
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            pass_fds=inherited,
            env=os.environ | {"TERM": "linux"} | environment,
        )
        self._theirs = theirs

    def resize(self, lines: int, columns: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, size)
        self._screen.resize(lines or 24, columns or 80)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def hang_up(self) -> None:
        """As if the window was closed, or the line broke."""
        os.close(self._theirs)
        os.close(self._ours)
        self._ours, self._theirs = pty.openpty()

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


@contextmanager
def reading(path: Path) -> Iterator[int]:
    """A process that reads a file again and again; its number."""
    code = "import sys, time\nwhile True: open(sys.argv[1], 'rb').read(); time.sleep(.01)"
    reader = subprocess.Popen([sys.executable, "-c", code, path])
    try:
        yield reader.pid
    finally:
        reader.kill()
        reader.wait()


@contextmanager
def on_terminal(*arguments: object, **how: Any) -> Iterator[Terminal]:
    """memtap on a terminal of its own."""
    terminal = Terminal([*MEMTAP, *map(str, arguments)], **how)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.fixture
def cachetop() -> Iterator[Terminal]:
    with (
        reading(Path("/etc/passwd")) as pid,
        on_terminal("cachetop", "0.3", "-p", pid) as terminal,
    ):
        yield terminal


def heading(lines: list[str]) -> str:
    return lines[1]


def test_it_is_redrawn_in_place(cachetop: Terminal) -> None:
    assert cachetop.shows(lambda lines: lines[2].split()[1:3] == ["root", "python3"])
    first, columns, *_, keys = cachetop.lines
    assert first.startswith("cachetop ") and first.endswith("by process  MISSES first")
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


def test_a_column_that_the_next_grouping_lacks_is_left_for_the_usual_one() -> None:
    with on_terminal("cachetop", "-b", "process,file", "-s", "evicted", "0.3") as screen:
        assert screen.shows(lambda lines: "EVICTED first" in lines[0])
        screen.press("b")
        assert screen.shows(lambda lines: "by file  EVICTED first" in lines[0])
        screen.press("b")
        assert screen.shows(lambda lines: "by cgroup  MISSES first" in lines[0])


def test_sort_reverse_and_pause(cachetop: Terminal) -> None:
    assert cachetop.shows(lambda lines: "MISSES first" in lines[0])
    cachetop.press(">")
    assert cachetop.shows(lambda lines: "DIRTIES first" in lines[0])
    cachetop.press("<r")
    assert cachetop.shows(lambda lines: "MISSES reversed" in lines[0])
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
    assert cachetop.shows(lambda lines: "MISSES first" in lines[0])
    cachetop.press("q")
    assert cachetop.process.wait(10) == 0
    cachetop.shows(lambda lines: False, 0.5)
    assert not any("Traceback" in line for line in cachetop.lines)


# Arrows, PgUp, PgDn, Home, End, F keys, the mouse, and Alt with a key that means something here.
NO_KEYS = (
    "\x1b[A \x1bOB \x1b[5~ \x1b[6~ \x1b[H \x1b[4~ \x1bOP \x1b[[B \x1b[24~ \x1b[1;5C "
    "\x1b[<0;3;4M \x1bq"
)


def test_what_begins_with_an_escape_ends_nothing(cachetop: Terminal) -> None:
    assert cachetop.shows(lambda lines: "MISSES first" in lines[0])
    for sent in NO_KEYS.split():
        cachetop.press(sent)
    for piece in ("\x1b", "[", "1;2", "A", "\x1b[200~q", "q\x1b[20", "1~"):
        cachetop.press(piece)
        time.sleep(0.02)
    cachetop.press(">")  # all before it was taken in when this is seen
    assert cachetop.shows(lambda lines: "DIRTIES first" in lines[0])
    assert not cachetop.shows(lambda lines: cachetop.process.poll() is not None, 3)


@pytest.mark.parametrize("key", ["q", "\x1b"])
def test_q_and_escape_alone_end_it(key: str, cachetop: Terminal) -> None:
    assert cachetop.shows(lambda lines: "MISSES first" in lines[0])
    cachetop.press(key)
    assert cachetop.process.wait(10) == 0


@pytest.mark.parametrize("size", [(0, 0), (1, 1), (2, 200)])
def test_a_terminal_of_any_size_will_do(size: tuple[int, int]) -> None:
    with reading(Path("/etc/passwd")) as pid:
        where = {"lines": size[0], "columns": size[1]}
        with on_terminal("cachetop", "0.2", "2", "-p", pid, **where) as terminal:
            assert eventually(
                lambda: not terminal.shows(lambda lines: False, 0.1) and over(terminal)
            )
            assert terminal.process.wait() == 0


def over(terminal: Terminal) -> bool:
    return terminal.process.poll() is not None


def test_a_terminal_that_does_not_know_its_size_has_a_usual_one() -> None:
    with (
        reading(Path("/etc/passwd")) as pid,
        on_terminal("cachetop", "0.2", "-p", pid, lines=0, columns=0) as terminal,
    ):
        assert terminal.shows(lambda lines: "python3" in lines[2])
        assert terminal.lines[23].startswith("< > sort")


@pytest.mark.parametrize("locale", ["C", "POSIX", "xx_XX.none", "C.UTF-8"])
def test_any_locale_will_do(locale: str, tmp_path: Path) -> None:
    """What the terminal cannot show is a question mark, and nothing ends for it."""
    path = tmp_path / ("größe" + "x" * 60 + "日本") / "名前"
    path.parent.mkdir()
    path.write_text("x")
    with reading(path) as pid:
        by_file = ("cachetop", "0.2", "-b", "file", "-p", pid)
        with on_terminal(*by_file, LC_ALL=locale, LANG=locale) as terminal:
            end = "/名前" if locale == "C.UTF-8" else "/??"
            assert terminal.shows(lambda lines: any(end in "".join(line.split()) for line in lines))


@pytest.mark.parametrize("kind", ["dumb", "", "nonesuch"])
def test_what_cannot_be_drawn_on_gets_tables(kind: str) -> None:
    with (
        reading(Path("/etc/passwd")) as pid,
        on_terminal("cachetop", "0.2", "-p", pid, TERM=kind) as terminal,
    ):
        assert terminal.shows(lambda lines: sum("READ_HIT%" in line for line in lines) > 1)
        assert not any("sort" in line for line in terminal.lines)


def test_on_a_terminal_it_is_said_that_tracing_has_begun() -> None:
    with on_terminal("faults", "0.2", "2", "-p", os.getpid(), columns=120) as terminal:
        begun = f"memtap: faults traces process {os.getpid()}; 2 reports, one every 0.2 s"
        assert terminal.shows(lambda lines: begun in lines)
    done = memtap("faults", "0.2", "1", "-p", os.getpid())
    assert done.stderr == ""


def test_a_start_that_takes_long_says_why() -> None:
    code = 'mount -t tmpfs none /var/cache && "$@" && exec "$@"'
    command = [*MEMTAP, "oom", "0.2", "1"]
    terminal = Terminal(["unshare", "-m", "sh", "-c", code, "sh", *command], columns=120)
    begun = "memtap: oom traces the host; 1 report, one every 0.2 s"
    try:
        assert terminal.shows(lambda lines: lines.count(begun) == 2, seconds=60)
    finally:
        terminal.close()
    said = [line for line in terminal.lines if line.startswith(("memtap: c", "memtap: oom"))]
    compiling = "memtap: compiling for this kernel, once, which takes some seconds"
    assert said == [compiling, begun, begun]  # the second time nothing is compiled


@pytest.mark.parametrize("command", ["cachetop", "cachestat", "faults"])
def test_a_terminal_that_is_closed_ends_a_run_and_its_recording_is_whole(
    command: str, tmp_path: Path
) -> None:
    recording = tmp_path / "r.parquet"
    with (
        reading(Path("/etc/passwd")) as pid,
        on_terminal(command, "0.2", "-p", pid, "--record", recording) as terminal,
    ):
        assert terminal.shows(lambda lines: "MISSES" in str(lines) or "MAJOR" in str(lines))
        time.sleep(0.5)
        terminal.hang_up()
        assert terminal.process.wait(10) == 0
    replayed = memtap(command, "-f", "json", "--from", recording)
    assert (replayed.returncode, replayed.stderr) == (0, "")
    assert reports(replayed.stdout)
