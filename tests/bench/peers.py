"""bcc's cachestat and cachetop, looking at a workload from its begin to its end."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.live.test_screen import Terminal

# As Debian calls them. Their interval is to be longer than any workload.
CACHESTAT, CACHETOP = "cachestat-bpfcc", "cachetop-bpfcc"
_INTERVAL = "3600"
_KPROBES = 3
_START_S = 120.0

Run = Callable[[], object]
Counts = tuple[int, int, int]


class DidNotStartError(Exception):
    """A tool ended before it had attached anything; its last word."""


def wait_until_attached(process: subprocess.Popen[bytes], last_word: Callable[[], str]) -> None:
    """Until it holds the perf events of its kprobes. Raises DidNotStartError."""
    end = time.monotonic() + _START_S
    while _events(process.pid) < _KPROBES:
        if process.poll() is not None or time.monotonic() > end:
            raise DidNotStartError(last_word())
        time.sleep(0.1)
    time.sleep(2)  # the last of them, and what it does before it waits


def _events(pid: int) -> int:
    try:
        links = [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return 0
    return sum("perf_event" in str(link) for link in links)


def cachestat(run: Run) -> Counts:
    """Hits, misses and dirties of the host while something runs."""
    command = [shutil.which(CACHESTAT) or CACHESTAT, _INTERVAL]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe) as process:
        assert process.stderr
        wait_until_attached(process, lambda: process.communicate()[1].decode().splitlines()[-1])
        run()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
    row = out.decode().splitlines()[1].split()
    return int(row[0]), int(row[1]), int(row[2])


def cachetop(run: Run, comm: str) -> Counts:
    """Hits, misses and dirties of the processes of a name while something runs."""
    terminal = Terminal([shutil.which(CACHETOP) or CACHETOP, _INTERVAL], lines=60, columns=100)
    try:
        last = "see it by itself"
        wait_until_attached(terminal.process, lambda: last)
        run()
        terminal.process.send_signal(signal.SIGINT)
        terminal.shows(lambda lines: any("HITS" in line for line in lines), 30)
        rows = [line.split() for line in terminal.lines]
    finally:
        terminal.close()
    mine = [row for row in rows if len(row) > 5 and row[2] == comm[:15]]
    hits, misses, dirties = (sum(int(row[at]) for row in mine) for at in (3, 4, 5))
    return hits, misses, dirties
