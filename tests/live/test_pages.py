"""pages against programs that take a known number of pages, and against the kernel's own count."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.tracing import Row, eventually, memtap, reporting, reports

Build = Callable[[str], Path]

# Pages that a page table of the lowest level is for.
TABLE = 512
# By chance a mapping begins in the middle of a table, and its tables have a table.
MORE_TABLES = 3
# What start and end of a program take differs by so many pages from run to run.
CHANCE = 64
# So many folios wait on a CPU to be put on an LRU (PAGEVEC_SIZE); whoever empties it frees them.
BATCH = 31


def traced(program: list[str], by: str) -> list[Row]:
    """The rows of a program's report."""
    with tempfile.NamedTemporaryFile() as file:
        done = memtap("pages", "-b", by, "-f", "json", "-o", file.name, "--", *program)
        assert done.returncode == 0, done.stderr
        (report,) = reports(Path(file.name).read_text())
    # An interrupt that takes pages just while another's are counted is missed, and said to be.
    assert (report["audit"]["lost"], report["audit"]["map_full"]) == (0, 0)
    assert report["audit"]["missed"] <= CHANCE
    rows: list[Row] = report["rows"]
    return rows


def blocks(program: list[str]) -> dict[int, tuple[int, int]]:
    """Blocks of each order that a program took and gave back."""
    rows = traced(program, "order")
    return {row["order"]: (row["allocs"], row["frees"]) for row in rows}


# Its pages stay its own until it gives them back: locked, else reclaim takes and frees some.
TOUCHES = """
import ctypes, mmap, os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
assert ctypes.CDLL(None).mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0
pages = 40_000
input()
block = mmap.mmap(-1, pages * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block.madvise(mmap.MADV_NOHUGEPAGE)
block[:: 4096] = bytes(pages)
print(1, flush=True)
input()
block.close()
print(2, flush=True)
input()
"""
PAGES = 40_000


def counted(out: Path) -> tuple[int, int]:
    """Allocs and frees of order 0 in all reports so far."""
    rows = [row for report in reports(out.read_text()) for row in report["rows"]]
    return sum(row["allocs"] for row in rows), sum(row["frees"] for row in rows)


def test_each_page_that_is_touched_was_handed_out_and_comes_back(tmp_path: Path) -> None:
    out, pipe = tmp_path / "report", subprocess.PIPE
    command = ["/usr/bin/python3", "-c", TOUCHES]
    most = PAGES + PAGES // TABLE + MORE_TABLES + CHANCE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0) as program:
        assert program.stdin and program.stdout
        how = ["-p", program.pid, "-b", "process,order", "-f", "json"]
        with reporting(out, "pages", "0.2", *how):
            program.stdin.write(b"\n")
            program.stdout.readline()
            assert eventually(lambda: counted(out)[0] >= PAGES)
            allocs, frees = counted(out)
            assert (allocs <= most, frees <= CHANCE) == (True, True), (allocs, frees)
            program.stdin.write(b"\n")
            program.stdout.readline()
            assert eventually(lambda: counted(out)[1] >= PAGES - BATCH)
            allocs, frees = counted(out)
            assert (allocs <= most, frees <= most) == (True, True), (allocs, frees)
        program.kill()


def test_a_huge_page_is_a_block_of_order_9(workload: Build) -> None:
    touching = str(workload("faulter")), "thp"
    less, more = blocks([*touching, "1"]), blocks([*touching, "20"])
    assert more[9][0] - less[9][0] == 19
    assert more[9][1] - less[9][1] == 19


def test_a_process_has_what_it_took(workload: Build) -> None:
    rows = traced([str(workload("faulter")), "anon", "20000"], "process")
    (row,) = [row for row in rows if row["comm"] == "faulter"]
    assert 20_000 <= row["allocs"] <= 20_000 + 20_000 // TABLE + 1000
    assert row["allocated_bytes"] == pytest.approx(row["allocs"] * 4096, rel=0.1)
    assert row["live_bytes"] <= 1000 * 4096  # it has ended


def test_what_is_touched_is_movable(workload: Build) -> None:
    rows = traced([str(workload("faulter")), "anon", "20000"], "migratetype")
    by_type = {row["migratetype"]: row for row in rows}
    assert 20_000 <= by_type["movable"]["allocs"] <= 20_000 + 1000
    assert by_type["movable"]["free_bytes"] > 0
    assert by_type["?"]["allocs"] == 0  # frees do not tell their type


