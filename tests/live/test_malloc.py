"""malloc against strace: how often glibc called the kernel, for how many bytes, at what cost."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.tracing import WORKLOADS, Row, eventually, memtap, reporting, reports, scaled

Build = Callable[[str], Path]

CALLS = "brk,mmap,munmap,mremap,mprotect,madvise"
PROGRAMS = ("mallocer", "turns")
PAGE = 4096
LIBRARIES = Path(f"/usr/lib/{platform.machine()}-linux-gnu")
OTHERS = {
    "jemalloc": "libjemalloc.so.2",
    "tcmalloc": "libtcmalloc_minimal.so.4",
    "mimalloc": "libmimalloc.so",
}
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
    """What memtap says of each path of our program, and the number that the program prints."""
    done = memtap("malloc", "-b", "process,path", "-f", "json", "-o", report, "--", *command)
    assert done.returncode == 0, done.stderr
    (found,) = reports(report.read_text())
    audit = found["audit"]
    assert (audit["accuracy"], audit["lost"], audit["missed"]) == ("exact", 0, 0)
    rows = {row["path"]: row for row in found["rows"] if row["comm"] in PROGRAMS}
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


def test_what_a_child_gets_that_shares_the_memory_is_the_parents_to_free(
    workload: Build, tmp_path: Path
) -> None:
    report, lent = tmp_path / "report", [workload("mallocer"), "lend", "10", "300000"]
    done = memtap("malloc", "-b", "path", "-f", "json", "-o", report, "--", *lent)
    assert done.returncode == 0, done.stderr
    (found,) = reports(report.read_text())
    mapped = next(row for row in found["rows"] if row["path"] == "mmap")
    assert mapped["calls"] == 20
    assert mapped["requested_bytes"] == mapped["returned_bytes"] == 10 * 303_104
    assert mapped["live_bytes"] == 0
    assert mapped["faults"] == 10 * 74


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
    assert found[path]["faults"] == pytest.approx(pages, abs=12)  # and what malloc needs itself
    of_malloc = sum(row["faults"] for name, row in found.items() if name != "other")
    assert minor == pytest.approx(of_malloc, abs=16)
    assert found[path]["fault_time_ns"] > 100 * found[path]["faults"]


@pytest.mark.parametrize(
    ("case", "threshold"),
    [
        (("keep", 10, 1000), 131_049),
        (("again", 10, 300_000), 303_104 - 23),
        (("set", 10, 140_000), (64 << 10) - 23),
        (("again", 2, 40 << 20), 131_049),
        (("set-high", 10, 300_000), (1 << 20) - 23),
        (("set-high", 10, 3_000_000), (1 << 20) - 23),
        (("keep-top", 10, 300_000), 131_049),
        (("no-mmap", 10, 300_000), None),
    ],
)
def test_the_threshold_is_where_glibc_has_moved_it(
    case: Case, threshold: int | None, workload: Build, tmp_path: Path
) -> None:
    found, _ = paths(command_of(case, workload), tmp_path / "report")
    assert {row["threshold_bytes"] for row in found.values()} == {threshold}
    assert {row["allocator"] for row in found.values()} == {"glibc"}


@pytest.mark.parametrize(
    "setting",
    ["MALLOC_MMAP_THRESHOLD_=2000000", "GLIBC_TUNABLES=glibc.malloc.mmap_threshold=2000000"],
)
@pytest.mark.parametrize("size", [300_000, 5_000_000])
def test_a_threshold_of_the_environment_is_known(
    setting: str, size: int, workload: Build, tmp_path: Path
) -> None:
    command = ["env", setting, *command_of(("again", 10, size), workload)]
    found, _ = paths(command, tmp_path / "report")
    assert {row["threshold_bytes"] for row in found.values()} == {2_000_000 - 23}


@pytest.mark.parametrize("name", OTHERS)
def test_another_allocator_is_known_and_has_no_threshold(
    name: str, workload: Build, tmp_path: Path
) -> None:
    library = LIBRARIES / OTHERS[name]
    assert library.exists(), f"{library} is not installed"
    report = tmp_path / "report"
    program = ["env", f"LD_PRELOAD={library}", *command_of(("keep", 1000, 1000), workload)]
    done = memtap("malloc", "-f", "json", "-o", report, "--", *program)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(report.read_text())["rows"]
    assert (row["allocator"], row["threshold_bytes"]) == (name, None)
    assert row["requested_bytes"] > 1000 * 1000


@pytest.mark.parametrize("name", OTHERS)
def test_the_memory_of_another_allocator_is_its_own(
    name: str, workload: Build, tmp_path: Path
) -> None:
    """Blocks of 3 MB are no other's; whether it maps them, or has a heap, is its choice."""
    program = ["env", f"LD_PRELOAD={LIBRARIES / OTHERS[name]}"]
    found, _ = paths(
        [*program, *command_of(("keep", 10, 3_000_000), workload)], tmp_path / "report"
    )
    own = [found[path] for path in ("brk", "mmap") if path in found]
    assert sum(row["live_bytes"] for row in own) >= 10 * 3_000_000
    assert sum(row["faults"] for row in own) >= 10 * 3_000_000 // PAGE
    assert found["other"]["live_bytes"] < 4 << 20


