"""Tracing from Python."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import memtap
from tests.live.tracing import PAGE, reports
from tests.live.tracing import memtap as command

TOUCHED = 1000
# Touches shared memory whenever it reads a line.
TOUCHES = f"""
import mmap, sys
print("ready", flush=True)
for line in sys.stdin:
    memory = mmap.mmap(-1, {TOUCHED} * {PAGE})
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for at in range({TOUCHED}):
        memory[at * {PAGE}] = 1
    print("done", flush=True)
"""


@pytest.fixture
def toucher() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", TOUCHES], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def touch(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    assert process.stdout
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"


def test_a_process_is_traced(toucher: subprocess.Popen[str], tmp_path: Path) -> None:
    path = tmp_path / "kept.parquet"
    by = ("process", "cause")
    with memtap.trace("faults", by=by, pid=toucher.pid, record=path) as trace:
        touch(toucher)
        (report,) = trace.reports(interval=0.5, count=1)
    frame = report.frame()
    (first,) = frame.filter(pl.col("cause") == "shm").to_dicts()
    assert first["pid"] == toucher.pid
    assert TOUCHED <= first["minor"] <= TOUCHED + 20
    assert report.audit["lost"] == 0
    assert frame["minor"].sum() == report.audit["kernel"]["ac_minflt"]
    (again,) = memtap.read(path, by=by)
    assert again.frame().equals(frame)
    (said,) = reports(command("faults", "-b", ",".join(by), "-f", "json", "--from", path).stdout)
    assert again.to_dict() == said


def test_several_trace_beside_each_other_in_threads(toucher: subprocess.Popen[str]) -> None:
    ready, touched = threading.Barrier(3), threading.Barrier(3)
    found: dict[str, int] = {}

    def run(name: str, column: str) -> None:
        with memtap.trace(name, pid=toucher.pid) as trace:
            ready.wait()
            touched.wait()
            (report,) = trace.reports(interval=0.1, count=1)
            found[name] = report.frame()[column].sum()

    wanted = {"faults": "total", "malloc": "requested_bytes"}
    threads = [threading.Thread(target=run, args=each) for each in wanted.items()]
    for thread in threads:
        thread.start()
    ready.wait()
    touch(toucher)
    touched.wait()
    for thread in threads:
        thread.join()
    assert found["faults"] >= TOUCHED
    assert found["malloc"] >= TOUCHED * PAGE


def test_handlers_of_signals_are_left_alone_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    code = """
import memtap, os, signal
before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
try:
    with memtap.trace("pages") as trace:
        for report in trace.reports(interval=0.2):
            assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
            os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("ended", len([f for f in os.listdir("/proc/self/fd")]) < 12)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended True\n", "")


def test_frames_have_the_columns_of_the_report_even_without_rows() -> None:
    with memtap.trace("oom") as trace:
        (report,) = trace.reports(interval=0.1, count=1)
    assert report.frame().columns == [column.name for column in report.columns]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("nope", {}, "there is no tracer"),
        ("faults", {"by": "nope"}, "not by"),
        ("faults", {"nope": True}, "has no"),
        ("malloc", {"heap": True}, "--heap wants processes"),
    ],
)
def test_what_there_is_not_is_a_value_error(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        memtap.trace(name, **options)


def test_a_process_that_is_gone_is_told() -> None:
    with pytest.raises(memtap.MemtapError, match="there is no process"):
        memtap.trace("faults", pid=999999999)
