"""Processes that are driven over the limit of their cgroup, and what memtap says of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memtap.bpf.kernel import Kernel
from memtap.tracers.oom import badness
from tests.live.limits import Limited, limited
from tests.live.tracing import PAGE, Row, eventually, make_file, memtap, reporting, reports

LIMIT = 32 << 20
ANON, SHARED, FILE = 1009, 307, 211

Build = Callable[[str], Path]


@pytest.fixture
def cgroup() -> Iterator[Limited]:
    with limited(LIMIT) as found:
        yield found


@pytest.fixture
def hog(workload: Build, disk: Path) -> list[object]:
    """The command of a process that will be killed."""
    return [workload("hog"), ANON, SHARED, make_file(disk / "hogged", FILE), FILE]


def has_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def stopped(cgroup: Limited, command: list[object]) -> subprocess.Popen[str]:
    """A hog that has touched what it was told to."""
    process = cgroup.start(*command, stdout=subprocess.DEVNULL)
    assert eventually(lambda: has_stopped(process.pid))
    return process


def victims(out: Path) -> list[Row]:
    return [row for report in reports(out.read_text()) for row in report["rows"]]


def killed(out: Path, process: subprocess.Popen[str]) -> Row:
    """The row of a process that is driven over its limit."""
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(30) == -signal.SIGKILL
    assert eventually(lambda: len(victims(out)) > 0)
    (row,) = victims(out)
    return row


def log_of(pid: int) -> dict[str, int]:
    """The numbers in the kernel's own line on a victim, bytes."""
    log = subprocess.check_output(["dmesg"], text=True)
    line = next(x for x in reversed(log.splitlines()) if f"Killed process {pid} " in x)
    return {name: int(kib) << 10 for name, kib in re.findall(r"([\w-]+):(\d+)kB", line)}


