"""Page faults: workloads whose number of faults is known, and what memtap says of them."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from memtap.tracers.code.mappings import Region
from memtap.tracers.faults.probes import Kind
from memtap.tracers.faults.rows import Cause
from tests.live.tracing import (
    LONGEST_S,
    eventually,
    evict,
    kept,
    make_file,
    memtap,
    reporting,
    reports,
    scaled,
)

PAGES = 1000
CHILDREN = scaled(500)
STEPS = scaled(400)
AROUND = 16  # pages that the kernel maps at once where they are cached: fault_around_bytes

Build = Callable[[str], Path]


@dataclass
class Faulted:
    """A run of faulter under `memtap faults`.

    Attributes:
        minor, major: what the kernel counted while the pages were touched.
        rows: the faults in the range that was touched.
        report: of the whole run, by region and cause.
        recording: of it.
    """

    minor: int
    major: int
    rows: pl.DataFrame
    report: dict[str, Any]
    recording: Path

    def count(self, region: Region, cause: Cause, kind: Kind = Kind.MINOR) -> int:
        """Faults of one sort in the range."""
        sort = pl.col("region").eq(region) & pl.col("cause").eq(cause) & pl.col("kind").eq(kind)
        return int(self.rows.filter(sort)["count"].sum())

    @property
    def total(self) -> int:
        """Faults of all sorts in the range."""
        return int(self.rows["count"].sum())


Run = Callable[..., Faulted]


def under_memtap(folder: Path, *program: object) -> list[Faulted]:
    """Runs faulter under memtap, or a program that runs it again and again."""
    report, recording = folder / "report", folder / "r.parquet"
    how = ["-b", "region,cause", "-f", "json", "-o", report, "--record", recording]
    done = memtap("faults", *how, "--", *map(str, program))
    assert done.returncode == 0, done.stderr
    (found,) = reports(report.read_text())
    rows = pl.read_parquet(recording).filter(pl.col("head").is_null())
    return [of_range(line, rows, found, recording) for line in done.stdout.splitlines()]


def of_range(printed: str, rows: pl.DataFrame, report: dict[str, Any], recording: Path) -> Faulted:
    """The part of a run that a line of faulter tells of: no other process has that range."""
    minor, major, start, end = printed.split()
    inside = pl.col("address").is_between(int(start, 16), int(end, 16), closed="left")
    return Faulted(int(minor), int(major), rows.filter(inside), report, recording)


@pytest.fixture
def faulted(workload: Build, tmp_path: Path) -> Run:
    """Runs a case of faulter under memtap."""

    def run(case: str, pages: int = PAGES, *more: object) -> Faulted:
        (found,) = under_memtap(tmp_path, workload("faulter"), case, pages, *more)
        return found

    return run


def audited(found: Faulted) -> None:
    """Nothing was lost, and no fault is missing but what the kernel took without an exception."""
    audit = found.report["audit"]
    assert (audit["lost"], audit["missed"], audit["map_full"]) == (0, 0, 0)
    assert audit["accuracy"] == "exact"
    assert audit["events"] <= audit["kernel"]["ac_minflt"] + audit["kernel"]["ac_majflt"]


CASES = {
    "brk": (Region.HEAP, Cause.FIRST_TOUCH),
    "anon": (Region.ANON, Cause.FIRST_TOUCH),
    "zero": (Region.ANON, Cause.ZERO_PAGE),
    "zero-write": (Region.ANON, Cause.COW),
    "fork": (Region.ANON, Cause.COW),
    "shared": (Region.SHM, Cause.SHM),
    "memfd": (Region.SHM, Cause.SHM),
    "stack": (Region.STACK, Cause.FIRST_TOUCH),
    "thread": (Region.THREAD_STACK, Cause.FIRST_TOUCH),
    "data": (Region.DATA, Cause.FIRST_TOUCH),
}


@pytest.fixture(scope="module")
def touched(workload: Build, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Faulted]:
    """All of CASES, one after the other under one memtap."""
    loop = f'for case in "$@"; do "$0" "$case" {PAGES} || exit; done'
    folder = tmp_path_factory.mktemp("touched")
    found = under_memtap(folder, "sh", "-c", loop, workload("faulter"), *CASES)
    return dict(zip(CASES, found, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_each_page_touched_is_a_fault_of_its_region_and_cause(
    case: str, touched: dict[str, Faulted]
) -> None:
    found = touched[case]
    assert abs(found.minor + found.major - PAGES) <= 4
    # Before d92725256b4f a first write to shared memory is tried again, and that is major.
    assert found.major == 0 or CASES[case][0] is Region.SHM
    for kind, true in ((Kind.MINOR, found.minor), (Kind.MAJOR, found.major)):
        assert abs(found.count(*CASES[case], kind) - true) <= 4
    audited(found)


@pytest.fixture(scope="module")
def file(disk: Path) -> Path:
    return make_file(disk / "mapped", PAGES)


def test_a_write_to_a_private_file_is_a_copy(file: Path, faulted: Run) -> None:
    with kept(file):
        found = faulted("private-file", PAGES, file)
    assert found.count(Region.DATA, Cause.COW) == found.minor == PAGES
    audited(found)


def test_a_cold_file_is_read_in(file: Path, faulted: Run) -> None:
    evict(file)
    found = faulted("cold", PAGES, file)
    assert found.count(Region.FILE, Cause.FILE_READ, Kind.MAJOR) == found.major == PAGES
    audited(found)


def test_a_cached_file_is_mapped_around_each_fault(file: Path, faulted: Run) -> None:
    with kept(file):
        found = faulted("warm", PAGES, file)
    assert found.count(Region.FILE, Cause.FILE_MAP) == found.minor
    assert PAGES / AROUND <= found.minor < PAGES / AROUND + 5
    audited(found)


def test_what_a_child_maps_that_shares_the_memory_is_the_parents_too(
    file: Path, faulted: Run
) -> None:
    with kept(file):
        found = faulted("vfork", PAGES, file)
    assert found.count(Region.DATA, Cause.COW) == found.minor == PAGES
    audited(found)


def test_the_file_of_a_fault_is_named(file: Path, faulted: Run) -> None:
    with kept(file):
        found = faulted("private-file", PAGES, file)
    replay = memtap("faults", "-b", "file", "-f", "json", "--from", found.recording)
    rows = json.loads(replay.stdout)["rows"]
    assert next(row["minor"] for row in rows if row["path"] == str(file)) == PAGES


TOUCHER = """
import mmap, sys
with open(sys.argv[1], "w+b") as file:
    file.truncate(100 * mmap.PAGESIZE)
    with mmap.mmap(file.fileno(), 0) as view:
        print(flush=True)
        sys.stdin.readline()
        for page in range(100):
            view[page * mmap.PAGESIZE] = 1
