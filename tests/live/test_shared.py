"""ps, pmap and oom --scores: memory that is hard to see, or that is nobody's alone."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from memtap.bpf.kernel import Kernel
from tests.live.limits import limited
from tests.live.tracing import PAGE, Row, eventually, make_file, memtap, reporting, reports

Build = Callable[[str], Path]

THREADS, PAGES = 3, 2003
HUGE = 2 << 20
MAY_LOWER = bool(Kernel().capabilities >> 24 & 1)
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")


def report_of(*arguments: object) -> dict[str, Any]:
    done = memtap(*map(str, arguments), "-f", "json")
    assert done.returncode == 0, done.stderr
    (report,) = reports(done.stdout)
    return report


@contextmanager
def running(*command: object, **how: Any) -> Iterator[int]:
    """A program that has said that it is ready."""
    words = list(map(str, command))
    with subprocess.Popen(words, stdout=subprocess.PIPE, **how) as process:
        assert process.stdout
        try:
            assert process.stdout.readline(), "it could not do what it was told to"
            yield process.pid
        finally:
            process.kill()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def field(path: str, name: str) -> int:
    """A number of a file of /proc, in bytes."""
    lines = Path(path).read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) << 10


# Processes whose main thread has ended.


@pytest.fixture(params=[1, THREADS], ids=["one-left", "some-left"])
def survivor(request: pytest.FixtureRequest, workload: Build) -> Iterator[int]:
    with running(workload("survivor"), request.param, PAGES * THREADS // request.param) as pid:
        assert eventually(lambda: state(pid) == "Z")
        yield pid


def thread_of(pid: int) -> str:
    return next(name for name in os.listdir(f"/proc/{pid}/task") if int(name) != pid)


def test_ps_tells_of_a_process_by_the_threads_that_go_on(survivor: int) -> None:
    (row,) = report_of("ps", "-c", "survivor", "-p", survivor)["rows"]
    other = f"/proc/{thread_of(survivor)}"
    assert (row["pid"], row["comm"]) == (survivor, "survivor")
    assert row["res_bytes"] == field(f"{other}/status", "VmRSS")
    assert row["virt_bytes"] == field(f"{other}/status", "VmSize")
    assert THREADS * PAGES * PAGE <= row["uss_bytes"] <= row["pss_bytes"] <= row["res_bytes"]
    assert row["minor"] >= THREADS * PAGES
    everybody = report_of("ps", "--by", "process,cgroup")["rows"]
    (listed,) = (row for row in everybody if row["pid"] == survivor)
    assert listed["res_bytes"] == row["res_bytes"]
    assert (
        listed["cgroup"] == report_of("ps", "-p", os.getpid(), "-b", "cgroup")["rows"][0]["cgroup"]
    )


def test_pmap_tells_of_a_process_by_the_threads_that_go_on(survivor: int) -> None:
    rows = report_of("pmap", survivor)["rows"]
    assert sum(row["uss_bytes"] for row in rows) >= THREADS * PAGES * PAGE
    assert sum(row["rss_bytes"] for row in rows) == field(
        f"/proc/{thread_of(survivor)}/smaps_rollup", "Rss"
    )


def test_who_survives_its_main_thread_is_ranked_as_the_kernel_does(survivor: int) -> None:
    Path(f"/proc/{survivor}/oom_score_adj").write_text("700")
    (row,) = report_of("oom", "--scores", "-p", survivor)["rows"]
    assert row["oom_score"] == int(Path(f"/proc/{survivor}/oom_score").read_text())
    assert row["res_bytes"] == field(f"/proc/{thread_of(survivor)}/status", "VmRSS")
    assert row["oom_score_adj"] == 700


def victims(out: Path) -> list[Row]:
    return [row for report in reports(out.read_text()) for row in report["rows"]]


# Processes that share one address space.


@pytest.mark.parametrize("children", [0, 1, 3])
def test_an_address_space_of_several_processes_adds_up(children: int, workload: Build) -> None:
    """The kernel tells each of them all of it (smaps_rollup); and nobody has it alone."""
    with running(workload("sharer"), "space", PAGES * PAGE, children) as pid:
        rows = report_of("ps", "-c", "sharer")["rows"]
        (alone,) = report_of("ps", "-p", pid)["rows"]
        whole = field(f"/proc/{pid}/smaps_rollup", "Pss")
        own = field(f"/proc/{pid}/smaps_rollup", "Private_Dirty")
    assert len(rows) == 1 + children
    assert whole >= own >= PAGES * PAGE
    assert sum(row["pss_bytes"] for row in rows) == pytest.approx(whole, abs=16 * PAGE)
    assert alone["pss_bytes"] == pytest.approx(whole / len(rows), abs=16 * PAGE)
    for row in (*rows, alone):
        assert row["uss_bytes"] == 0 if children else row["uss_bytes"] >= own
        assert row["res_bytes"] >= PAGES * PAGE


def test_a_process_that_waits_for_its_vforked_child_has_half(tmp_path: Path) -> None:
    """The child waits to open a FIFO that its program is to read, before that is executed."""
    os.mkfifo(fifo := tmp_path / "fifo")
    code = (
        "import os, sys, threading\n"
        "opens = [(os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0)]\n"
        "held = b'x' * (20 << 20)\n"
        "print(flush=True)\n"
        "os.posix_spawn('/usr/bin/true', ['true'], {}, file_actions=opens)\n"
    )
    with running("/usr/bin/python3", "-c", code, fifo) as pid:
        tasks = Path(f"/proc/{pid}/task/{pid}/children")
        assert eventually(lambda: bool(tasks.read_text()))
        child = int(tasks.read_text())
        assert eventually(lambda: state(child) == "S")
        rows = report_of("ps", "-p", pid, "-p", child)["rows"]
        whole, anon = (field(f"/proc/{pid}/smaps_rollup", name) for name in ("Pss", "Pss_Anon"))
        os.close(os.open(fifo, os.O_WRONLY))
    assert anon >= 20 << 20
    assert [row["uss_bytes"] for row in rows] == [0, 0]
    # While memtap looked it had a part in the files of Python, and now it has not.
    assert anon <= sum(row["pss_bytes"] for row in rows) <= whole + 16 * PAGE


# Whom the kernel may kill.


def scores() -> dict[int, int]:
    """The score of everybody, as the kernel tells it."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            found[int(name)] = int(Path(f"/proc/{name}/oom_score").read_text())
        except OSError:
            continue
    return found