def test_what_is_made_usable_of_addresses_that_were_set_aside_is_the_allocators(
    workload: Build, tmp_path: Path
) -> None:
    """mimalloc commits by mprotect; the addresses that it does not need are nobody's."""
    program = ["env", f"LD_PRELOAD={LIBRARIES / OTHERS['mimalloc']}", "MIMALLOC_EAGER_COMMIT=0"]
    tracing = ["strace", "-f", "-o", str(tmp_path / "strace"), "-e", "trace=mmap,mprotect"]
    command = [*program, *tracing, *command_of(("keep", 10, 3_000_000), workload)]
    found, _ = paths(command, tmp_path / "report")
    assert "PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS" in (tmp_path / "strace").read_text()
    assert found["mmap"]["faults"] >= 10 * 3_000_000 // PAGE
    assert 10 * 3_000_000 <= found["mmap"]["live_bytes"] < 10 * 3_000_000 + (8 << 20)
    assert found["other"]["live_bytes"] < 1 << 20


def test_threads_that_take_turns_in_the_middle_of_calls(workload: Build, tmp_path: Path) -> None:
    """Two calls each time, and those that a program begins with."""
    begin = set()
    for count in (1, scaled(20_000)):
        command = [str(workload("turns")), "map", __file__, str(count)]
        found, made = paths(command, tmp_path / "report")
        begin.add(found["other"]["calls"] - 2 * made)
    assert len(begin) == 1


def test_threads_have_arenas_unless_they_may_not(workload: Build, tmp_path: Path) -> None:
    arenas, _ = paths(command_of(("threads", 64, 50_000), workload), tmp_path / "report")
    one, _ = paths(command_of(("one-arena", 64, 50_000), workload), tmp_path / "report")
    taken = 4 * 64 * 50_016
    assert taken <= arenas["arena"]["requested_bytes"] <= taken + 4 * (140 << 10)
    assert "arena" not in one
    assert taken <= one["brk"]["live_bytes"] <= taken + (140 << 10)


def test_the_end_of_the_heap_is_given_back_unless_it_may_not(
    workload: Build, tmp_path: Path
) -> None:
    taken = 1000 * 10_016
    given, _ = paths(command_of(("stack", 1000, 10_000), workload), tmp_path / "report")
    kept, _ = paths(command_of(("keep-top", 1000, 10_000), workload), tmp_path / "report")
    assert given["brk"]["returned_bytes"] > taken - (256 << 10)
    assert given["brk"]["live_bytes"] < 256 << 10
    assert kept["brk"]["returned_bytes"] == 0
    assert kept["brk"]["live_bytes"] >= taken


@pytest.mark.parametrize(
    ("case", "path", "code"),
    [
        (("keep", 10, 300_000), "mmap", "keep_all"),
        (("keep", 1000, 1000), "brk", "keep_all"),
        (("thread", 64, 50_000), "arena", "keep_all"),
        (("again", 100, 300_000), "mmap", "again"),
        (("resize", 5, 300_000), "mmap", "resize"),
    ],
)
def test_the_site_is_the_function_that_called_malloc(
    case: Case, path: str, code: str, workload: Build, tmp_path: Path
) -> None:
    how = ["-b", "process,path,site", "-f", "json", "-o", tmp_path / "report"]
    by_path = ["-b", "process,path", "--from", tmp_path / "r.parquet", "-f", "json"]
    done = memtap(
        "malloc", *how, "--record", tmp_path / "r.parquet", "--", *command_of(case, workload)
    )
    assert done.returncode == 0, done.stderr
    (by_site,) = reports((tmp_path / "report").read_text())
    mine = [row for row in by_site["rows"] if row["path"] == path]
    functions = {row["site"].partition("+")[0] for row in mine if row["requested_bytes"]}
    assert functions == {code}
    (whole,) = reports(memtap("malloc", *by_path).stdout)
    (total,) = [row for row in whole["rows"] if row["path"] == path]
    for column in ("calls", "requested_bytes", "returned_bytes", "live_bytes", "faults"):
        assert sum(row[column] for row in mine) == total[column], column


