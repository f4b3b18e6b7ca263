"""What is told besides the numbers."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from memtap.cli.telling import absent, partial_remarks, remarked
from memtap.tracers import load
from tests.cli.calling import HOME, memtap, understood
from tests.cli.making import FIRST, SECOND, record, top_report
from tests.tracers.builders import make_chunk, make_interval


def test_a_report_without_rows_says_what_did_not_happen() -> None:
    empty = top_report(make_chunk())
    assert not empty.rows
    nothing = load("cachetop").nothing
    assert remarked(empty, nothing).remarks == ("nobody used the page cache in 1.0 s",)
    assert remarked(empty, nothing, ["because"]).remarks[1:] == ("because",)
    assert remarked(top_report(FIRST), nothing).remarks == ()


def test_a_report_of_which_all_was_lost_says_no_other_thing() -> None:
    empty = top_report(make_chunk())
    lossy = replace(empty, audit=empty.audit | {"lost": 8839})
    (remark,) = remarked(lossy, load("cachetop").nothing).remarks
    assert remark == "all that there was is lost: 8,839 in 1.0 s"


@pytest.mark.parametrize(("format", "told"), [("table", True), ("json", True), ("csv", False)])
def test_a_replay_says_it_as_well(format: str, told: bool, tmp_path: Path) -> None:
    short = make_interval(remarks=tuple(partial_remarks(0.4, 1.0)))
    empty = make_chunk(interval=short)
    path = record(tmp_path / "r.parquet", FIRST, empty)
    done = memtap("cachetop", "-f", format, "--from", path)
    assert (done.status, done.err) == (0, "")
    assert ("nobody used the page cache in 1.0 s" in done.out) is told
    assert ("a partial interval: 0.4 s of 1 s" in done.out) is told


@pytest.mark.parametrize(("seconds", "interval"), [(1.0, 1.0), (8.7, 5.0), (3.0, math.inf)])
def test_what_lasted_as_long_as_it_should_or_longer_is_whole(
    seconds: float, interval: float
) -> None:
    assert partial_remarks(seconds, interval) == []


def test_a_remark_in_a_recording_can_do_no_harm(tmp_path: Path) -> None:
    path = record(
        tmp_path / "r.parquet", make_chunk(interval=make_interval(remarks=("\x1b[2J\n",)))
    )
    assert "\x1b" not in memtap("cachetop", "--from", path).out


def test_rows_with_remarks_are_what_they_were() -> None:
    report = top_report(SECOND)
    assert replace(remarked(report, ["x"]), remarks=()) == report


def test_of_names_those_are_told_that_nobody_has() -> None:
    mine = Path("/proc/self/comm").read_text().rstrip("\n")
    assert absent(()) == absent([mine]) == []
    (sentence,) = absent([mine, "no-such-name-at-all"])
    assert sentence == "no process is called 'no-such-name-at-all'"


def wait_for_name(process: subprocess.Popen[bytes], name: str) -> None:
    """execve(2) closes Popen's pipe before it sets the name."""
    deadline = time.monotonic() + 10
    while Path(f"/proc/{process.pid}/comm").read_text() != f"{name}\n":
        assert time.monotonic() < deadline


def test_the_nearest_name_that_there_is_is_told() -> None:
    with subprocess.Popen(["sleep", "60"], executable="/usr/bin/sleep") as process:
        try:
            wait_for_name(process, "sleep")
            (sentence,) = absent(["slep"])
            assert sentence == "no process is called 'slep'; there is 'sleep'"
            assert absent(["sleep"]) == []
        finally:
            process.kill()


def test_a_name_is_compared_as_far_as_the_kernel_keeps_it(tmp_path: Path) -> None:
    program = tmp_path / "a-name-of-more-than-fifteen-characters"
    program.symlink_to("/usr/bin/sleep")
    with subprocess.Popen([program, "60"]) as process:
        try:
            wait_for_name(process, program.name[:15])
            assert absent([program.name]) == absent([program.name[:15]]) == []
        finally:
            process.kill()


@pytest.mark.parametrize("command", [("ps",), ("oom", "--scores")])
def test_what_looks_once_says_only_that_there_is_no_such_process(command: tuple[str, ...]) -> None:
    done = memtap(*command, "-c", "no-such-name")
    assert (done.status, done.err) == (0, "")
    assert done.lines[1:] == ["no process is called 'no-such-name'"]


def test_only_one_module_imports_polars() -> None:
    """It is the one that sees to it that polars has no threads beside those we watch."""
    importing = [
        path.name
        for path in (HOME / "tracers").rglob("*.py")
        if any(
            line.startswith(("import polars", "from polars"))
            for line in path.read_text().splitlines()
        )
    ]
    assert importing == ["frames.py"]


@pytest.mark.parametrize(
    "module", ["pagecache.cachetop", "faults.report", "reclaim.report", "model.durations"]
)
def test_polars_has_one_thread_whichever_module_comes_first(module: str) -> None:
    code = f"import memtap.tracers.{module}; import polars; print(polars.thread_pool_size())"
    environment = {k: v for k, v in os.environ.items() if k != "POLARS_MAX_THREADS"}
    words = [sys.executable, "-c", code]
    out = subprocess.check_output(words, cwd=HOME, env=environment, text=True)
    assert out == "1\n"


def test_nothing_is_told_of_options_that_nobody_gave() -> None:
    assert understood().each is None