def test_all_whom_the_kernel_may_kill_are_ranked_and_nobody_else() -> None:
    before, report, after = scores(), report_of("oom", "--scores"), scores()
    ranked = {row["pid"] for row in report["rows"]}
    lasting = before.keys() & after.keys()
    killable = {pid for pid in lasting if before[pid] > 0 and after[pid] > 0}
    never = {pid for pid in lasting if before[pid] == after[pid] == 0}
    assert killable <= ranked
    adjusted = {row["pid"] for row in report["rows"] if row["oom_score_adj"] <= -999}
    assert ranked & never <= adjusted
    assert 1 not in ranked
    (note,) = report["audit"]["notes"]
    assert "of the processes are left out, as the OOM killer may not kill them" in note


def test_who_is_never_killed_is_not_ranked(workload: Build) -> None:
    """Where a score may be lowered, which takes CAP_SYS_RESOURCE; else nobody can be so."""
    with running(workload("survivor"), 1, PAGES) as spared:
        if MAY_LOWER:
            Path(f"/proc/{spared}/oom_score_adj").write_text("-1000")
        ranked = report_of("oom", "--scores", "-p", spared)["rows"]
        assert [row["pid"] for row in ranked] == ([] if MAY_LOWER else [spared])


def test_the_ranking_is_in_the_kernels_order(workload: Build) -> None:
    """They differ by less than a thousandth of the host: their scores are equal."""
    program = workload("survivor")
    with ExitStack() as running_now:
        sizes = [PAGES, PAGES + 700, PAGES + 300]
        pids = [running_now.enter_context(running(program, 1, size)) for size in sizes]
        rows = report_of("oom", "--scores", "-c", "survivor")["rows"]
    small, large, middle = pids
    assert [row["pid"] for row in rows if row["pid"] in pids] == [large, middle, small]
    ranked_scores = [row["oom_score"] for row in rows if row["pid"] in pids]
    assert max(ranked_scores) - min(ranked_scores) <= 1