def test_code_that_gives_back_what_it_maps_is_told_how_soon(
    workload: Build, tmp_path: Path
) -> None:
    command = command_of(("set", 50, 300_000), workload)  # each is mapped, and unmapped at once
    how = ["-b", "process,path,site", "-f", "json", "-o", tmp_path / "report"]
    done = memtap("malloc", *how, "--", *command)
    assert done.returncode == 0, done.stderr
    (found,) = reports((tmp_path / "report").read_text())
    (row,) = [row for row in found["rows"] if row["path"] == "mmap"]
    assert row["site"].startswith("again+")
    assert (row["calls"], row["requested_bytes"]) == (100, 50 * 303_104)
    assert (row["returned_bytes"], row["live_bytes"]) == (50 * 303_104, 0)
    assert row["faults"] == 50 * 74
    # 74 pages are touched in that time.
    assert row["fault_time_ns"] / 50 < row["life_ns"] < 1e9


def test_the_timeline_tells_each_decision(workload: Build, tmp_path: Path) -> None:
    out = tmp_path / "timeline"
    command = command_of(("again", 3, 300_000), workload)
    done = memtap("malloc", "--timeline", "-f", "json", "-o", out, "--", *command)
    assert done.returncode == 0, done.stderr
    rows = [row for report in reports(out.read_text()) for row in report["rows"]]
    assert [row["time_ns"] for row in rows] == sorted(row["time_ns"] for row in rows)
    told = [row["why"] for row in rows if row["path"] in ("mmap", "brk")]
    told = [why for why in told if not why.startswith("asks")]  # some do when they need it
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


# Each size that `mallocer family` asks for has a power of two of its own.
FAMILY = {
    64: 1000,  # malloc(100)
    256: 1000,  # calloc(10, 50)
    512: 1000,  # malloc(1000), to be resized
    1024: 1000,  # realloc(2000)
    4096: 1000,  # realloc(NULL, 5000)
    8192: 1000,  # aligned_alloc(64, 10000)
    16384: 1000,  # aligned_alloc(16, 20000)
    32768: 1000,  # posix_memalign(4096, 40000)
    65536: 1000,  # valloc(70000)
    131072: 1000,  # reallocarray(NULL, 1000, 140)
}


def requests_of(folder: Path, *program: object) -> dict[int, int]:
    """How often a program asked for each size of FAMILY, beyond that."""
    done = memtap("malloc", "--uprobes", "-f", "json", "-o", folder / "report", "--", *program)
    assert done.returncode == 0, done.stderr
    assert "stops the process at each malloc and free" in done.stderr
    (found,) = reports((folder / "report").read_text())
    asked = {row["from_bytes"]: row["requests"] for row in found["sizes"]}
    return {size: asked.get(size, 0) - count for size, count in FAMILY.items()}


def built(program: Path, *flags: object, compiler: str = "cc") -> Path:
    """mallocer, made in another way."""
    source = WORKLOADS / "mallocer.c"
    subprocess.check_call([compiler, "-O1", "-pthread", "-o", program, source, *map(str, flags)])
    return program


def test_every_request_is_counted_by_its_size(workload: Build, tmp_path: Path) -> None:
    more = requests_of(tmp_path, *command_of(("family", 1000, 0), workload))
    assert sum(more.values()) == more[1024] + more[4096] == 1  # stdout's buffer


def test_every_request_of_a_static_program(tmp_path: Path) -> None:
    more = requests_of(tmp_path, built(tmp_path / "m", "-static"), "family", "1000", "0")
    assert all(0 <= count <= 8 for count in more.values()), more  # the loader's are its own


@pytest.mark.parametrize("name", OTHERS)
def test_every_request_of_a_program_with_another_allocator(name: str, tmp_path: Path) -> None:
    linked = built(tmp_path / "m", "-Wl,--no-as-needed", LIBRARIES / OTHERS[name])
    more = requests_of(tmp_path, linked, "family", "1000", "0")
    assert all(0 <= count <= 8 for count in more.values()), more
    preloaded = ["env", f"LD_PRELOAD={LIBRARIES / OTHERS[name]}", built(tmp_path / "p")]
    more = requests_of(tmp_path, *preloaded, "family", "1000", "0")
    assert all(0 <= count <= 60 for count in more.values()), more  # and what env asked for


