"""How long page faults took, and which had to wait: workloads that know it themselves."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.live.tracing import Row, make_file, memtap, reports, scaled

Build = Callable[[str], Path]

FILE_PAGES = scaled(4000)
READAHEAD_SECTORS = 64  # eight pages, so that a scan has to wait often
MIXES = scaled(15)
SEED = 20


def traced(folder: Path, by: str, *program: object) -> tuple[str, dict[str, Any]]:
    """What a program printed, and the report of its faults."""
    how = ["-b", by, "-f", "json", "-o", folder / "report"]
    done = memtap("faults", *how, "--", *map(str, program))
    assert done.returncode == 0, done.stderr
    (report,) = reports((folder / "report").read_text())
    assert report["audit"]["lost"] == report["audit"]["missed"] == 0
    return done.stdout, report


@pytest.fixture(scope="module")
def slow_file(disk: Path) -> Iterator[Path]:
    """A file on a loop device of little readahead, which the disk is read for.

    What the page cache has of its image a loop device gives at once, on one CPU before whoever
    asked for it runs on: then nobody waits.
    """
    image, folder = make_file(disk / "image", 2 * FILE_PAGES + 8192), disk / "mounted"
    folder.mkdir()
    with ExitStack() as undo:
        try:
            subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
            found = subprocess.run(
                ["losetup", "-f", "--show", "--direct-io=on", image],
                check=True,
                capture_output=True,
                text=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no loop device: {error}")
        device = found.stdout.strip()
        undo.callback(subprocess.run, ["losetup", "-d", device])
        subprocess.check_call(["blockdev", "--setra", str(READAHEAD_SECTORS), device])
        subprocess.check_call(["mount", device, folder])
        undo.callback(subprocess.run, ["umount", folder])
        yield make_file(folder / "file", FILE_PAGES)


@pytest.mark.parametrize(
    "how",
    [("seq", "read"), ("rand", "read"), ("willneed", "read"), ("seq", "write"), ("seq", "private")],
    ids="-".join,
)
def test_whoever_waits_for_a_page_that_is_being_read_is_told_apart(
    how: tuple[str, str], slow_file: Path, workload: Build, tmp_path: Path
) -> None:
    printed, report = traced(tmp_path, "file,cause", workload("waiter"), "file", slow_file, *how)
    minor, waited, *major, waited_ns, _ = map(int, printed.split())
    rows = {row["cause"]: row for row in report["rows"] if row["path"] == str(slow_file)}
    waits = rows.pop("file-wait", {"minor": 0, "major": 0, "total": 0, "timed": 0, "time_ns": 0})
    # The workload knows by leaving its CPU, which the rare one did that waited for a lock.
    assert waited - 2 <= waits["minor"] <= waited
    assert waits["total"] == waits["minor"]
    assert sum(row["minor"] for row in rows.values()) == minor + waited - waits["minor"]
    assert sum(row["major"] for row in rows.values()) == sum(major)
    assert rows["file-read"]["major"] == rows["file-read"]["total"] == sum(major)
    # One that ends a streak of others has no beginning.
    assert waits["timed"] >= 0.95 * waited
    assert 0.9 * waited_ns <= waits["time_ns"] <= waited_ns


def test_a_sequential_scan_does_wait(slow_file: Path, workload: Build) -> None:
    """Or the test above is about nothing."""
    program = [workload("waiter"), "file", slow_file, "seq", "read"]
    _, waited, *_ = map(int, subprocess.check_output(program, text=True).split())
    assert waited > FILE_PAGES / 100


def test_slow_faults_beside_a_storm_take_their_time_and_no_more(
    workload: Build, tmp_path: Path
) -> None:
    pages, us = scaled(300), 1000
    printed, report = traced(
        tmp_path, "thread", workload("waiter"), "slow", pages, us, scaled(60_000)
    )
    slow_ns, both_ns = map(int, printed.split())
    rows = sorted(report["rows"], key=lambda row: -row["time_ns"])
    slow = next(row for row in rows if pages <= row["total"] < pages + 300)
    storm = next(row for row in rows if row["total"] >= scaled(60_000))
    assert pages * us * 1000 <= slow["time_ns"] <= slow_ns * 1.02
    assert storm["time_ns"] <= both_ns
    assert storm["timed"] < storm["total"]


def test_a_child_that_copies_what_it_was_born_with_is_timed(
    workload: Build, tmp_path: Path
) -> None:
    pages = scaled(40_000)
    printed, report = traced(tmp_path, "process,cause", workload("waiter"), "fork", pages)
    child, faults, ran_ns, took_ns = map(int, printed.split())
    rows: dict[str, Row] = {row["cause"]: row for row in report["rows"] if row["pid"] == child}
    assert pages <= rows["cow"]["total"] <= faults + 100
    assert rows["cow"]["timed"] > 100
    assert 0.2 * ran_ns < rows["cow"]["time_ns"] < 1.02 * took_ns


def test_no_process_takes_longer_for_faults_than_its_threads_lived(
    workload: Build, tmp_path: Path
) -> None:
    printed, report = traced(tmp_path, "process", workload("waiter"), "mixes", MIXES, SEED)
    lived = {int(pid): int(ns) for pid, ns in map(str.split, printed.splitlines())}
    rows = {row["pid"]: row for row in report["rows"] if row["pid"] in lived}
    assert rows.keys() == lived.keys()
    for pid, row in rows.items():
        assert (row["time_ns"] is None) == (row["timed"] == 0)
        assert row["time_ns"] is None or row["time_ns"] <= lived[pid]
    assert any(row["time_ns"] for row in rows.values())


def test_no_note_speaks_of_faults_that_the_next_interval_has(
    workload: Build, tmp_path: Path
) -> None:
    """Each exec has one fault without an exception, and the workload has no others."""
    how = ["-f", "json", "-o", tmp_path / "report"]
    program = [workload("waiter"), "rounds", "2000", str(scaled(30))]
    done = memtap("faults", "0.05", *how, "--", *program)
    assert done.returncode == 0, done.stderr
    said, counted = Counter[str](), Counter[str]()
    for report in reports((tmp_path / "report").read_text()):
        counted["kernel"] += report["audit"]["kernel"]["ac_minflt"]
        counted["seen"] += sum(row["minor"] for row in report["rows"])
        notes = (note.split() for note in report["audit"]["notes"] if "ac_minflt" in note)
        said.update({"minor": sum(int(words[0]) for words in notes)})
    assert said["minor"] == counted["kernel"] - counted["seen"] <= 4
