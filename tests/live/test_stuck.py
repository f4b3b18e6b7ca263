"""A process whose address space nobody can look at costs its own labels, and no more."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import stuck
from tests.live.tracing import eventually, memtap, reports, slower

COMMAND = [sys.executable, stuck.__file__]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a file system is that hangs; who is stuck in it is let go when its server ends."""
    if not Path("/dev/fuse").exists():
        pytest.skip("this kernel has no FUSE")
    folder = tmp_path / "mount"
    folder.mkdir()
    with subprocess.Popen([*COMMAND, "serve", folder]) as server:
        assert eventually(folder.is_mount)
        try:
            yield folder
        finally:
            server.kill()
            subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def holders() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Those who are stuck; it is set up before the folder, so that they are ended after it."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def holder(holders: list[subprocess.Popen[bytes]], folder: Path) -> Iterator[int]:
    """A process that waits for the file system with its address space locked."""
    process = subprocess.Popen([*COMMAND, "hold", folder / "x"], stdout=subprocess.PIPE)
    holders.append(process)
    assert process.stdout and process.stdout.readline() == b"holds\n"
    assert eventually(lambda: not _can_be_read(process.pid))
    yield process.pid
    assert not _can_be_read(process.pid)  # it was stuck all the while


def _can_be_read(pid: int) -> bool:
    with subprocess.Popen(["cat", f"/proc/{pid}/maps"], stdout=subprocess.DEVNULL) as reader:
        try:
            return reader.wait(0.5) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            reader.kill()


def _timed(*arguments: object) -> subprocess.CompletedProcess[str]:
    began = time.monotonic()
    done = memtap(*arguments)
    assert time.monotonic() - began < slower(60)
    assert "Traceback" not in done.stderr
    return done


def test_reports_go_on_beside_a_process_that_is_stuck(holder: int) -> None:
    for report in ("cachetop", "faults", "malloc", "slab"):
        done = _timed(report, "-f", "json", "0.5", "2")
        assert (done.returncode, len(reports(done.stdout))) == (0, 2), done.stderr
        rows = reports(done.stdout)[0]["rows"]
        if report == "cachetop":
            row = next(row for row in rows if row["pid"] == holder)
            assert row["hits_pages"] > 0 and row["comm"].startswith("python")


def test_the_stuck_process_itself_is_traced_so_far_as_that_goes(holder: int) -> None:
    for options in (("faults", "-b", "region"), ("malloc", "--heap"), ("faults", "--stacks")):
        done = _timed(*options, "-f", "json", "-p", holder, "0.5", "1")
        assert (done.returncode, len(reports(done.stdout))) == (0, 1), done.stderr


def test_what_is_read_of_it_is_said_to_be_missing(holder: int) -> None:
    listed = _timed("ps", "-f", "json")
    report = reports(listed.stdout)[0]
    row = next(row for row in report["rows"] if row["pid"] == holder)
    assert row["pss_bytes"] is None and row["res_bytes"] > 0
    assert report["audit"]["accuracy"] == "bounded"
    shown = _timed("pmap", holder)
    assert shown.returncode == 1
    assert shown.stderr.splitlines()[0] == f"memtap: process {holder} did not let itself be read"
    assert len(shown.stderr.splitlines()) == 2


def test_reports_go_on_beside_many_that_are_stuck(
    holders: list[subprocess.Popen[bytes]], holder: int, folder: Path
) -> None:
    for length in range(2, 22):
        command = [*COMMAND, "hold", folder / ("x" * length)]
        holders.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    assert eventually(lambda: not any(_can_be_read(each.pid) for each in holders))
    pids = {row["pid"] for row in reports(_timed("ps", "-f", "json").stdout)[0]["rows"]}
    assert pids >= {os.getpid(), holder}
