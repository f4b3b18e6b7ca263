"""ps and pmap: what is read of real processes, and what is made of snapshots."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memtap.bpf.errors import MemtapError
from memtap.tracers.code.mappings import Mappings
from memtap.tracers.host import procfs
from memtap.tracers.model.report import Row
from memtap.tracers.ps.columns import pmap_columns, ps_columns
from memtap.tracers.ps.costly import thread_names
from memtap.tracers.ps.pmap import report
from memtap.tracers.ps.report import Ps, changes, grouped, summed
from memtap.tracers.ps.snapshot import Reader, Snapshot, Wanted

KTHREADD = 2
WORKLOADS = Path(__file__).resolve().parents[2] / "workloads"


@contextmanager
def waiting(code: str = "") -> Iterator[int]:
    """A process that has run some Python and waits for its end."""
    program = [sys.executable, "-c", f"{code}\nprint(flush=True); input()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(program, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout
        process.stdout.readline()
        yield process.pid
        process.kill()


@pytest.fixture
def zombie() -> Iterator[int]:
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    yield child
    os.waitpid(child, 0)


def named(name: str) -> str:
    """Python that gives its process a name."""
    return f"open('/proc/self/comm', 'w').write({name!r})"


def thread_stacks(pid: int) -> int:
    return [row["region"] for row in pmap(pid)].count("thread-stack")


def look(*pids: int, **how: Any) -> Snapshot:
    return Reader(Wanted(pids, **how)).look()


def only(seen: Snapshot) -> Row:
    (row,) = seen.rows
    return row


# Reading.


def test_a_process_is_told_as_proc_tells_it() -> None:
    with waiting(named("sleepy")) as pid:
        row = only(look(pid, cgroups=True))
        statm = [
            int(n) * os.sysconf("SC_PAGESIZE") for n in procfs.read(f"/proc/{pid}/statm").split()
        ]
        status = Path(f"/proc/{pid}/status").read_text()
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert [row["virt_bytes"], row["res_bytes"], row["shr_bytes"]] == statm[:3]
    assert (row["pid"], row["ppid"], row["comm"]) == (pid, os.getpid(), "sleepy")
    assert (row["uid"], row["oom_score_adj"]) == (
        os.getuid(),
        int(Path("/proc/self/oom_score_adj").read_text()),
    )
    pte = re.search(r"VmPTE:\s+(\d+)", status)
    assert pte and row["pgtables_bytes"] == int(pte[1]) * 1024
    assert (row["minor"], row["major"]) == (int(stat[7]), int(stat[9]))
    assert 0 < row["uss_bytes"] <= row["pss_bytes"] <= row["res_bytes"]
    assert row["cgroup"].startswith("/")
    peak = re.search(r"VmHWM:\s+(\d+)", status)
    assert peak
    assert row["peak_bytes"] == int(peak[1]) * 1024 >= row["res_bytes"]


def test_all_processes_are_found_the_largest_first() -> None:
    with waiting() as pid:
        seen = look()
    pids = [row["pid"] for row in seen.rows]
    assert {pid, os.getpid()} <= set(pids)
    assert len(pids) == len(set(pids))
    sizes = [row["res_bytes"] for row in seen.rows]
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes) > 0


def test_a_zombie_has_no_memory(zombie: int) -> None:
    assert zombie not in {row["pid"] for row in look().rows}
    assert look().without_memory > 0
    row = only(look(zombie))
    assert {row[name] for name in row if name.endswith("_bytes")} == {0}
    assert row["comm"] == "true"


@pytest.mark.skipif(
    not Path(f"/proc/{KTHREADD}").exists(), reason="kernel threads are not seen here"
)
def test_a_kernel_thread_is_shown_if_it_is_asked_for() -> None:
    assert KTHREADD not in {row["pid"] for row in look().rows}
    row = only(look(KTHREADD))
    assert (row["comm"], row["res_bytes"], row["pss_bytes"]) == ("kthreadd", 0, 0)


def test_a_process_that_is_gone_is_no_error() -> None:
    with waiting() as pid:
        pass
    seen = look(pid)
    assert (seen.rows, seen.unread) == ([], 0)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a) R 1 (b", "a) R 1 (b"),
        ("\nUid:\t7\n", r"\nUid:\t7\n"),
        ("\x1b[31m\\", r"\x1b[31m\\"),
    ],
)
def test_a_name_cannot_lie(name: str, shown: str) -> None:
    with waiting(named(name)) as pid:
        row = only(look(pid))
        assert (row["comm"], row["uid"], row["ppid"]) == (shown, os.getuid(), os.getpid())
        assert [row["pid"] for row in look(comms=(name,)).rows] == [pid]


def test_the_peak_stays_when_memory_was_given_back() -> None:
    with waiting("x = b'x' * (40 << 20); del x") as pid:
        row = only(look(pid))
    assert row["peak_bytes"] - row["res_bytes"] > 39 << 20


def test_arguments_and_threads_are_told_if_they_are_asked_for() -> None:
    threads = "\n".join(
        (
            "import threading",
            "def named(name, told):",
            "    open('/proc/thread-self/comm', 'w').write(name); told.release(); input()",
            "told = threading.Semaphore(0)",
            "for name in ['worker', 'worker', 'gc\\x1b[31m']:",
            "    threading.Thread(target=named, args=(name, told), daemon=True).start()",
            "    told.acquire()",
            named("boss"),
        )
    )
    with waiting(threads) as pid:
        row = only(look(pid, args=True, threads=True))
        (plain,) = look(pid).rows
    assert row["threads"] == 4
    assert sorted(row["thread_names"].split(", ")) == ["boss", r"gc\x1b[31m", "worker (2)"]
    assert row["args"].startswith(f"{sys.executable} -c ")
    assert row["args"].isprintable()
    assert {"args", "thread_names"}.isdisjoint(plain)


def test_of_many_names_of_threads_the_rest_is_counted() -> None:
    code = "\n".join(
        (
            "import threading",
            "def named(name, told):",
            "    open('/proc/thread-self/comm', 'w').write(name); told.release(); input()",
            "told = threading.Semaphore(0)",
            "for number in range(20):",
            "    threading.Thread(target=named, args=(f't{number}', told), daemon=True).start()",
            "    told.acquire()",
        )
    )
    with waiting(code) as pid:
        names = thread_names(pid).split(", ")
    assert (len(names), names[-1]) == (9, "13 others")


# In time.


def test_what_is_cheap_is_read_when_no_time_is_left() -> None:
    with waiting() as pid:
        seen = Reader(Wanted(args=True, threads=True), budget_s=0).look()
        (row,) = (row for row in seen.rows if row["pid"] == pid)
        resident = procfs.read(f"/proc/{pid}/statm").split()[1]
    assert row["res_bytes"] == int(resident) * os.sysconf("SC_PAGESIZE")
    late = [row for row in seen.rows if row["pss_bytes"] is None]
    assert seen.late == len(late) == len(seen.rows) > 1
    for name in ("pss_bytes", "uss_bytes", "swap_bytes", "thread_names"):
        assert row[name] is None
    assert row["args"] == "?"


def test_the_largest_are_read_first() -> None:
    """However little time there is, whatever was read stands before all that was not."""
    cheap_s = timed(Reader(Wanted(), budget_s=0).look)
    for part in range(1, 6):
        rows = Reader(Wanted(), budget_s=cheap_s * (1 + part / 20)).look().rows
        known = [row["pss_bytes"] is not None for row in rows]
        assert known == sorted(known, reverse=True)


def test_what_is_named_is_read_however_long_it_takes() -> None:
    comm = procfs.read("/proc/self/comm").decode().rstrip("\n")
    for wanted in (Wanted(pids=(os.getpid(),)), Wanted(comms=(comm,))):
        seen = Reader(wanted, budget_s=0).look()
        assert seen.late == 0
        assert all(row["pss_bytes"] for row in seen.rows)


def timed(run: Callable[[], Any]) -> float:
    begin = time.monotonic()
    run()
    return time.monotonic() - begin


# Changes.


def test_what_grew_is_the_change(tmp_path: Path) -> None:
    # It shares no page: PSS and USS change whenever another begins or ends that maps the same.
    program = tmp_path / "grower"
    subprocess.check_call(["cc", "-O1", "-static", "-o", program, WORKLOADS / "grower.c"])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([program], **pipes) as process:  # type: ignore[call-overload]
        process.stdout.readline()
        before = look(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        (row,) = changes(before.rows, look(process.pid).rows)
        process.kill()
    for name in ("virt_bytes", "res_bytes", "pss_bytes", "uss_bytes"):
        assert 1 << 20 <= row[name] <= 5 << 19, name
    assert row["processes"] == 0


def test_who_began_and_who_ended_is_a_change() -> None:
    with waiting() as pid:
        seen = look(pid)
    (began,), (ended,) = changes([], seen.rows), changes(seen.rows, [])
    row = only(seen)
    assert began == row
    for name in ("virt_bytes", "res_bytes", "pss_bytes", "uss_bytes", "pgtables_bytes"):
        assert ended[name] == -row[name]
    assert (began["processes"], ended["processes"]) == (1, -1)
    assert (ended["minor"], ended["major"]) == (None, None)


def test_who_did_nothing_is_left_out() -> None:
    seen = look(os.getpid())
    assert changes(seen.rows, seen.rows) == []


def test_a_number_that_is_used_again_is_another_process() -> None:
    row = only(look(os.getpid()))
    later = row | {"start": row["start"] + 1}
    assert sorted(each["processes"] for each in changes([row], [later])) == [-1, 1]


# Sums.


def test_groups_add_up_to_the_whole() -> None:
    rows = look(cgroups=True).rows
    for names in (["user"], ["comm"], ["cgroup"], ["user", "comm"]):
        groups = grouped(rows, names)
        assert summed(groups) == summed(rows)
        assert len({tuple(group[name] for name in names) for group in groups}) == len(groups)


def test_what_is_not_known_is_in_no_sum() -> None:
    row = only(look(os.getpid()))
    unknown = row | {"pss_bytes": None, "swap_bytes": None}
    assert summed([row, unknown])["pss_bytes"] == row["pss_bytes"]
    assert summed([unknown])["pss_bytes"] is None
    assert summed([])["pss_bytes"] == 0


def make_report(seen: Snapshot) -> dict[str, Any]:
    columns = ps_columns(("process",), "kib", changes=False, tree=False)
    return Ps(("process",), columns).report(seen).to_dict()


def test_what_was_not_read_bounds_the_report() -> None:
    seen = look(os.getpid(), args=True)
    found = make_report(seen)["audit"]
    assert (found["accuracy"], found["events"], found["notes"]) == ("exact", 1, [])
    seen = replace(seen, unread=3, late=1, without_memory=5)
    found = make_report(seen)["audit"]
    assert found["accuracy"] == "bounded"
    assert [note.split(":")[0] for note in found["notes"]] == [
        "PSS, USS and SWAP of 3 processes are not ours to read, so their totals are lower bounds",
        "PSS, USS and SWAP of 1 process was not read in time, so their totals are lower bounds",
        "5 kernel threads and zombies are left out",
    ]


def test_an_interval_has_the_kernels_counters_of_it() -> None:
    columns = ps_columns(("process",), "kib", changes=True, tree=False)
    before = look(os.getpid())
    time.sleep(0.01)
    seen = look(os.getpid())
    found = Ps(("process",), columns).change(before, seen)
    assert found.interval_s == pytest.approx(seen.at_s - before.at_s, abs=0.001)
    assert found.audit["kernel"]["pgfault"] == seen.kernel["pgfault"] - before.kernel["pgfault"]


# pmap.


def pmap(pid: int, wide: bool = False) -> list[Row]:
    return report(pid, pmap_columns("kib", wide, extended=False)).rows


def test_regions_are_named_as_faults_names_them() -> None:
    with waiting() as pid:
        rows = pmap(pid)
        mappings = Mappings()
        space = mappings.read(pid)
    places = [mappings.places[number] for number in space.numbers]
    assert [(row["start"], row["end"]) for row in rows] == list(
        zip(space.starts, space.ends, strict=True)
    )
    assert [(row["region"], row["mapping"]) for row in rows] == [
        (p.region.text, p.path) for p in places
    ]
    assert {"heap", "stack", "text", "data", "file", "anon", "vdso"} <= {
        row["region"] for row in rows
    }


def test_a_thread_that_waits_has_a_stack() -> None:
    with waiting(
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    ) as pid:
        end = time.monotonic() + 10
        while (stacks := thread_stacks(pid)) != 1 and time.monotonic() < end:
            time.sleep(0.01)  # it runs for a moment before it waits
        assert stacks == 1


def test_the_path_of_a_mapping_cannot_lie(tmp_path: Path) -> None:
    path = tmp_path / "Size: 1 kB\nRss: 8888 kB\nVmFlags: \x1b[31m 9 kB"
    path.write_bytes(b"x" * 5000)
    with waiting(
        f"import mmap; f = open({str(path)!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, prot=1)"
    ) as pid:
        (row,) = (row for row in pmap(pid) if str(tmp_path) in row["mapping"])
    assert row["size_bytes"] == 8192
    assert row["mapping"].isprintable()


def test_what_has_no_address_space_is_said(zombie: int) -> None:
    with pytest.raises(MemtapError, match=f"process {zombie} has no address space"):
        pmap(zombie)
