"""Many processes at once: a run ends when it is told to, and what it had no time for is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.tracing import reporting, reports, scaled, slower

Build = Callable[[str], Path]

SECONDS = scaled(4)


def cpu_s(pid: int) -> float:
    """The time on CPUs of a process and of its children that ended, as wait4(2) tells it.

    One child compiled the program, if nobody had before.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("tracer", ["malloc", "faults"])
def test_a_run_that_is_told_to_end_does_not_work_for_long(
    tracer: str, workload: Build, tmp_path: Path
) -> None:
    out = tmp_path / "reports"
    spawner = [workload("spawner"), str(SECONDS)]
    with (
        reporting(out, tracer, "1", "-f", "json") as traced,
        subprocess.Popen(spawner, stdout=subprocess.DEVNULL) as storm,
    ):
        time.sleep(SECONDS / 2)
        before = cpu_s(traced.pid)
        traced.send_signal(signal.SIGTERM)
        _, status, usage = os.wait4(traced.pid, 0)
        storm.kill()
    assert os.waitstatus_to_exitcode(status) == 0
    # Others may have the CPUs meanwhile, so how long it worked is what can be told.
    assert usage.ru_utime + usage.ru_stime - before < slower(1)
    last = reports(out.read_text())[-1]
    assert last["audit"]["accuracy"] == ("estimated" if last["audit"]["lost"] else "exact")


def test_a_run_that_comes_back_to_a_heap_of_work_and_is_told_to_end_leaves_it(
    workload: Build, tmp_path: Path
) -> None:
    """What it cannot report in time it says that it does not; its file has whole reports."""
    out = tmp_path / "reports"
    spawner = [workload("spawner"), str(SECONDS)]
    with reporting(out, "malloc", "1", "-f", "json") as traced:
        traced.send_signal(signal.SIGSTOP)
        subprocess.run(spawner, stdout=subprocess.DEVNULL, check=True)
        before = cpu_s(traced.pid)
        traced.send_signal(signal.SIGTERM)
        traced.send_signal(signal.SIGCONT)
        _, status, usage = os.wait4(traced.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert usage.ru_utime + usage.ru_stime - before < slower(1)
    assert reports(out.read_text())
