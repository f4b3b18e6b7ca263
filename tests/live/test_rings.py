"""Rings that are full, and CPUs that come and go: sums stay what they are."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.live.tracing import eventually, make_file, reporting, reports

Build = Callable[[str], Path]

CPU = max(os.sched_getaffinity(0))
_ONLINE = Path(f"/sys/devices/system/cpu/cpu{CPU}/online")
comes_and_goes = pytest.mark.skipif(
    not (CPU and os.access(_ONLINE, os.W_OK)), reason=f"{_ONLINE} cannot be written to"
)

STARTING = 400  # faults of a program that starts and ends, at most

# memtap, with rings that are soon full.
_SMALL = """
import sys
from memtap.bpf import session
from memtap.cli.main import main
session.ring_bytes = lambda cpus: 128 << 10
sys.exit(main())
"""


@pytest.fixture
def small_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.live.tracing.MEMTAP", [sys.executable, "-c", _SMALL])


@contextmanager
def offline() -> Iterator[None]:
    _ONLINE.write_text("0")
    try:
        yield
    finally:
        _ONLINE.write_text("1")


@pytest.fixture(scope="module")
def flood(workload: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workload, by a name that nobody else has."""
    return shutil.copy(workload("flood"), tmp_path_factory.mktemp("flood") / f"flood{os.getpid()}")


def on_cpu(*command: object) -> int:
    """Runs a program on that CPU alone; the number that it prints."""
    words = ["taskset", "-c", str(CPU), *map(str, command)]
    return int(subprocess.check_output(words))


def ended(process: subprocess.Popen[str], out: Path) -> list[dict[str, Any]]:
    """Ends a run; all of its reports."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    return reports(out.read_text())


def total(found: list[dict[str, Any]], *columns: str) -> int:
    return sum(row[name] or 0 for report in found for row in report["rows"] for name in columns)


def audited(found: list[dict[str, Any]], field: str) -> int:
    return sum(report["audit"][field] for report in found)


def tracing(out: Path, flood: Path, command: str, *options: object) -> Any:
    return reporting(out, command, "-c", flood.name, "-f", "json", "0.2", *options)


@comes_and_goes
def test_a_cpu_that_came_back_is_traced_from_its_first_event(flood: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with tracing(out, flood, "faults") as process:
        with offline():
            pass
        on_cpu(flood, "faults", 20_011)
        found = ended(process, out)
    assert 20_011 <= total(found, "total") <= 20_011 + STARTING
    assert audited(found, "lost") == 0


@comes_and_goes
def test_a_cpu_that_was_offline_when_tracing_began(flood: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = make_file(tmp_path / "file", 100)
    with offline():
        traced = tracing(out, flood, "cachetop", "-b", "file")
        process = traced.__enter__()
    try:
        on_cpu(flood, "reads", 30_011, file)
        found = ended(process, out)
    finally:
        traced.__exit__(None, None, None)
    rows = [row for report in found for row in report["rows"] if row["path"] == str(file)]
    assert sum(row["hits_pages"] + row["misses_pages"] for row in rows) in (0, 30_011)  # on tmpfs
    assert audited(found, "lost") == 0


@comes_and_goes
def test_what_a_cpu_held_when_it_went_is_told(flood: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with tracing(out, flood, "faults") as process:
        on_cpu(flood, "faults", 5003)
        with offline():
            found = ended(process, out)
    assert 5003 <= total(found, "total") <= 5003 + STARTING


@pytest.mark.usefixtures("small_rings")
@pytest.mark.parametrize("by", ["process", "region,cause"])
def test_faults_that_the_rings_have_no_room_for_are_counted(
    by: str, flood: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with tracing(out, flood, "faults", "-b", by) as process:
        process.send_signal(signal.SIGSTOP)
        storm = [flood, "faults", "50021"]
        two = [subprocess.Popen(storm, stdout=subprocess.DEVNULL) for _ in range(2)]
        assert [each.wait() for each in two] == [0, 0]
        process.send_signal(signal.SIGCONT)
        found = ended(process, out)
    assert 2 * 50_021 <= total(found, "total") <= 2 * (50_021 + STARTING)
    assert total(found, "minor") + total(found, "major") == total(found, "total")
    assert audited(found, "lost") == 0
    notes = [note for report in found for note in report["audit"]["notes"]]
    assert any("only added up" in note for note in notes)
    assert any(report["audit"]["accuracy"] != "exact" for report in found)


@pytest.mark.usefixtures("small_rings")
def test_reads_that_the_rings_have_no_room_for_are_counted(
    flood: Path, disk: Path, tmp_path: Path
) -> None:
    """Of a file with fresh pages, so that each read is an event."""
    out, file = tmp_path / "out", make_file(disk / "flooded", 3000)
    count = 100_003
    with tracing(out, flood, "cachetop", "-b", "file") as process:
        process.send_signal(signal.SIGSTOP)
        fd = os.open(file, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        subprocess.check_call([flood, "reads", str(count), file], stdout=subprocess.DEVNULL)
        time.sleep(0.1)
        process.send_signal(signal.SIGCONT)
        assert eventually(lambda: str(file) in out.read_text())
        found = ended(process, out)
    rows = [row for report in found for row in report["rows"] if row["path"] == str(file)]
    assert sum(row["hits_pages"] + row["misses_pages"] for row in rows) == count
    assert audited(found, "lost") == 0


@pytest.mark.usefixtures("small_rings")
@pytest.mark.parametrize(("what", "calls"), [("maps", 2), ("moves", 3)])
def test_calls_that_the_rings_have_no_room_for_are_lost_in_calls(
    what: str, calls: int, flood: Path, tmp_path: Path
) -> None:
    out, count = tmp_path / "out", 20_011
    with tracing(out, flood, "malloc") as process:
        process.send_signal(signal.SIGSTOP)
        subprocess.check_call([flood, what, str(count)], stdout=subprocess.DEVNULL)
        process.send_signal(signal.SIGCONT)
        found = ended(process, out)
    counted = total(found, "calls") + audited(found, "lost")
    assert calls * count <= counted <= calls * count + 1000
