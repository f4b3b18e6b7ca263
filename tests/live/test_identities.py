"""What processes and threads are called, and that memtap itself is left out."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.live.tracing import eventually, memtap, reporting, reports

Build = Callable[[str], Path]
HOST_WIDE = ("faults", "malloc", "cachetop", "slab", "pages", "reclaim")


def report(command: str, *arguments: object) -> Any:
    """The last report of a command."""
    done = memtap(command, "-f", "json", "-o", "/dev/stdout", *map(str, arguments))
    assert done.returncode == 0, done.stderr
    return reports("\n".join(line for line in done.stdout.splitlines() if line[:1] == "{"))[-1]


@pytest.mark.parametrize("command", HOST_WIDE)
def test_processes_of_a_name_are_one_row(command: str, workload: Build, tmp_path: Path) -> None:
    """By name there is what there is by process, added up."""
    recording, toucher = tmp_path / "r.parquet", workload("toucher")
    script = f"for i in 1 2 3; do {toucher} 50; done"
    live = report(command, "-b", "comm", "--record", recording, "--", "sh", "-c", script)
    by_process = report(command, "-b", "process", "--from", recording)["rows"]
    names = [row["comm"] for row in live["rows"]]
    assert sorted(names) == sorted({row["comm"] for row in by_process})
    counts = [
        name
        for name, value in (live["rows"] or [{}])[0].items()
        if isinstance(value, int) and not name.startswith(("p50", "p99", "max", "thre"))
        if not name.endswith(("_ns", "_pct"))
    ]
    for row in live["rows"]:
        same = [each for each in by_process if each["comm"] == row["comm"]]
        assert {n: sum(each[n] for each in same) for n in counts} == {n: row[n] for n in counts}
    if command != "reclaim":
        assert set(names) == {"sh", "toucher"}
        assert len([each for each in by_process if each["comm"] == "toucher"]) == 3


def test_arguments_are_told_though_the_process_is_gone(workload: Build) -> None:
    """Of what was executed; and a child that only forked has those of its parent."""
    toucher = workload("toucher")
    script = f'{toucher} 20 "0 "; (: | :); exec {toucher} 30'
    rows = report("faults", "--", "sh", "-c", script)["rows"]
    args = Counter(row["args"] for row in rows)
    assert args[f"{toucher} 20 0 "] == 1
    assert args[f"{toucher} 30"] == 1
    assert args[f"sh -c {script}"] >= 2
    assert set(args) == {f"{toucher} 20 0 ", f"{toucher} 30", f"sh -c {script}"}


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("\x1b[31m\nx\u202e", r"\x1b[31m\nx\u202e"),
        ("back\\slash", r"back\\slash"),
        ("x" * 100_000, None),
    ],
)
def test_arguments_are_hostile_and_can_be_long(argument: str, shown: str | None) -> None:
    done = memtap("faults", "--wide", "-o", "/dev/stdout", "--", "sh", "-c", ":", argument)
    assert not [c for c in done.stdout if not (c.isprintable() or c == "\n")]
    (row,) = report("faults", "--", "sh", "-c", ":", argument)["rows"]
    if shown is None:
        assert row["args"] == ("sh -c : " + argument)[:256]
    else:
        assert row["args"] == "sh -c : " + shown
        assert row["args"] in done.stdout


def test_a_process_that_lives_has_the_arguments_that_it_has_now(tmp_path: Path) -> None:
    out, script = tmp_path / "out", tmp_path / "script.py"
    script.write_text("import sys\nwhile sys.stdin.read(1): b'x' * (64 << 20)\n")
    command = ["/usr/bin/python3", "-u", str(script), "", "é"]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE) as process,
        reporting(out, "faults", "-p", process.pid, "0.2", "-f", "json"),
    ):
        assert process.stdin
        process.stdin.write(b"xxx")
        process.stdin.flush()
        assert eventually(lambda: any(each["rows"] for each in reports(out.read_text())))
        process.stdin.close()
    rows = [row for each in reports(out.read_text()) for row in each["rows"]]
    assert {row["args"] for row in rows} == {f"/usr/bin/python3 -u {script}  é"}


def test_threads_have_their_own_names(workload: Build, tmp_path: Path) -> None:
    """Of those that are gone, too, also where a recording is asked later."""
    recording = tmp_path / "r.parquet"
    program = workload("namer"), 5, 40
    rows = report("faults", "-b", "thread", "--record", recording, "--", *program)["rows"]
    names = {row["thread"]: row["total"] for row in rows}
    assert set(names) == {"namer", *(f"worker/{n} \\x07" for n in range(5))}
    assert all(40 <= count < 80 for name, count in names.items() if name != "namer")
    assert {row["comm"] for row in rows} == {"namer"}
    assert {row["tid"] for row in rows if row["thread"] == "namer"} == {row["pid"] for row in rows}
    assert report("faults", "-b", "thread", "--from", recording)["rows"] == rows


@pytest.mark.parametrize("command", HOST_WIDE)
def test_reports_of_the_host_leave_memtap_out(command: str) -> None:
    """The audit says what it took; with --self its events are in the report."""
    how = (command, "-b", "process", "1", "1")
    without, with_it = report(*how), report(*how, "--self")
    assert "memtap" not in {row["comm"] for row in without["rows"] if _is_ours(row)}
    for each in (without, with_it):
        own = each["audit"]["self"]
        assert 0 < own["cpu_ns"] < each["interval_s"] * 1e9 * (os.cpu_count() or 1)
        assert own["minor"] > 0
    assert with_it["audit"]["self"]["events"] == 0
    if command != "reclaim":
        assert without["audit"]["self"]["events"] > 0
        assert [row for row in with_it["rows"] if _is_ours(row)]


def _is_ours(row: dict[str, Any]) -> bool:
    """Whether it is the memtap that wrote the report, and not one that others run."""
    return " -f json -o /dev/stdout -b process 1 1" in row["args"]


def test_the_faults_that_are_left_out_are_those_that_we_took() -> None:
    """Each of them once, whether faults are timed just then or not."""
    done = memtap("faults", "-b", "process", "-f", "json", "-o", "/dev/stdout", "0.5", "4")
    for each in reports(done.stdout):
        audit = each["audit"]["self"]
        taken = audit["minor"] + audit["major"]
        assert 0.95 * taken - 20 < audit["events"] < 1.05 * taken + 20


def test_what_is_named_is_not_left_out(workload: Build) -> None:
    """Neither a program that we run nor a process that is another memtap."""
    done = report("faults", "--", workload("toucher"), 10)
    assert [row["comm"] for row in done["rows"]] == ["toucher"]
    assert done["audit"]["self"]["events"] == 0
