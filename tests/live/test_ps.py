"""ps and pmap: processes that have stopped, whose sizes are known; and what others say of them."""

from __future__ import annotations

import ctypes as ct
import os
import platform
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.tracing import (
    PAGE,
    WORKLOADS,
    Row,
    eventually,
    make_file,
    memtap,
    reporting,
    reports,
)

FILE_PAGES = 307
# As in tests/workloads/holder.c.
PRIVATE, TOUCHED, MORE, SHARED, WRITTEN, STACK = 397, 101, 97, 211, 53, 31

Sums = dict[str, int]


@dataclass
class Held:
    """A running tests/workloads/holder.c: what it printed, addresses as numbers."""

    pid: int
    private: int
    shared: int
    read: int
    written: int
    thread: int
    child: int

    def go_on(self) -> None:
        """Lets it touch MORE pages."""
        os.kill(self.pid, signal.SIGCONT)
        assert eventually(lambda: has_stopped(self.pid))


def has_stopped(pid: int) -> bool:
    """Whether all of its threads have, and /proc tells of memory that stands still."""
    tasks = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(task.read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)


@pytest.fixture
def file(disk: Path) -> Path:
    return make_file(disk / "held", FILE_PAGES)


@pytest.fixture(scope="module")
def holder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without shared libraries, whose PSS changes whenever any other process begins or ends."""
    program = tmp_path_factory.mktemp("holder") / "holder"
    subprocess.check_call(["cc", "-O1", "-static", "-o", program, WORKLOADS / "holder.c"])
    return program


@pytest.fixture
def held(file: Path, holder: Path) -> Iterator[Held]:
    with subprocess.Popen([holder, file], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        *addresses, child = process.stdout.readline().split()
        assert eventually(lambda: has_stopped(process.pid))
        os.kill(int(child), signal.SIGSTOP)
        assert eventually(lambda: has_stopped(int(child)))
        yield Held(process.pid, *(int(address, 16) for address in addresses), int(child))
        process.kill()


def rows_of(*arguments: str) -> list[Row]:
    done = memtap(*arguments, "-f", "json")
    assert done.returncode == 0, done.stderr
    (report,) = reports(done.stdout)
    rows: list[Row] = report["rows"]
    return rows


def process_row(pid: int) -> Row:
    (row,) = rows_of("ps", "-p", str(pid))
    return row


def mapping(pid: int, address: int) -> Row:
    (row,) = (row for row in rows_of("pmap", str(pid)) if row["start"] <= address < row["end"])
    return row


def sizes(row: Row) -> list[float]:
    """SIZE, RSS, PSS, USS and DIRTY in pages."""
    names = ("size_bytes", "rss_bytes", "pss_bytes", "uss_bytes", "dirty_bytes")
    return [row[name] / PAGE for name in names]


def resident_bytes(pid: int) -> int:
    """As top has it; not all kernels add up here what their CPUs and threads keep to themselves."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def smaps_sums(pid: int) -> Sums:
    """The sums over /proc/PID/smaps, by the name of the field, in bytes."""
    sums: Sums = {}
    for name, kib in re.findall(
        r"^(\w+): +(\d+) kB$", Path(f"/proc/{pid}/smaps").read_text(), re.M
    ):
        sums[name] = sums.get(name, 0) + int(kib) * 1024
    return sums


# What is known of the workload.


def test_private_memory_is_what_was_touched(held: Held) -> None:
    row = mapping(held.pid, held.private)
    assert sizes(row) == [PRIVATE, TOUCHED, TOUCHED, TOUCHED, TOUCHED]
    assert (row["start"], row["mode"], row["region"]) == (held.private, "rw---", "anon")
    assert row["mapping"] == "[anon]"


def test_what_two_processes_share_is_half_in_each_pss_and_in_no_uss(held: Held) -> None:
    for pid in (held.pid, held.child):
        row = mapping(pid, held.shared)
        assert sizes(row) == [SHARED, SHARED, SHARED / 2, 0, SHARED]
        assert (row["mode"], row["region"]) == ("rw-s-", "shm")
        assert row["mapping"] == "/dev/zero (deleted)"