"""


def test_tmpfs_is_shared_memory_wherever_it_is_mounted(tmp_path: Path) -> None:
    out, mounted = tmp_path / "report", tmp_path / "mounted"
    mounted.mkdir()
    mounts = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs x "$0" && exec "$@" "$0/f"', mounted]
    with subprocess.Popen(
        [*mounts, "python3", "-c", TOUCHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout and program.stdout.readline()
        how = ["0.5", "-b", "region,cause,file", "-f", "json"]
        with reporting(out, "faults", *how, "-p", program.pid) as traced:
            program.communicate(b"\n")
            assert traced.wait(LONGEST_S) == 0
    rows = [row for report in reports(out.read_text()) for row in report["rows"]]
    # The path begins where that namespace does, which is not where we see a root.
    found = [row for row in rows if row["path"].endswith(f"{mounted}/f")]
    assert {(row["region"], row["cause"]) for row in found} == {("shm", "shm")}
    assert sum(row["total"] for row in found) == 100


def test_a_huge_page_is_one_fault(faulted: Run) -> None:
    found = faulted("thp", 20)
    assert found.minor == found.total == 20
    assert found.count(Region.ANON, Cause.THP) == 20
    audited(found)


@pytest.mark.usefixtures("swap")
def test_swapped_pages_are_swapped_in(faulted: Run) -> None:
    found = faulted("swap")
    assert found.minor + found.major == pytest.approx(PAGES, abs=4)
    swapped = [found.count(Region.ANON, Cause.SWAP_IN, kind) for kind in (Kind.MINOR, Kind.MAJOR)]
    touched_again = found.total - PAGES
    assert sum(swapped) == pytest.approx(touched_again, abs=4)
    assert swapped[1] == found.major
    audited(found)


@pytest.mark.parametrize(
    ("case", "region"), [("segv", Region.ANON), ("segv-unmapped", Region.UNMAPPED)]
)
def test_a_bad_access_is_no_completed_fault(case: str, region: Region, faulted: Run) -> None:
    found = faulted(case)
    assert found.minor <= 1
    assert found.count(region, Cause.BAD_ACCESS, Kind.BAD) == PAGES


def test_what_a_handler_answers_by_userfaultfd(faulted: Run) -> None:
    pages = scaled(PAGES)
    found = faulted("uffd", pages)
    assert found.minor + found.major == pytest.approx(pages, abs=4)
    assert answered(found) == found.total
    assert found.total == pytest.approx(pages, abs=4)
    audited(found)


def test_what_a_handler_answers_of_who_ends_at_once(faulted: Run) -> None:
    """Before anybody can ask what is watched; that its thread sleeps as it does, tells it."""
    found = faulted("uffd-short", PAGES)
    assert answered(found) == found.total == found.minor + found.major
    audited(found)


def answered(found: Faulted) -> int:
    """Faults that a handler answered; those tried again are major to some kernels."""
    kinds = (Kind.MINOR, Kind.MAJOR)
    return sum(found.count(Region.ANON, Cause.USERFAULT, kind) for kind in kinds)


def test_who_is_known_without_a_handler_is_asked_again(workload: Build, tmp_path: Path) -> None:
    """By the twelfth report of half a second it is not asked for seconds."""
    out, recording, pages = tmp_path / "report", tmp_path / "r.parquet", scaled(PAGES)
    printed, go = tmp_path / "printed", tmp_path / "go"
    program = f"exec {workload('faulter')} uffd-late {pages} {go} > {printed}"
    how = ["0.5", "-f", "json", "--record", recording, "--", "sh", "-c", program]
    with reporting(out, "faults", *how) as process:
        assert eventually(lambda: out.read_text().count("\n") >= 12, LONGEST_S)
        go.touch()
        assert process.wait(LONGEST_S) == 0
    rows = pl.read_parquet(recording).filter(pl.col("head").is_null())
    found = of_range(printed.read_text(), rows, reports(out.read_text())[-1], recording)
    of_cause = found.rows.filter(pl.col("cause") == Cause.USERFAULT)["count"].sum()
    assert of_cause == found.total == pytest.approx(pages, abs=4)


@pytest.mark.parametrize("case", ["populate", "mlock", "direct"])
def test_what_the_kernel_touches_itself_is_in_the_audit_alone(
    case: str, file: Path, faulted: Run
) -> None:
    found = faulted(case, PAGES, file)
    assert found.minor == PAGES
    assert len(found.rows) == 0
    notes = found.report["audit"]["notes"]
    more = next(int(note.split()[0]) for note in notes if "ac_minflt" in note)
    assert PAGES <= more <= PAGES + 4


def test_the_kernel_counts_on_when_a_second_thread_executes_a_program(tmp_path: Path) -> None:
    executes = "import os; os.execv('/bin/true', ['true'])"
    thread = f"import threading; threading.Thread(target=exec, args=({executes!r},)).start()"
    out = tmp_path / "report"
    done = memtap("faults", "-f", "json", "-o", out, "--", "/usr/bin/python3", "-c", thread)
    assert done.returncode == 0, done.stderr
    (report,) = reports(out.read_text())
    counted = report["audit"]["kernel"]["ac_minflt"] + report["audit"]["kernel"]["ac_majflt"]
    assert counted - 2 <= report["audit"]["events"] <= counted  # execve(2) writes into its stack


def test_a_million_faults_of_two_threads(faulted: Run) -> None:
    pages = scaled(1_000_000)
    found = faulted("threads", pages)
    assert found.minor >= pages
    assert found.count(Region.ANON, Cause.FIRST_TOUCH) == pages
    audited(found)


def test_the_code_of_a_fault_is_named(faulted: Run) -> None:
    found = faulted("threads", 20_000)
    replay = memtap("faults", "-b", "site", "-s", "total", "-f", "json", "--from", found.recording)
    (first, *_) = json.loads(replay.stdout)["rows"]
    assert first["site"].startswith("touch_all+0x") and first["site"].endswith(" faulter")
    assert first["total"] == 20_000


def test_a_storm_is_timed_in_part_and_the_audit_says_so(faulted: Run) -> None:
    found = faulted("threads", scaled(1_000_000))
    note = next(note for note in found.report["audit"]["notes"] if note.startswith("times are"))
    timed, minor, *_ = (int(word) for word in note.split() if word.isdigit())
    assert 1000 < timed < minor  # how few depends on how soon the reader gets a CPU
    assert 200 < found.report["rows"][0]["p50_ns"] < 100_000


def test_stacks_lead_to_the_code_that_faults(workload: Build, tmp_path: Path) -> None:
    folded, flame = tmp_path / "folded", tmp_path / "flame.html"
    done = memtap(
        "faults", "--folded", folded, "--flame", flame, "-f", "json", "-o", tmp_path / "report",
        "--", workload("faulter"), "threads", "20000",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts = {
        line.rpartition(" ")[0]: int(line.split()[-1]) for line in folded.read_text().splitlines()
    }
    of_touch = [n for stack, n in counts.items() if stack.split(";")[-1] == "touch_all"]
    assert sum(of_touch) == 20_000
    assert all(stack.startswith("faulter;") for stack in counts if stack.endswith(";touch_all"))
    (report,) = reports((tmp_path / "report").read_text())
    assert sum(counts.values()) == sum(row["total"] for row in report["rows"])
    assert "touch_all" in flame.read_text()


def test_a_replay_is_the_live_report_byte_for_byte(workload: Build, tmp_path: Path) -> None:
    recording, live = tmp_path / "r.parquet", tmp_path / "live"
    program = [workload("faulter"), "short", "60"]
    for more in (["-b", "process,region,cause", "--hist"], ["-b", "site", "--explain"]):
        kept_as = ["--record", recording, "-o", live]
        done = memtap("faults", "0.2", *more, "-f", "json", *kept_as, "--", *program)
        assert done.returncode == 0, done.stderr
        assert len(reports(live.read_text())) > 1
        again = memtap("faults", *more, "-f", "json", "--from", recording)
        assert again.stdout == live.read_text()


def test_groupings_of_one_recording_have_the_same_sums(faulted: Run) -> None:
    recording = faulted("fork").recording
    keys = ("process", "thread", "region", "cause", "file", "site", "cgroup", "process,file,cause")
    sums = []
    for by in keys:
        replay = memtap("faults", "-b", by, "-f", "json", "--from", recording)
        rows = json.loads(replay.stdout)["rows"]
        sums.append([sum(row[name] for row in rows) for name in ("minor", "major", "total")])
    assert sums == [sums[0]] * len(keys)


def test_processes_that_live_for_milliseconds(workload: Build) -> None:
    done = memtap(
        "faults", "-f", "json", "-o", "/dev/stderr", "--", workload("faulter"), "short", CHILDREN
    )
    (report,) = reports(done.stderr)
    # By number it can be any of them: numbers begin anew at pid_max.
    *children, parent = sorted(report["rows"], key=lambda row: row["minor"])
    assert len(children) == CHILDREN
    assert {row["comm"] for row in report["rows"]} == {"faulter"}
    minor, major = map(int, done.stdout.split()[:2])
    assert sum(row["minor"] for row in children) == pytest.approx(minor, abs=4)
    assert sum(row["major"] for row in children) == major
    assert parent["minor"] > 0


def sums(recording: Path) -> Counter[str]:
    """Faults by region."""
    replay = memtap("faults", "-b", "region", "-f", "json", "--from", recording)
    return Counter({row["region"]: row["total"] for row in json.loads(replay.stdout)["rows"]})


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_touched_in_whatever_order(seed: int, workload: Build, tmp_path: Path) -> None:
    found, printed = Counter[str](), Counter[str]()
    for steps, sign in ((STEPS, 1), (0, -1)):  # less what a program takes that does nothing
        recording = tmp_path / f"{steps}.parquet"
        program = [workload("mixer"), str(steps), str(seed)]
        done = memtap("faults", "-o", tmp_path / "out", "--record", recording, "--", *program)
        assert done.returncode == 0, done.stderr
        for region, total in sums(recording).items():
            found[region] += sign * total
        for line in done.stdout.splitlines():
            printed[line.split()[0]] += sign * int(line.split()[1])
    for region in ("anon", "shm", "heap"):
        assert printed[region] > 12 * STEPS
        # It counts what its own code takes as well, which is more while that is not cached.
        assert found[region] == pytest.approx(printed[region], abs=20)
