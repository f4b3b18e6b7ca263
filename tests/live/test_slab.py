"""slab against programs that make a known number of kernel objects, and against slabinfo."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from memtap.bpf.filters import Filter
from memtap.bpf.kernel import Kernel
from memtap.bpf.loading import Attempts, Request
from memtap.bpf.plan import Variant
from memtap.tracers.live.live import Live
from memtap.tracers.live.processes import Processes
from memtap.tracers.model.report import Report
from memtap.tracers.slab.enrich import SlabEnricher
from memtap.tracers.slab.probes import ALONE, BATCHES, BY_PROCESS, IN_BULK, PLAN, TREES, objects
from memtap.tracers.slab.report import Slab
from tests.live.tracing import LONGEST_S, Row, eventually, memtap, reporting, reports, with_standbys

Build = Callable[[str], Path]

COUNT = 6007  # a prime; and no process has as many descriptors by chance
OTHERS = 50

# Objects that each of COUNT takes, in caches that SLUB merges with no other.
CASES = {
    "files": {"filp": 1, "names_cache": 1},
    "threads": {"filp": 1},
    "eventfds": {"filp": 1, "dentry": 1},
    "pipes": {"filp": 2, "dentry": 1, "inode_cache": 1},
    "sockets": {"filp": 2, "dentry": 2, "sock_inode_cache": 2},
    "names": {"dentry": 1},
    "churn": {"filp": 1, "dentry": 1},
}


VARIANTS = list(PLAN.possible(Kernel()))

# What allocates a struct file, by its name today and before 6.6.
FILE_SITES = {"alloc_empty_file", "__alloc_file"}


# On some kernels only the size of a cache's objects is known; so many others may be as large.
BY_SIZE = VARIANTS[0].name.startswith("all-by-size")
AS_LARGE = 20 * BY_SIZE


def called(cache: str) -> str:
    """What a cache is called in reports."""
    return f"size-{slabinfo(cache)[1]}" if BY_SIZE else cache


class Slabber:
    """A running `slabber` (tests/workloads/slabber.c), one step at a time."""

    def __init__(self, program: Path, case: str, count: int) -> None:
        self._process = subprocess.Popen(
            [program, case, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.pid = self._process.pid
        self._answer()

    def _answer(self) -> None:
        assert self._process.stdout
        assert self._process.stdout.readline()

    def go_on(self) -> None:
        """Its next step, to the end."""
        assert self._process.stdin
        self._process.stdin.write(b"\n")
        self._answer()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def slabber(workload: Build, case: str, count: int = COUNT) -> Iterator[Slabber]:
    program = Slabber(workload("slabber"), case, count)
    try:
        yield program
    finally:
        program.end()


def finished(out: Path) -> list[dict[str, Any]]:
    """The reports in a file that is being written."""
    return reports(out.read_text().rpartition("\n")[0])


def counted(out: Path, cache: str) -> tuple[int, int, int]:
    """Allocs and frees of a cache in all reports so far, and what is live."""
    found = finished(out)
    rows = [row for report in found for row in report["rows"] if row["cache"] == cache]
    live = sum(row["live"] for row in found[-1]["rows"] if row["cache"] == cache)
    return sum(row["allocs"] for row in rows), sum(row["frees"] for row in rows), live


@pytest.mark.parametrize("case", CASES)
def test_each_object_is_counted_and_so_is_its_end(
    case: str, workload: Build, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    count = COUNT + COUNT % 2 if case == "threads" else COUNT  # half for each
    objects_of = {called(cache): each for cache, each in CASES[case].items()}
    others = AS_LARGE + (case == "names")  # the name of the folder, which stays

    def all_are_there(cache: str, each: int) -> bool:
        allocs, _, live = counted(out, cache)
        is_kept = case != "churn" and cache != called("names_cache")
        return count * each <= allocs <= count * each + others and live >= count * each * is_kept

    with slabber(workload, case, count) as program:
        how = ["-p", program.pid, "-b", "process,cache", "-f", "json"]
        with reporting(out, "slab", "0.2", *how):
            program.go_on()
            for cache, each in objects_of.items():
                there = partial(all_are_there, cache, each)
                assert eventually(there), (cache, counted(out, cache))
            program.go_on()
            for cache in objects_of:
                gone = partial(nothing_is_left, out, cache, others)
                assert eventually(gone, LONGEST_S), (cache, counted(out, cache), missed(out))
    audits = [report["audit"] for report in finished(out)]
    assert {(audit["lost"], audit["map_full"]) for audit in audits} == {(0, 0)}
    assert missed(out) <= COUNT // 100


def missed(out: Path) -> int:
    """A standby takes what comes in an interrupt, but for instants; what it does not is said."""
    return sum(int(report["audit"]["missed"]) for report in finished(out))


def nothing_is_left(out: Path, cache: str, others: int) -> bool:
    stir()
    return counted(out, cache)[2] <= others


def stir() -> None:
    """Has each CPU free a socket: it may keep the last that RCU gave it until there is more."""
    cpus = os.sched_getaffinity(0)
    for cpu in cpus:
        os.sched_setaffinity(0, {cpu})
        for end in socket.socketpair():
            end.close()
    os.sched_setaffinity(0, cpus)


def traced(program: list[str], *how: str) -> dict[str, Any]:
    """The report of a program that is told to go through all its steps."""
    out = Path(program[0]).with_name("slab.json")
    done = memtap("slab", "-f", "json", "-o", out, *how, "--", *program, input="abc")
    assert done.returncode == 0, done.stderr
    (report,) = finished(out)
    return report


def command(workload: Build, case: str, count: int = COUNT) -> list[str]:
    return [str(workload("slabber")), case, str(count)]


def test_what_a_child_allocates_is_the_childs(workload: Build) -> None:
    report = traced(command(workload, "child"), "-b", "process,cache")
    filp = called("filp")
    opened = [row for row in report["rows"] if row["cache"] == filp and row["allocs"] >= COUNT]
    assert [row["comm"] for row in opened] == ["slabber"]
    assert COUNT <= opened[0]["allocs"] <= COUNT + AS_LARGE
    parents = [row for row in report["rows"] if row["pid"] != opened[0]["pid"]]
    assert sum(row["allocs"] for row in parents if row["cache"] == filp) < 100


def slabinfo(cache: str) -> tuple[int, int, int]:
    """Active objects of a cache, the bytes that each takes, and how many a slab has."""
    for line in Path("/proc/slabinfo").read_text().splitlines():
        if line.split()[0] == cache:
            active, _, size, per_slab = map(int, line.split()[1:5])
            return active, size, per_slab
    raise AssertionError(f"no cache {cache}")


def test_bytes_are_those_that_the_kernel_tells_of_its_structs(workload: Build) -> None:
    rows = {row["cache"]: row for row in traced(command(workload, "eventfds"))["rows"]}
    files = rows[called("filp")]
    assert files["allocated_bytes"] == files["allocs"] * slabinfo("filp")[1]
    # The size of its struct, or of a larger one in a cache that SLUB has merged with it.
    size = int(Path("/sys/kernel/slab/filp/object_size").read_text())
    requested = pytest.approx(files["allocs"] * size, abs=AS_LARGE * size)
    assert files["requested_bytes"] == requested
    # do_eventfd() asks kmalloc() for a struct eventfd_ctx; some objects of that size are others'.
    contexts = rows["kmalloc-64"]
    assert COUNT <= contexts["allocs"] <= COUNT + OTHERS
    assert contexts["allocated_bytes"] == contexts["allocs"] * 64
    size = Kernel().btf.size("eventfd_ctx") or 0
    assert contexts["requested_bytes"] == pytest.approx(COUNT * size, abs=OTHERS * 64)
    assert contexts["waste_pct"] == pytest.approx(100 * (1 - size / 64), abs=0.1)


def test_blocks_larger_than_any_cache_are_counted_once(workload: Build) -> None:
    # A table of descriptors has 8 bytes for each, and doubles: 2048, 4096, 8192. The kernel tells
    # twice of each such kvmalloc(), by its own name and by its caller's.
    rows = {row["cache"]: row for row in traced(command(workload, "files", 5003))["rows"]}
    large = rows["kmalloc-large"]
    assert (large["allocs"], large["allocated_bytes"]) == (3, 8 * (2048 + 4096 + 8192))


def test_the_host_has_as_many_more_as_slabinfo_says(workload: Build, tmp_path: Path) -> None:
    out = tmp_path / "report"
    with slabber(workload, "files", 15_013) as program:
        with reporting(out, "slab", "0.2", "-f", "json"):
            before, _, per_slab = slabinfo("filp")
            program.go_on()
            assert eventually(lambda: counted(out, called("filp"))[0] >= 15_013)
            ours, theirs = counted(out, called("filp"))[2], slabinfo("filp")[0] - before
        # SLUB takes what is free in the slabs of a CPU (one, and some that are partly used) for
        # active; and files are opened by others, too.
        bound = len(Kernel().online_cpus) * per_slab * 10
        assert ours == pytest.approx(theirs, abs=bound + 500)
        assert ours >= 15_013 - 500


def test_the_site_is_the_code_that_allocated(workload: Build) -> None:
    rows = traced(command(workload, "eventfds"), "-b", "site")["rows"]
    functions = {row["site"].partition("+")[0]: row for row in rows if row["allocs"] >= COUNT}
    assert functions.keys() >= {"__d_alloc"} and functions.keys() & FILE_SITES
    assert all(row["site"].endswith("[kernel]") for row in functions.values())


def test_what_is_kept_is_told_with_its_stack_and_what_was_freed_is_not(
    workload: Build, tmp_path: Path
) -> None:
    out = tmp_path / "report"

    def kept(cache: str) -> list[Row]:
        leaks: list[Row] = finished(out)[-1]["leaks"]
        return [row for row in leaks if row["cache"] == called(cache)]

    with slabber(workload, "eventfds") as program:
        how = ["-p", program.pid, "--leaks", "--stacks", "-f", "json"]
        with reporting(out, "slab", "0.3", *how):
            program.go_on()
            assert eventually(lambda: [row["objects"] for row in kept("filp")] == [COUNT])
            (row,) = kept("filp")
            assert row["site"].partition("+")[0] in FILE_SITES
            assert row["pid"] == program.pid
            assert any("eventfd" in frame for frame in row["frames"])
            assert not any(frame.startswith("bpf") for frame in row["frames"])
            assert row["bytes"] == COUNT * slabinfo("filp")[1]
            ages = [row["age_ns"] for row in finished(out)[-1]["leaks"]]
            assert ages == sorted(ages, reverse=True)
            program.go_on()
            assert eventually(lambda: kept("filp") == [])
            assert eventually(lambda: kept("dentry") == [])


sees_rcu = pytest.mark.skipif(
    VARIANTS[0].name.endswith(ALONE), reason="nothing tells here of what kfree_rcu() frees"
)


@sees_rcu
@pytest.mark.parametrize("case", ["timerfds", "epolls"])
def test_what_kfree_rcu_has_freed_is_no_leak(case: str, workload: Build, tmp_path: Path) -> None:
    out = tmp_path / "report"

    def most_kept() -> int:
        return max((row["objects"] for row in finished(out)[-1]["leaks"]), default=0)

    with slabber(workload, case) as program:
        how = ["-p", program.pid, "--leaks", "-f", "json"]
        with reporting(out, "slab", "0.3", *how):
            program.go_on()
            assert eventually(lambda: most_kept() >= COUNT)
            program.go_on()
            # kfree_rcu() waits for more of it for up to five seconds.
            assert eventually(lambda: most_kept() <= OTHERS, LONGEST_S), finished(out)[-1]["leaks"]


@sees_rcu
def test_what_was_there_before_is_freed_once(workload: Build, tmp_path: Path) -> None:
    """Also where it is seen in the monitor's work and in a batch's, or first given away."""
    out = tmp_path / "report"
    size = Kernel().btf.size("timerfd_ctx") or 0
    tells_cache = "by-size" not in VARIANTS[0].name  # of an object that was there before
    cache = f"kmalloc-{1 << (size - 1).bit_length()}" if tells_cache else "[earlier]"
    with slabber(workload, "timerfds") as program:
        program.go_on()
        with reporting(out, "slab", "0.5", "-f", "json") as run:
            program.go_on()
            assert eventually(lambda: counted(out, cache)[2] <= OTHERS - COUNT, LONGEST_S)
            reports_by_now = len(finished(out))
            assert eventually(lambda: len(finished(out)) > reports_by_now + 4)
            run.send_signal(signal.SIGINT)
            run.wait(LONGEST_S)
        last = finished(out)[-1]
    assert counted(out, cache)[2] >= -COUNT - 10 * OTHERS
    assert "LIVE below 0: what was there before it began was freed" in last["audit"]["notes"]


def test_the_objects_of_before_are_nobodys(workload: Build, tmp_path: Path) -> None:
    out = tmp_path / "report"

    def freed() -> int:
        rows = [row for report in finished(out) for row in report["rows"]]
        return sum(row["frees"] for row in rows if row["comm"] == "[earlier]" and row["pid"] == 0)

    with slabber(workload, "files") as program:
        program.go_on()
        with reporting(out, "slab", "0.5", "-b", "process", "-f", "json"):
            program.go_on()
            assert eventually(lambda: freed() >= COUNT, LONGEST_S)
    names = {row["comm"] for report in finished(out) for row in report["rows"]}
    assert "[earlier]" in names
    assert {
        row["pid"] for r in finished(out) for row in r["rows"] if row["comm"] == "?"
    }.isdisjoint({0})


def test_each_object_of_a_tree_that_may_be_unseen_is_in_the_bound(
    workload: Build, tmp_path: Path
) -> None:
    """Maple trees free in bulk, and by kfree_rcu(): what is kept of them is said to be unsure."""
    report = traced(command(workload, "child"), "-b", "cache")
    live = {row["cache"]: abs(row["live"]) for row in report["rows"]}
    notes = report["audit"]["notes"]
    unbounded = next((note for note in notes if note.startswith("how far LIVE of")), "")
    unsure = sum(live.get(cache, 0) for cache in IN_BULK if cache not in unbounded)
    if VARIANTS[0].name.endswith(BATCHES):
        assert all(cache in unbounded for cache in live.keys() & (IN_BULK - TREES))
        assert not (unsure or unbounded) or report["audit"]["accuracy"] == "bounded"
        assert not unsure or any(f"off by {unsure:,} objects" in note for note in notes)


@contextmanager
def tracing(
    program: Slabber, variant: Variant, kernel: Kernel, most: int
) -> Iterator[Callable[[], Report]]:
    """Traces a program in a way of the plan; gives what makes the report of all since then."""
    filter = Filter(by_tgid=True)
    settings = (BY_PROCESS, objects(most))
    attempts = Attempts(Request(replace(PLAN, variants=(variant,)), filter, settings), kernel, None)
    processes = Processes(kernel.btf, kernel.possible_cpus)
    try:
        live = Live(
            attempts.wait(),
            kernel,
            processes,
            lambda session: SlabEnricher(session, finds_leaks=False),
            [program.pid],
        )
        reporter = Slab(live.origin, ("cache",))

        def report() -> Report:
            made = reporter.feed(live.collect(ends=True))
            assert made
            return made

        try:
            yield report
        finally:
            live.close()
    finally:
        processes.close()
        attempts.abandon()


@pytest.mark.parametrize("case", with_standbys(VARIANTS))
def test_each_variant_counts_the_same(case: tuple[Variant, Kernel], workload: Build) -> None:
    with slabber(workload, "eventfds") as program, tracing(program, *case, 1 << 16) as report:
        program.go_on()
        rows = {row["cache"]: row for row in report().rows}
        filp, dentry = called("filp"), called("dentry")
        assert COUNT <= rows[filp]["live"] <= rows[filp]["allocs"] <= COUNT + AS_LARGE
        assert COUNT <= rows["kmalloc-64"]["allocs"] <= COUNT + 10
        program.go_on()

        def is_back() -> bool:
            rows = {row["cache"]: row["live"] for row in report().rows}
            return max(rows.get(filp, 0), rows.get(dentry, 0)) <= AS_LARGE

        assert eventually(is_back)


def test_it_is_said_when_no_more_objects_can_be_remembered(workload: Build) -> None:
    room = 1000
    with (
        slabber(workload, "files") as program,
        tracing(program, VARIANTS[0], Kernel(), room) as report,
    ):
        program.go_on()
        made = report()
        assert made.audit["map_full"] >= COUNT - room
        assert made.audit["accuracy"] == "estimated"
        (files,) = (row for row in made.rows if row["cache"] == called("filp"))
        # These are counted all the same.
        assert COUNT <= files["allocs"] <= COUNT + AS_LARGE


def test_a_replay_is_the_live_report_and_can_be_asked_for_more(
    workload: Build, tmp_path: Path
) -> None:
    recording, live = tmp_path / "r.parquet", tmp_path / "live"
    how = ["-f", "json"]

    def files_opened(pipes: int) -> int:
        options = ["--record", recording, "-o", live, "--", *command(workload, "pipes", pipes)]
        done = memtap("slab", "0.2", *how, *options, input="abc")
        assert done.returncode == 0, done.stderr
        assert memtap("slab", *how, "--from", recording).stdout == live.read_text()
        again = reports(memtap("slab", "-b", "process,site", *how, "--from", recording).stdout)
        rows = [row for report in again for row in report["rows"]]
        mine = [row for row in rows if row["comm"] == "slabber"]
        return sum(row["allocs"] for row in mine if row["site"].partition("+")[0] in FILE_SITES)

    # How many a program opens as it is started depends on the machine, but is always the same.
    assert files_opened(503) - files_opened(3) == pytest.approx(2 * 500, abs=5)


def test_all_keys_count_the_same_events(workload: Build, tmp_path: Path) -> None:
    recording = tmp_path / "r.parquet"
    done = memtap("slab", "0.2", "2", "--record", recording)
    assert done.returncode == 0, done.stderr
    totals = set()
    for by in "cache", "site", "process", "process,site,cache":
        text = memtap("slab", "-b", by, "-f", "json", "--from", recording).stdout
        rows = [row for report in reports(text) for row in report["rows"]]
        names = ("allocs", "frees", "requested_bytes", "allocated_bytes")
        totals.add(tuple(sum(row[name] for row in rows) for name in names))
    assert len(totals) == 1