def test_the_host_is_counted_as_the_kernel_counts_it(workload: Build, tmp_path: Path) -> None:
    out = tmp_path / "report"
    with reporting(out, "pages", "0.3", "-f", "json") as process:
        done = memtap("pages", "-f", "json", "--", workload("faulter"), "anon", "30000")
        assert done.returncode == 0
        process.terminate()
        process.wait()
    found = reports(out.read_text())
    ours = sum(row["allocs"] << row["order"] for report in found for row in report["rows"])
    back = sum(row["frees"] << row["order"] for report in found for row in report["rows"])
    kernel = [report["audit"]["kernel"] for report in found]
    theirs = sum(v for each in kernel for name, v in each.items() if name.startswith("pgalloc_"))
    assert ours > 30_000
    # What is handed out in bulk has no tracepoint, and the two are not read at the same instant.
    assert ours == pytest.approx(theirs, rel=0.05)
    assert back == pytest.approx(sum(each["pgfree"] for each in kernel), rel=0.05)


STACK_PAGES = 4
THREADS = """
import threading
ends = threading.Event()
threads = [threading.Thread(target=ends.wait) for _ in range(300)]
for thread in threads:
    thread.start()
ends.set()
"""


def has_stacks_of_single_pages() -> bool:
    """By whom memory was got that is mapped page by page (CONFIG_VMAP_STACK)."""
    lines = Path("/proc/vmallocinfo").read_text().splitlines()
    return any("kernel_clone" in line or "dup_task_struct" in line for line in lines)


single_pages = pytest.mark.skipif(
    not has_stacks_of_single_pages(), reason="stacks of threads are whole blocks here"
)


@single_pages
def test_pages_that_are_handed_out_many_at_a_time_bound_the_report(tmp_path: Path) -> None:
    """The kernel's stacks of threads, but for a few that each CPU keeps."""
    out = tmp_path / "report"
    for how in ((), ("-b", "process")):
        program = ["/usr/bin/python3", "-c", THREADS]
        done = memtap("pages", "-f", "json", "-o", out, *how, "--", *program)
        assert done.returncode == 0, done.stderr
        (report,) = reports(out.read_text())
        assert report["audit"]["accuracy"] == "bounded"
        (note,) = (note for note in report["audit"]["notes"] if note.startswith("at most"))
        assert int(note.split()[2].replace(",", "")) >= 250 * STACK_PAGES


@single_pages
def test_what_the_kernel_counts_more_is_within_the_bound(tmp_path: Path) -> None:
    """Over a whole run, as each interval begins where the one before has ended."""
    out = tmp_path / "report"
    with reporting(out, "pages", "0.2", "--self", "-f", "json") as process:
        for _ in range(3):
            subprocess.check_call(["/usr/bin/python3", "-c", THREADS])
        process.terminate()
        process.wait()
    found = reports(out.read_text())
    told = sum(row["allocs"] << row["order"] for each in found for row in each["rows"])
    kernel = [each["audit"]["kernel"].items() for each in found]
    all_pages = sum(n for each in kernel for name, n in each if name.startswith("pgalloc_"))
    notes = [note.split() for each in found for note in each["audit"]["notes"]]
    bound = sum(int(words[2].replace(",", "")) for words in notes if words[:2] == ["at", "most"])
    assert 3 * 250 * STACK_PAGES <= all_pages - told <= bound


def test_what_is_left_is_what_buddyinfo_says(tmp_path: Path) -> None:
    done = memtap("pages", "0.1", "1", "-f", "json")
    (report,) = reports(done.stdout)
    lines = [line.split()[4:] for line in Path("/proc/buddyinfo").read_text().splitlines()]
    now = [sum(map(int, column)) for column in zip(*lines, strict=True)]
    told = {row["order"]: row["free_blocks"] for row in report["rows"]}
    assert list(told) == list(range(len(now)))
    assert sum(n << o for o, n in told.items()) == pytest.approx(
        sum(n << o for o, n in enumerate(now)), rel=0.1
    )
    unusable = [row["unusable_pct"] for row in report["rows"]]
    assert unusable == sorted(unusable)
    assert unusable[0] == 0


def test_a_replay_is_the_live_report_byte_for_byte(workload: Build, tmp_path: Path) -> None:
    recording, live = tmp_path / "r.parquet", tmp_path / "live"
    how = ["-b", "process,order", "-f", "json"]
    program = [workload("faulter"), "anon", "3000"]
    done = memtap("pages", "0.2", *how, "--record", recording, "-o", live, "--", *program)
    assert done.returncode == 0, done.stderr
    again = memtap("pages", *how, "--from", recording)
    assert again.stdout == live.read_text()
    assert any(row["comm"] == "faulter" for row in json.loads(again.stdout.splitlines()[0])["rows"])