def test_a_mapped_file_is_shared_by_two_mappings_of_one_process(held: Held, file: Path) -> None:
    """Pages that were copied on write are its own; the others are mapped twice, and so halved."""
    row = mapping(held.pid, held.read)
    both = FILE_PAGES - WRITTEN
    assert sizes(row) == [FILE_PAGES, FILE_PAGES, WRITTEN + both / 2, WRITTEN, 0]
    assert (row["mode"], row["region"], row["mapping"]) == ("r----", "file", str(file))
    row = mapping(held.pid, held.written)
    assert sizes(row) == [FILE_PAGES, FILE_PAGES, WRITTEN + both / 2, WRITTEN, WRITTEN]
    assert (row["mode"], row["region"], row["mapping"]) == ("rw---", "data", str(file))


def test_the_stack_of_a_thread_is_told(held: Held) -> None:
    row = mapping(held.pid, held.thread)
    assert row["region"] == "thread-stack"
    assert row["rss_bytes"] >= STACK * PAGE
    assert [row["region"] for row in rows_of("pmap", str(held.pid))].count("thread-stack") == 1


def test_what_was_touched_meanwhile_is_the_change(held: Held, tmp_path: Path) -> None:
    out, before = tmp_path / "out", resident_bytes(held.pid)
    with reporting(out, "ps", "0.2", "-p", held.pid, "-f", "json") as process:
        held.go_on()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    found = reports(out.read_text())
    rows = [row for report in found for row in report["rows"]]
    for name in ("pss_bytes", "uss_bytes"):
        assert sum(row[name] for row in rows) == MORE * PAGE
    assert sum(row["res_bytes"] for row in rows) == resident_bytes(held.pid) - before
    assert sum(row["minor"] for row in rows) == MORE
    assert {row["virt_bytes"] for row in rows} == {0}
    assert all(report["interval_s"] > 0 for report in found)


# What others say of the same process.


def test_ps_is_the_sum_of_smaps(held: Held) -> None:
    row, sums = process_row(held.pid), smaps_sums(held.pid)
    # Every process has the page of [vsyscall] at the same address, and no process is charged it.
    maps = Path(f"/proc/{held.pid}/maps").read_text()
    assert row["virt_bytes"] == sums["Size"] - PAGE * maps.count("[vsyscall]")
    assert row["res_bytes"] == resident_bytes(held.pid)
    assert row["uss_bytes"] == sums["Private_Clean"] + sums["Private_Dirty"]
    assert row["swap_bytes"] == sums["Swap"]
    # smaps cuts the PSS of each mapping to whole KiB, the rollup only their sum.
    mappings = len(rows_of("pmap", str(held.pid)))
    assert 0 <= row["pss_bytes"] - sums["Pss"] < mappings * 1024


def test_pmap_adds_up_to_smaps(held: Held) -> None:
    rows, sums = rows_of("pmap", str(held.pid), "--wide"), smaps_sums(held.pid)
    fields = {
        "size_bytes": ["Size"],
        "rss_bytes": ["Rss"],
        "pss_bytes": ["Pss"],
        "uss_bytes": ["Private_Clean", "Private_Dirty", "Private_Hugetlb"],
        "dirty_bytes": ["Shared_Dirty", "Private_Dirty"],
        "swap_bytes": ["Swap"],
        "huge_bytes": ["AnonHugePages", "ShmemPmdMapped", "FilePmdMapped"],
    }
    for name, of in fields.items():
        assert sum(row[name] for row in rows) == sum(sums[field] for field in of), name


@pytest.mark.skipif(shutil.which("smem") is None, reason="smem is not installed")
def test_ps_is_what_smem_says(held: Held) -> None:
    listed = subprocess.check_output(["smem", "-H", "-c", "pid rss uss pss swap"], text=True)
    lines = {int(line.split()[0]): list(map(int, line.split()[1:])) for line in listed.splitlines()}
    rss, uss, pss, swap = (kib * 1024 for kib in lines[held.pid])
    row = process_row(held.pid)
    assert (row["uss_bytes"], row["swap_bytes"]) == (uss, swap)
    assert sum(row["rss_bytes"] for row in rows_of("pmap", str(held.pid))) == rss
    assert 0 <= row["pss_bytes"] - pss < len(rows_of("pmap", str(held.pid))) * 1024


