"""malloc against strace: how often glibc called the kernel, for how many bytes, at what cost."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.tracing import Row, eventually, memtap, reporting, reports

Build = Callable[[str], Path]

CALLS = "brk,mmap,munmap,mremap,mprotect,madvise"
PAGE = 4096
JEMALLOC = Path("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2")
_LINE = re.compile(r"^\d+ +(\w+)\((.*)\) += (0x[0-9a-f]+|-?\d+)")


@dataclass
class Strace:
    """What strace saw: how many calls, how far brk moved, the lengths of large mappings."""

    calls: Counter[str]
    brk_bytes: int
    mapped: list[int]


def strace(output: Path) -> Strace:
    """What it wrote."""
    lines = map(_LINE.match, output.read_text().splitlines())
    seen = [match.groups() for match in lines if match]
    ends = [int(result, 16) for name, _, result in seen if name == "brk"]
    mapped = [
        int(arguments.split(", ")[1])
        for name, arguments, _ in seen
        if name == "mmap" and "PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1" in arguments
    ]
    large = [length for length in mapped if length > 64 << 10]
    return Strace(Counter(name for name, _, _ in seen), ends[-1] - ends[0], large)


def paths(command: list[str], report: Path) -> tuple[dict[str, Row], int]:
    """What memtap says of each path of mallocer, and the faults that mallocer says it took."""
    done = memtap("malloc", "-b", "process,path", "-f", "json", "-o", report, "--", *command)
    assert done.returncode == 0, done.stderr
    (found,) = reports(report.read_text())
    audit = found["audit"]
    assert (audit["accuracy"], audit["lost"], audit["missed"]) == ("exact", 0, 0)
    rows = {row["path"]: row for row in found["rows"] if row["comm"] == "mallocer"}
    return rows, int(done.stdout)


Case = tuple[str, int, int]

CASES: dict[str, Case] = {
    "small blocks come from the heap": ("keep", 1000, 1000),
    "one byte below the edge": ("keep", 10, 131_048),
    "at the edge": ("keep", 10, 131_049),
    "large blocks are mapped": ("keep", 10, 300_000),
    "a block that is freed moves the threshold": ("again", 100, 300_000),
    "a threshold that was set stays": ("set", 10, 140_000),
    "realloc of a mapped block moves it": ("resize", 5, 300_000),
    "realloc across the edge": ("resize", 5, 100_000),
    "an arena grows by mprotect": ("thread", 64, 50_000),
    "a block that stays keeps the heap": ("hole", 100, 10_000),
}


def command_of(case: Case, workload: Build) -> list[str]:
    return [str(workload("mallocer")), *map(str, case)]


@pytest.mark.parametrize("case", CASES)
def test_calls_and_bytes_are_those_that_strace_sees(
    case: str, workload: Build, tmp_path: Path
) -> None:
    # Of one and the same run: where the kernel maps things is a matter of chance.
    tracing = ["strace", "-f", "-o", str(tmp_path / "strace"), "-e", f"trace={CALLS}"]
    found, _ = paths([*tracing, *command_of(CASES[case], workload)], tmp_path / "report")
    true = strace(tmp_path / "strace")
    assert sum(row["calls"] for row in found.values()) == true.calls.total()
    assert found["brk"]["calls"] == true.calls["brk"]
    assert found["brk"]["live_bytes"] == true.brk_bytes
    if not true.calls["mremap"]:
        requested = found["mmap"]["requested_bytes"] if "mmap" in found else 0
        assert requested == sum(true.mapped)


@pytest.mark.parametrize(
    ("case", "path", "pages"),
    [
        (("keep", 10, 300_000), "mmap", 10 * 74),
        (("keep", 1000, 1000), "brk", 1000 * 1008 / PAGE),
        (("thread", 64, 50_000), "arena", 64 * 50_016 / PAGE),
        (("again", 100, 300_000), "mmap", 74),
    ],
)
def test_faults_are_those_of_the_pages_that_were_touched(
    case: Case, path: str, pages: float, workload: Build, tmp_path: Path
) -> None:
    found, minor = paths(command_of(case, workload), tmp_path / "report")
    assert found[path]["faults"] == pytest.approx(pages, abs=8)
    of_malloc = sum(row["faults"] for name, row in found.items() if name != "other")
    assert minor == pytest.approx(of_malloc, abs=16)
    assert found[path]["fault_time_ns"] > 100 * found[path]["faults"]


@pytest.mark.parametrize(
    ("case", "threshold"),
    [
        (("keep", 10, 1000), 131_049),
        (("again", 10, 300_000), 303_104 - 23),
        (("set", 10, 140_000), 131_049),
        (("again", 2, 40 << 20), 131_049),
    ],
)
def test_the_threshold_is_where_glibc_has_moved_it(
    case: Case, threshold: int, workload: Build, tmp_path: Path
) -> None:
    found, _ = paths(command_of(case, workload), tmp_path / "report")
    assert {row["threshold_bytes"] for row in found.values()} == {threshold}
    assert {row["allocator"] for row in found.values()} == {"glibc"}


def test_another_allocator_is_known_and_has_no_threshold(workload: Build, tmp_path: Path) -> None:
    assert JEMALLOC.exists(), "libjemalloc2 is not installed"
    report = tmp_path / "report"
    program = ["env", f"LD_PRELOAD={JEMALLOC}", *command_of(("keep", 1000, 1000), workload)]
    done = memtap("malloc", "-f", "json", "-o", report, "--", *program)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(report.read_text())["rows"]
    assert (row["allocator"], row["threshold_bytes"]) == ("jemalloc", None)
    assert row["requested_bytes"] > 1000 * 1000


def test_the_timeline_tells_each_decision(workload: Build, tmp_path: Path) -> None:
    out = tmp_path / "timeline"
    command = command_of(("again", 3, 300_000), workload)
    done = memtap("malloc", "--timeline", "-f", "json", "-o", out, "--", *command)
    assert done.returncode == 0, done.stderr
    rows = [row for report in reports(out.read_text()) for row in report["rows"]]
    assert [row["time_ns"] for row in rows] == sorted(row["time_ns"] for row in rows)
    told = [row["why"] for row in rows if row["path"] in ("mmap", "brk")]
    assert told[-3:-1] == [
        "requests from 131,049 bytes on are mapped on their own: 303,104",
        "freed mmapped chunk of 303,104: threshold now 303,104, trim 606,208",
    ]
    assert told[-1].startswith("the heap is used up: brk moves its end up by ")


GROWS = """
some = [bytes(600) for _ in range(20000)]
print(1, flush=True)
input()
more = [bytes(600) for _ in range(20000)]
print(2, flush=True)
input()
"""


def waits(pid: int) -> bool:
    """Whether a process sleeps: its heap stands still."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def heap_of(pid: int) -> int:
    """The size of a process's heap, by /proc/PID/maps."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    start, end = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) .*\[heap\]$", maps, re.MULTILINE)[0]
    return int(end, 16) - int(start, 16)


def test_a_process_that_was_there_before_has_its_heap(tmp_path: Path) -> None:
    out = tmp_path / "report"
    # Python takes small blocks from malloc then, not from pools of its own.
    command = ["env", "PYTHONMALLOC=malloc", "python3", "-c", GROWS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin and program.stdout
        program.stdout.readline()
        assert eventually(lambda: waits(program.pid))
        before = heap_of(program.pid)
        how = ["-p", program.pid, "-b", "process,path", "-f", "json"]
        with reporting(out, "malloc", "0.2", *how):
            program.stdin.write(b"\n")
            program.stdin.flush()
            program.stdout.readline()
            assert eventually(lambda: waits(program.pid))
            after = heap_of(program.pid)
            assert eventually(lambda: grown(out) == after - before)
        program.kill()
    assert after - before > 1 << 20
    assert by_brk(out)[-1]["live_bytes"] == after


def by_brk(out: Path) -> list[Row]:
    """The rows of that path in all reports so far."""
    rows = [row for report in reports(out.read_text()) for row in report["rows"]]
    return [row for row in rows if row["path"] == "brk"]


def grown(out: Path) -> int:
    """By how many bytes its heap is larger, by all reports so far."""
    return sum(row["requested_bytes"] - row["returned_bytes"] for row in by_brk(out))


def test_a_replay_is_the_live_report_byte_for_byte(workload: Build, tmp_path: Path) -> None:
    recording, live = tmp_path / "r.parquet", tmp_path / "live"
    kept_as = ["--record", recording, "-o", live, "-f", "json", "-b", "process,path"]
    command = command_of(("thread", 64, 50_000), workload)
    done = memtap("malloc", "0.2", *kept_as, "--", *command)
    assert done.returncode == 0, done.stderr
    again = memtap("malloc", "-b", "process,path", "-f", "json", "--from", recording)
    assert again.stdout == live.read_text()