def test_requests_that_are_refused_are_not_reused(workload: Build, tmp_path: Path) -> None:
    command = command_of(("huge", 100, 1 << 50), workload)
    done = memtap("malloc", "--uprobes", "-f", "json", "-o", tmp_path / "report", "--", *command)
    assert done.returncode == 0, done.stderr
    (found,) = reports((tmp_path / "report").read_text())
    sizes = {row["from_bytes"]: row for row in found["sizes"]}
    for size in (1 << 50, 1 << 63):
        row = sizes[size]
        assert (row["requests"], row["reused"], row["refused"]) == (100, 0, 100)


def test_each_size_tells_its_way(workload: Build, tmp_path: Path) -> None:
    how = ["--uprobes", "-f", "json", "-o", tmp_path / "report"]
    done = memtap("malloc", *how, "--", *command_of(("set", 50, 300_000), workload))
    assert done.returncode == 0, done.stderr
    (found,) = reports((tmp_path / "report").read_text())
    (row,) = [row for row in found["sizes"] if row["from_bytes"] == 1 << 18]
    assert row == {
        "from_bytes": 1 << 18,
        "to_bytes": (1 << 19) - 1,
        "requests": 50,
        "reused": 0,
        "refused": 0,
        "brk": 0,
        "mmap": 50,
        "arena": 0,
    }


def test_heaps_of_a_program_that_has_ended_are_said_to_be_unseen() -> None:
    wish = "give an INTERVAL"
    assert wish in memtap("malloc", "--heap", "--", "true").stderr
    assert wish not in memtap("malloc", "0.5", "--heap", "--", "true").stderr


@pytest.mark.parametrize("case", [("keep", 1000, 1000), ("hole", 100, 10_000)])
def test_a_heap_is_as_malloc_itself_says(case: Case, workload: Build, tmp_path: Path) -> None:
    out = tmp_path / "report"
    command = [*command_of(case, workload), "wait"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin and program.stdout
        program.stdout.readline()
        used, free, top = map(int, program.stdout.readline().split())
        assert eventually(lambda: waits(program.pid))
        done = memtap("malloc", "0.2", "1", "--heap", "-p", program.pid, "-f", "json", "-o", out)
        assert done.returncode == 0, done.stderr
        size = heap_of(program.pid)
        program.stdin.close()
    heap, mapped = reports(out.read_text())[0]["heaps"]
    assert (heap["arena"], mapped["arena"]) == ("main", "mmap")
    assert heap["heap_bytes"] == size
    kept = heap["tcache_bytes"]
    assert (heap["used_bytes"] + kept, heap["stuck_bytes"]) == (used, free - top)
    assert (heap["top_bytes"], used + free) == (top, size)
    assert used <= heap["resident_bytes"] <= size


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


# What no process can have: a break and an address at the end of all numbers, half of all addresses;
# and what the kernel grants of no bytes wherever that is.
ODD = """
import ctypes
c = ctypes.CDLL(None)
c.mmap.restype = ctypes.c_void_p
number, size = ctypes.c_void_p, ctypes.c_size_t
granted = [
    c.mprotect(number(2**64 - 4096), size(0), 3),
    c.brk(number(2**64 - 8192)),
    c.munmap(number(2**63), size(2**63)),
    c.madvise(number(2**64 - 4096), size(0), 4),
]
assert c.mmap(None, size(2**63), 3, 0x22, -1, size(0)) == 2**64 - 1
print(*granted)
"""


def test_what_cannot_be_is_told_as_refused_and_can_be_recorded(tmp_path: Path) -> None:
    recording, live = tmp_path / "r.parquet", tmp_path / "live"
    how = ["malloc", "--timeline", "-f", "json"]
    program = ["--", sys.executable, "-c", ODD]
    done = memtap(*how, "--record", recording, "-o", live, *program)
    assert (done.returncode, done.stdout.split()) == (0, ["0", "-1", "-1", "0"]), done.stderr
    rows = [row for report in reports(live.read_text()) for row in report["rows"]]
    refused = [row["path"] for row in rows if row["why"] == "the kernel refused"]
    assert sorted(refused) == ["brk", "other", "other"]
    assert memtap(*how, "--from", recording).stdout == live.read_text()
