"""What ends a replay before its end, and that this is no failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

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
