"""pmap --tables: a process whose page tables are known, against that and VmPTE."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from memtap.tracers.ps.columns import TABLES
from memtap.tracers.ps.tables import report
from tests.live.tracing import PAGE, WORKLOADS, Row, memtap, reports

POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
HUGE = 2 << 20


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """One more of hugetlbfs, where there can be, and while memory lasts."""
    most = POOL / "nr_overcommit_hugepages"
    before = most.read_text() if most.exists() else ""
    if before:
        most.write_text("64")
    yield
    if before:
        most.write_text(before)


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    program = tmp_path / "tables"
    subprocess.check_call(["cc", "-O1", "-static", "-o", program, WORKLOADS / "tables.c"])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([program], text=True, **pipes) as process:  # type: ignore[call-overload]
        process.stdout.readline()
        yield process
        process.kill()


def step(process: subprocess.Popen[str]) -> bool:
    """Has it take a step; whether it could."""
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline() == "1\n"


def vm_pte(pid: int) -> int:
    """What the kernel says that all tables take, in bytes."""
    found = re.search(r"\nVmPTE:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


def huge_bytes(pid: int) -> int:
    """What is mapped by huge pages that are not of hugetlbfs."""
    fields = re.findall(
        r"\n(?:AnonHugePages|ShmemPmdMapped): +(\d+)", Path(f"/proc/{pid}/smaps").read_text()
    )
    return sum(map(int, fields)) << 10


def look(pid: int) -> dict[str, Row]:
    found = report(pid, TABLES)
    assert found.audit["accuracy"] == "exact"
    assert found.audit["kernel"] == {"VmPTE": vm_pte(pid) >> 10}
    assert sum(row["size_bytes"] for row in found.rows) == vm_pte(pid)
    assert all(row["size_bytes"] == PAGE * row["tables"] >= 0 for row in found.rows)
    return {row["level"]: row for row in found.rows}


def change(pid: int, before: dict[str, Row]) -> dict[str, int]:
    """How many tables of each level came, without those of which none did."""
    after = look(pid)
    changes = {name: row["tables"] - before[name]["tables"] for name, row in after.items()}
    before.update(after)
    return {name: count for name, count in changes.items() if count}


def test_each_level_has_the_tables_that_were_made(
    tables: subprocess.Popen[str], huge_pages: None
) -> None:
    pid = tables.pid
    seen = look(pid)

    assert step(tables)
    made = change(pid, seen)
    assert made.pop("pud", 0) in (0, 1)  # for 512 GiB, so that others may have made it
    assert made == {"pte": 14, "pmd": 3}

    assert step(tables)
    assert change(pid, seen) == {"pte": -4, "empty": 4}

    step(tables)
    assert change(pid, seen) == {"pte": 1}, "a huge page of private memory has a table in reserve"
    assert seen["pte"]["saved_bytes"] == 0

    assert step(tables)
    assert change(pid, seen) == {"pte": 1}

    private = huge_bytes(pid)
    if step(tables) and huge_bytes(pid) == private + HUGE:
        assert change(pid, seen) == {"pte": -1}
        assert seen["pte"]["saved_bytes"] == PAGE

    saved = seen["pte"]["saved_bytes"]
    if step(tables):
        assert change(pid, seen) == {}
        assert seen["pte"]["saved_bytes"] == saved + PAGE


def test_the_command_says_the_same(tables: subprocess.Popen[str]) -> None:
    step(tables)
    done = memtap("pmap", tables.pid, "--tables", "-f", "json")
    (found,) = reports(done.stdout)
    assert {row["level"]: row for row in found["rows"]} == look(tables.pid)