@pytest.mark.skipif(shutil.which("top") is None, reason="top (procps) is not installed")
def test_ps_is_what_top_says(held: Held) -> None:
    # Without settings of the user's, and with sizes in KiB.
    env = {**os.environ, "HOME": "/nonexistent", "XDG_CONFIG_HOME": "/nonexistent"}
    words = ["top", "-b", "-n1", "-w", "200", "-E", "k", "-e", "k", "-p", str(held.pid)]
    said = subprocess.check_output(words, text=True, env=env).splitlines()
    heading, line = [each for each in said if each.strip()][-2:]
    says = dict(zip(heading.split(), line.split(), strict=True))
    row = process_row(held.pid)
    ours = [row[name] // 1024 for name in ("virt_bytes", "res_bytes", "shr_bytes")]
    assert ours == [int(says[name]) for name in ("VIRT", "RES", "SHR")]
    assert (row["user"], row["comm"]) == (says["USER"], says["COMMAND"])


@pytest.mark.skipif(shutil.which("pmap") is None, reason="pmap (procps) is not installed")
def test_pmap_is_what_pmap_says(held: Held) -> None:
    said = subprocess.check_output(["pmap", "-x", str(held.pid)], text=True).splitlines()
    theirs = [line.split()[:5] for line in said if re.match("[0-9a-f]{16} ", line)]
    table = memtap("pmap", "-x", str(held.pid)).stdout.splitlines()
    assert table[0].split() == said[1].split()
    ours = [line.split()[:5] for line in table[1:-2]]
    assert [[int(line[0], 16), *line[1:]] for line in ours] == [
        [int(line[0], 16), *line[1:]] for line in theirs
    ]
    assert table[-1].split()[:3] == said[-1].split()[2:5]


def unaccounted() -> tuple[float, float]:
    """How far the sum of PSS is from what the host has mapped, and how far it may be, in bytes."""
    report = reports(memtap("ps", "-f", "json").stdout)[0]
    host = 1024 * (report["audit"]["kernel"]["AnonPages"] + report["audit"]["kernel"]["Mapped"])
    known = sum(row["pss_bytes"] or 0 for row in report["rows"])
    hidden = sum(row["res_bytes"] for row in report["rows"] if row["pss_bytes"] is None)
    held_back = 2 * 125 * PAGE * (os.cpu_count() or 1)
    low, high = known, known + hidden
    return max(low - host, host - high, 0), held_back + 0.02 * host


def test_all_pss_together_is_what_the_host_has_mapped(held: Held) -> None:
    """AnonPages + Mapped counts each page once that any process maps, and so does the sum of PSS.

    Tolerance: of each number in /proc/meminfo every CPU may hold back 125 pages (MAX_THRESHOLD in
    mm/vmstat.c); 2 % for what changes while one process after the other is read. Of a process that
    we may not read, at most its RES is missing. Others may begin or end right then, so one of
    several looks has to be like this.
    """

    def agrees() -> bool:
        distance, allowed = unaccounted()
        return distance <= allowed

    assert eventually(agrees), unaccounted()


# Memory nodes.

MOVE_PAGES = {"x86_64": 279, "aarch64": 239}


def nodes_of(pid: int, start: int, count: int) -> Counter[int]:
    """How many of these pages are in each node, by move_pages(2), which moves none if not told to.

    For pages that are not in memory it has an error.
    """
    pages = (ct.c_void_p * count)(*(start + at * PAGE for at in range(count)))
    status = (ct.c_int * count)()
    number = MOVE_PAGES[platform.machine()]
    assert ct.CDLL(None).syscall(number, pid, ct.c_ulong(count), pages, None, status, 0) == 0
    return Counter(node for node in status if node >= 0)


def by_node(rows: list[Row]) -> Counter[int]:
    """Pages in each node."""
    sums: Counter[int] = Counter()
    for row in rows:
        sums[row["node"]] += row["mapped_bytes"] // PAGE
    return sums


def test_pages_are_in_the_nodes_that_move_pages_says(held: Held) -> None:
    pid = str(held.pid)
    if not Path("/proc/self/numa_maps").exists():
        done = memtap("ps", "--numa", "-p", pid)
        assert (done.returncode, "CONFIG_NUMA" in done.stderr) == (1, True)
        return
    rows = rows_of("pmap", pid, "--numa")
    for address, count, touched in (
        (held.private, PRIVATE, TOUCHED),
        (held.shared, SHARED, SHARED),
    ):
        found = by_node([row for row in rows if row["start"] == address])
        assert found == nodes_of(held.pid, address, count)
        assert found.total() == touched
    assert by_node(rows_of("ps", "-p", pid, "--numa")) == by_node(rows)
    # The kernel leaves out pages of its own, as those of [vdso].
    mapped = [row for row in rows_of("pmap", pid) if row["region"] != "vdso"]
    assert by_node(rows).total() * PAGE == sum(row["rss_bytes"] for row in mapped)