def test_who_is_first_is_killed_first(workload: Build, disk: Path, tmp_path: Path) -> None:
    """Of three in a cgroup; who asks for memory has the least of them."""
    out, size = tmp_path / "report", (10 << 20) // PAGE
    hog = [workload("hog"), 0, 0, make_file(disk / "hogged", 1), 1]
    with limited(32 << 20) as cgroup, reporting(out, "oom", "-f", "json"):
        some = [cgroup.start(workload("survivor"), 1, pages) for pages in (size, size + 700)]
        pids = {process.pid for process in some}
        assert eventually(lambda: {state(pid) for pid in pids} == {"Z"})
        rows = report_of("oom", "--scores", "-c", "survivor")["rows"]
        ranked = [row["pid"] for row in rows if row["pid"] in pids]
        asking = cgroup.start(*hog)
        assert eventually(lambda: state(asking.pid) == "T")
        os.kill(asking.pid, signal.SIGCONT)
        asking.wait(30)

        def told() -> list[Row]:
            return [row for row in victims(out) if row["pid"] in (*pids, asking.pid)]

        assert eventually(lambda: len(told()) >= 2)
        # The kernel logs the thread that has the memory, by its number and name.
        killed = told()[0]
        for process in some:
            process.kill()
            process.wait()
        assert (killed["pid"], killed["comm"]) == (ranked[0], "survivor")
        assert (killed["trigger_comm"], killed["constraint"]) == ("hog", "memcg")
        assert killed["anon_rss_bytes"] >= size * PAGE


# Huge pages.


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """As many as anybody asks for, while memory lasts."""
    if not POOL.exists():
        pytest.skip("this kernel has no huge pages of 2 MiB")
    most = POOL / "nr_overcommit_hugepages"
    before = most.read_text()
    most.write_text("64")
    try:
        yield
    finally:
        most.write_text(before)


@pytest.mark.parametrize("kind", ["private-huge", "shared-huge", "sysv-huge"])
@pytest.mark.parametrize("children", [0, 2])
def test_huge_pages_have_a_column_of_their_own(
    kind: str, children: int, workload: Build, huge_pages: None
) -> None:
    size = 5 * HUGE
    with running(workload("sharer"), kind, size, children) as pid:
        rows = report_of("ps", "-c", "sharer")["rows"]
        (whole,) = report_of("ps", "-c", "sharer", "-b", "comm")["rows"]
        mapped = [row for row in report_of("pmap", pid)["rows"] if row["region"] == "hugetlb"]
    assert [row["hugetlb_bytes"] for row in rows] == [size] * (1 + children)
    assert whole["hugetlb_bytes"] == size * (1 + children)
    assert [row["hugetlb_bytes"] for row in mapped] == [size]
    is_its_own = kind == "private-huge" or not children
    for row in rows:
        assert (row["uss_bytes"] >= size) == is_its_own
        assert row["res_bytes"] < size


# Swap.


def swap_in_use() -> int:
    return field("/proc/meminfo", "SwapTotal") - field("/proc/meminfo", "SwapFree")


@pytest.mark.parametrize("kind", ["swap", "shm", "swap-space"])
@pytest.mark.parametrize("children", [0, 1, 4])
def test_swap_that_processes_share_adds_up(
    kind: str, children: int, workload: Build, swap: None
) -> None:
    size = 6007 * PAGE
    before = swap_in_use()
    with running(workload("sharer"), kind, size, children) as pid:
        rows = report_of("ps", "-c", "sharer")["rows"]
        (whole,) = report_of("ps", "-c", "sharer", "-b", "comm")["rows"]
        (alone,) = report_of("ps", "-p", pid)["rows"]
        used = swap_in_use() - before
    assert len(rows) == 1 + children
    assert used >= 0.9 * size, "it was not swapped out"
    bound = 64 * PAGE
    assert abs(whole["swap_bytes"] - used) <= bound
    assert {abs(row["swap_bytes"] - used / len(rows)) <= bound for row in rows} == {True}
    assert alone["swap_bytes"] == pytest.approx(used / len(rows), abs=bound)
