"""Several tracers in one run: each says what it says alone, and what is true."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_schema import validator
from tests.live.tracing import PAGE, evict, make_file, memtap, reports

PAGES, TOUCHED = 500, 3000

# Reads a file by pread, touches memory of its own, and says what the kernel counted of it.
PROGRAM = f"""
import mmap, os, resource, sys
file = os.open(sys.argv[1], os.O_RDONLY)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
for at in range({PAGES}):
    os.pread(file, {PAGE}, at * {PAGE})
memory = mmap.mmap(-1, {TOUCHED} * {PAGE})
memory.madvise(mmap.MADV_NOHUGEPAGE)
for at in range({TOUCHED}):
    memory[at * {PAGE}] = 1
sys.exit(7)
"""


@pytest.fixture
def file(disk: Path) -> Path:
    return make_file(disk / "read", PAGES)


def by_name(text: str) -> dict[str, dict[str, Any]]:
    found = reports(text)
    named = {report["report"]: report for report in found}
    assert len(named) == len(found)
    return named


def test_one_run_answers_for_all_of_them(file: Path) -> None:
    evict(file)
    names = "faults,malloc,cachetop,slab,reclaim"
    done = memtap("run", "-t", names, "-f", "json", "--", sys.executable, "-c", PROGRAM, file)
    assert (done.returncode, done.stderr) == (7, "")
    found = by_name(done.stdout)
    assert ",".join(found) == names
    for name, report in found.items():
        validator(name).validate(report)
        assert report["audit"]["lost"] == report["audit"]["missed"] == 0
    (faults,) = found["faults"]["rows"]
    counted = found["faults"]["audit"]["kernel"]
    assert faults["minor"] == counted["ac_minflt"] >= TOUCHED
    assert faults["major"] == counted["ac_majflt"]
    (cache,) = found["cachetop"]["rows"]
    assert cache["misses_pages"] >= PAGES
    (malloc,) = found["malloc"]["rows"]
    assert malloc["faults"] == faults["total"]
    assert {row["pid"] for name in ("faults", "malloc") for row in found[name]["rows"]} == {
        cache["pid"]
    }


def test_reports_of_all_come_at_the_end_of_each_interval() -> None:
    done = memtap("run", "-t", "cachestat,pages,faults", "-f", "json", "0.5", "3")
    found = reports(done.stdout)
    assert [report["report"] for report in found] == ["cachestat", "pages", "faults"] * 3
    assert [report["audit"]["lost"] for report in found] == [0] * 9


def test_what_is_recorded_can_be_shown_by_each_and_by_all(tmp_path: Path, file: Path) -> None:
    folder = tmp_path / "kept"
    command = [sys.executable, "-c", PROGRAM, file]
    done = memtap("run", "-t", "faults,slab", "-f", "json", "--record", folder, "--", *command)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(os.listdir(folder)) == ["faults.parquet", "slab.parquet"]
    again = memtap("run", "-t", "faults,slab,oom", "-f", "json", "--from", folder)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == done.stdout
    alone = memtap("faults", "-f", "json", "--from", folder)
    assert json.loads(alone.stdout) == by_name(done.stdout)["faults"]
    none = memtap("oom", "--from", folder)
    assert none.returncode == 1
    assert none.stderr.splitlines()[0] == f"memtap: nothing at {folder} was recorded for oom"


def test_a_replay_shows_all_that_was_recorded_and_a_folder_holds_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    memtap("run", "-t", "faults,oom,slab", "--record", folder, "--", "true")
    assert kinds(memtap("run", "-f", "json", "--from", folder)) == ["faults", "slab", "oom"]
    assert kinds(memtap("run", "-f", "json", "--from", folder / "oom.parquet")) == ["oom"]
    done = memtap("run", "-t", "slab,pages", "--record", folder, "--", "true")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2] == (
        f"memtap: {folder} holds what another run recorded: faults.parquet, oom.parquet"
    )


def kinds(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [json.loads(line)["report"] for line in done.stdout.splitlines()]


def test_tables_have_their_names_above_them() -> None:
    done = memtap("run", "-t", "pages,cachestat", "0.2", "1")
    titles = [line for line in done.stdout.splitlines() if line.endswith(":")]
    assert titles == ["pages:", "cachestat:"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-t", "nope"], "'nope' is none of cachestat"),
        (["-f", "csv"], "CSV has one header: name one tracer"),
        (["--record", "/proc/version"], "/proc/version is no folder"),
    ],
)
def test_what_cannot_be_run_is_said(arguments: list[str], said: str) -> None:
    done = memtap("run", *arguments, "--", "/bin/true")
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_stays_attached_and_sigterm_ends_it() -> None:
    command = [sys.executable, "-m", "memtap", "run", "-t", "faults,pages,reclaim", "-f", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        assert run.stdout.readline()
        run.terminate()
        rest = run.stdout.read()
    assert run.returncode == 0
    assert {report["report"] for report in reports(rest)} == {"faults", "pages", "reclaim"}