def test_a_victim_is_told_with_the_sizes_of_the_kernel_log(
    cgroup: Limited, hog: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "report"
    with reporting(out, "oom", "-f", "json"):
        process = stopped(cgroup, hog)
        row = killed(out, process)
    logged = log_of(process.pid)
    assert row["total_vm_bytes"] == logged["total-vm"]
    assert row["pgtables_bytes"] == logged["pgtables"]
    # Each CPU can hold back as many pages of each kind; 7.x adds them up for its log.
    bound = 32 * PAGE * (os.cpu_count() or 1)
    for kind in ("anon", "file", "shmem"):
        assert abs(row[f"{kind}_rss_bytes"] - logged[f"{kind}-rss"]) <= bound
    assert (row["pid"], row["comm"], row["uid"]) == (process.pid, "hog", os.geteuid())
    assert (row["trigger_pid"], row["trigger_comm"]) == (process.pid, "hog")
    assert (row["cgroup"], row["constraint"]) == (cgroup.path, "memcg")
    assert row["limited_cgroup"] == cgroup.path
    # A file on tmpfs is shared memory.
    assert row["shmem_rss_bytes"] >= SHARED * PAGE - bound
    assert row["file_rss_bytes"] + row["shmem_rss_bytes"] >= (SHARED + FILE) * PAGE - 2 * bound
    assert row["anon_rss_bytes"] > ANON * PAGE
    assert row["anon_rss_bytes"] + row["shmem_rss_bytes"] <= LIMIT + bound


def test_who_asked_is_not_who_is_killed(cgroup: Limited, hog: list[object], tmp_path: Path) -> None:
    out = tmp_path / "report"
    with reporting(out, "oom", "--explain", "-f", "json"):
        victim, asker, bystander = (stopped(cgroup, hog) for _ in range(3))
        Path(f"/proc/{victim.pid}/oom_score_adj").write_text("1000")
        os.kill(asker.pid, signal.SIGCONT)
        assert victim.wait(30) == -signal.SIGKILL
        assert eventually(lambda: len(victims(out)) > 0)
        row = victims(out)[0]
        assert (row["pid"], row["oom_score_adj"]) == (victim.pid, 1000)
        assert row["trigger_pid"] == asker.pid
        assert asker.wait(30) == -signal.SIGKILL
        assert eventually(lambda: len(victims(out)) == 2)
        bystander.kill()
        bystander.wait()
    told = " ".join(line for r in reports(out.read_text()) for line in r.get("explanation", []))
    assert f"hog ({victim.pid}) was killed: hog ({asker.pid}) asked for memory" in told
    assert f"cgroup {cgroup.path} reached its limit" in told
    assert "by its oom_score_adj of 1000)." in told
    assert f"hog ({bystander.pid}) had" in told


def test_only_victims_that_were_asked_for_are_told(hog: list[object], tmp_path: Path) -> None:
    out = tmp_path / "report"
    with limited(LIMIT) as cgroup:
        wanted, other = stopped(cgroup, hog), stopped(cgroup, hog)
        Path(f"/proc/{other.pid}/oom_score_adj").write_text("1000")
        with reporting(out, "oom", "-p", wanted.pid, "-f", "json"):
            os.kill(other.pid, signal.SIGCONT)
            assert other.wait(30) == -signal.SIGKILL
            row = killed(out, wanted)
    assert row["pid"] == wanted.pid


def test_a_replay_is_the_live_report_byte_for_byte(hog: list[object], tmp_path: Path) -> None:
    out, recording = tmp_path / "report", tmp_path / "r.parquet"
    how = ["--explain", "-f", "json", "--record", recording]
    with limited(LIMIT) as cgroup, reporting(out, "oom", *how) as run:
        killed(out, stopped(cgroup, hog))
        run.send_signal(signal.SIGINT)
        assert run.wait(30) == 0
    again = memtap("oom", "--explain", "-f", "json", "--from", recording)
    assert again.returncode == 0, again.stderr
    assert again.stdout == out.read_text()


# Only who has CAP_SYS_RESOURCE may lower it.
LOWERED = [-1000, -999, -500, -1] if Kernel().capabilities >> 24 & 1 else []


@pytest.mark.parametrize("adj", [*LOWERED, 0, 1, 300, 999, 1000])
def test_the_formula_gives_the_score_of_the_kernel(adj: int, hog: list[object]) -> None:
    with subprocess.Popen(list(map(str, hog)), stdout=subprocess.DEVNULL) as process:
        try:
            assert eventually(lambda: has_stopped(process.pid))
            Path(f"/proc/{process.pid}/oom_score_adj").write_text(str(adj))
            assert computed(process.pid) == score_of(process.pid)
        finally:
            process.kill()


def score_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score").read_text())


def computed(pid: int) -> int:
    found = badness.read(pid)
    assert found is not None
    held = found.resident + found.swap + found.pgtables
    return badness.score_of(held, found.adj, badness.host_scope(), PAGE)


def test_a_large_process_has_the_score_of_the_formula(hog: list[object]) -> None:
    """So large that the score is not that of a process that holds nothing."""
    size = min(1 << 30, badness.host_scope() // 4)
    command = [str(hog[0]), str(size // PAGE), "0", str(hog[3]), "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            assert eventually(lambda: has_stopped(process.pid), 30)
            assert computed(process.pid) == score_of(process.pid) > 667
        finally:
            process.kill()


def ranking(*options: object) -> dict[str, Any]:
    done = memtap("oom", "--scores", "-f", "json", *map(str, options))
    assert done.returncode == 0, done.stderr
    (report,) = reports(done.stdout)
    return report


def test_the_ranking_shows_what_makes_the_score(hog: list[object]) -> None:
    with subprocess.Popen(list(map(str, hog)), stdout=subprocess.DEVNULL) as process:
        try:
            assert eventually(lambda: has_stopped(process.pid))
            Path(f"/proc/{process.pid}/oom_score_adj").write_text("900")
            rows = ranking()["rows"]
            true = badness.read(process.pid)
        finally:
            process.kill()
    assert true is not None
    assert [row["oom_score"] for row in rows] == sorted(
        (row["oom_score"] for row in rows), reverse=True
    )
    (row,) = (row for row in rows if row["pid"] == process.pid)
    assert (row["comm"], row["oom_score"], row["oom_score_adj"]) == ("hog", true.score, 900)
    assert (row["res_bytes"], row["pgtables_bytes"]) == (true.resident, true.pgtables)
    assert row["adj_bytes"] == pytest.approx(0.9 * badness.host_scope(), rel=0.005)
