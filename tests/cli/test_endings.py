"""What ends a replay before its end, and that this is no failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from memtap.cli import endings
from tests.cli.calling import HOME, command, spawn
from tests.cli.making import record
from tests.tracers.builders import make_chunk, read


@pytest.mark.parametrize("format", ["table", "json"])
def test_a_closed_pipe_ends_it(format: str, recording: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = spawn("cachetop", "-f", format, "--from", recording, stdout=writer)
    os.close(writer)
    assert (done.status, done.err) == (0, "")


def test_what_comes_after_a_pipe_is_closed_is_not_even_read(tmp_path: Path) -> None:
    record(tmp_path / "1.parquet", make_chunk(read()))
    (tmp_path / "2.parquet").touch()
    reader, writer = os.pipe()
    os.close(reader)
    done = spawn("cachetop", "--from", tmp_path, stdout=writer)
    os.close(writer)
    assert (done.status, done.err) == (0, "")


def start(path: Path) -> subprocess.Popen[str]:
    """A replay whose reader has read one line, and of which more is to come than a pipe takes."""
    pipe = subprocess.PIPE
    words = command("cachetop", "-f", "json", "--from", path)
    process = subprocess.Popen(words, cwd=HOME, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["report"] == "cachetop"
    return process


def test_a_reader_that_has_seen_enough_ends_it(long_recording: Path) -> None:
    with start(long_recording) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(10)) == ("", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(number: int, long_recording: Path) -> None:
    with start(long_recording) as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (0, "")


# A run that is told to end while it works on more than fits, and is broken off just as it would see
# to it that this does not happen; and what it does at its end takes a while.
LATE = """
import os, signal, time
from memtap.cli import endings, loop

def work():
    os.kill(os.getpid(), signal.SIGTERM)
    while True:
        pass

def too_late():
    loop.end_undisturbed = endings.end_undisturbed
    raise endings.OutOfTime

loop.end_undisturbed = too_late
endings.note_endings()
run = loop.Loop.__new__(loop.Loop)
run._run = work
run.run()
end = time.process_time() + 0.3
while time.process_time() < end:
    pass
"""


def test_what_was_broken_off_ends_in_peace() -> None:
    done = subprocess.run([sys.executable, "-c", LATE], cwd=HOME, capture_output=True, text=True)
    assert done.stderr == "memtap: note: a last report would have taken too long: it was not made\n"
    assert done.returncode == 0


# A run with two threads is told to end, and says how nice each is from then on, and by which policy
# it runs; and a child's policy.
IN_FRONT = """
import os, signal, sys, threading
from memtap.cli import endings

threading.Thread(target=threading.Event().wait, daemon=True).start()
endings.note_endings()
os.kill(os.getpid(), int(sys.argv[1]))
for thread in map(int, os.listdir("/proc/self/task")):
    print(os.getpriority(os.PRIO_PROCESS, thread), os.sched_getscheduler(thread), end=";")
sys.stdout.flush()
if os.fork() == 0:
    print(os.sched_getscheduler(0), flush=True)
    os._exit(0)
os.wait()
os._exit(0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may go ahead of others")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_what_is_left_to_do_is_done_ahead_of_others(number: int) -> None:
    """But for Ctrl-C, after which it may take as long as it takes."""
    nice, policy = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)
    done = subprocess.run(
        [sys.executable, "-c", IN_FRONT, str(int(number))],
        cwd=HOME,
        capture_output=True,
        text=True,
        check=True,
    )
    *threads, child = done.stdout.split(";")
    ahead = f"-20 {os.SCHED_RR | os.SCHED_RESET_ON_FORK}"
    assert threads == [f"{nice} {policy}" if number == signal.SIGINT else ahead] * 2
    assert int(child) == policy


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may go ahead of others")
def test_where_that_is_not_allowed_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a cgroup without a share of real time."""

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(os, "setpriority", refuse)
    endings._go_in_front()
