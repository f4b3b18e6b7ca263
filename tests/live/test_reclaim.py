"""Memory that is short: in a cgroup with a limit, by swap, by compaction; and what memtap says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from memtap.bpf.kernel import Kernel
from tests.live.limits import Limited, limited
from tests.live.tracing import PAGE, Row, evict, make_file, memtap, reports, slower

LIMIT = 8 << 20
FILE_PAGES = 8192
READS = 30_000
DELAYACCT = Path("/proc/sys/kernel/task_delayacct")

# Of a stall, what the kernel's own clock leaves out, and of all stalls together.
STALL_NS, SHARE = slower(2000), 0.03

# A small program, and the shell that starts it, have no more of their own.
OWN_PAGES = 128

Build = Callable[[str], Path]


@pytest.fixture(scope="module", autouse=True)
def delays() -> Iterator[None]:
    """Tasks are timed by the kernel too."""
    if not DELAYACCT.exists():  # before 0cd7c741f01d they always are
        yield
        return
    before = DELAYACCT.read_text()
    DELAYACCT.write_text("1")
    yield
    DELAYACCT.write_text(before)


@pytest.fixture
def cgroup() -> Iterator[Limited]:
    with limited(LIMIT) as found:
        yield found


@pytest.fixture(scope="module")
def file(disk: Path) -> Path:
    return make_file(disk / "thrashed", FILE_PAGES)


@dataclass
class Traced:
    """A program that ran under `memtap reclaim` in a cgroup.

    Attributes:
        row: of the process that is the program.
        report: the one report.
        recording: of it.
    """

    row: Row
    report: dict[str, Any]
    recording: Path

    @property
    def kernel(self) -> dict[str, int]:
        counters: dict[str, int] = self.report["audit"]["kernel"]
        return counters

    def replay(self, *options: str) -> str:
        done = memtap("reclaim", *options, "-f", "json", "--from", self.recording)
        assert done.returncode == 0, done.stderr
        return done.stdout


Run = Callable[..., Traced]


@pytest.fixture
def traced(tmp_path: Path, cgroup: Limited) -> Run:
    """Runs a program under memtap, in the cgroup."""

    def run(*program: object) -> Traced:
        report, recording = tmp_path / "report", tmp_path / "r.parquet"
        join = ["sh", "-c", 'echo $$ > "$0"; exec "$@"', cgroup.folder / "cgroup.procs"]
        how = ["-f", "json", "-o", report, "--record", recording, "--", *join]
        done = memtap("reclaim", *how, *map(str, program))
        assert done.returncode == 0, done.stderr
        (found,) = reports(report.read_text())
        audit = found["audit"]
        assert (audit["lost"], audit["missed"], audit["map_full"]) == (0, 0, 0)
        assert audit["accuracy"] == "exact"
        (row,) = found["rows"]
        return Traced(row, found, recording)

    return run


def agrees_with_delays(found: Traced) -> None:
    """Each stall is one that delay accounting counted too, and takes as long.

    A reclaim that frees nothing at first starts over; delay accounting counts that once more.
    """
    row, kernel = found.row, found.kernel
    assert 50 < row["direct_reclaims"] == row["memcg_reclaims"] <= kernel["freepages_count"]
    bound = SHARE * row["stall_ns"] + STALL_NS * row["direct_reclaims"]
    assert row["stall_ns"] == pytest.approx(kernel["freepages_delay_total"], abs=bound)
    assert 0 < row["p99_ns"] <= row["max_ns"] <= row["stall_ns"]


def test_a_reader_reclaims_what_it_reads_beyond_the_limit(
    file: Path, workload: Build, traced: Run, cgroup: Limited
) -> None:
    evict(file)
    found = traced(workload("random_reader"), file, READS)
    agrees_with_delays(found)
    row, stat = found.row, cgroup.stat()
    assert row["reclaimed_pages"] > 2 * LIMIT // PAGE
    assert row["efficiency_pct"] == pytest.approx(
        100 * row["reclaimed_pages"] / row["scanned_pages"], abs=0.01
    )
    if cgroup.version == 1:  # besides, the program's own pages left when it ended
        assert 0 <= stat["pgpgout"] - row["reclaimed_pages"] <= OWN_PAGES
    else:
        assert row["reclaimed_pages"] == stat["pgsteal"]
        sorted_pages = stat["pgrefill"] if has_generations() else 0
        assert stat["pgscan"] <= row["scanned_pages"] <= stat["pgscan"] + sorted_pages


def has_generations() -> bool:
    """Whether the kernel sorts pages by generations; what it only moves on is scanned, too."""
    enabled = Path("/sys/kernel/mm/lru_gen/enabled")
    return enabled.exists() and int(enabled.read_text(), 16) & 1 == 1


@pytest.mark.usefixtures("swap")
def test_swapped_pages_are_those_that_the_kernel_counts(
    workload: Build, traced: Run, cgroup: Limited
) -> None:
    cgroup.limit(LIMIT, swaps=True)
    with_swap = LIMIT // PAGE * 2
    found = traced(workload("swapper"), with_swap, 3)
    agrees_with_delays(found)
    row, kernel = found.row, found.kernel
    assert row["swapout_pages"] == kernel["pswpout"] > with_swap
    assert row["swapin_pages"] == kernel["pswpin"] > with_swap
    # Before a3d5dc908a5f only waiting for a device counted as such.
    if Kernel().btf.member("task_delay_info", "swapin_start"):
        assert kernel["swapin_delay_total"] > 0


def zones() -> int:
    """How many zones have memory."""
    present = re.findall(r"^ +present +(\d+)$", Path("/proc/zoneinfo").read_text(), re.M)
    return sum(int(pages) > 0 for pages in present)


def test_compaction_of_all_is_one_of_each_zone(tmp_path: Path) -> None:
    out = tmp_path / "report"
    compact = ["sh", "-c", "echo 1 > /proc/sys/vm/compact_memory"]
    done = memtap("reclaim", "-f", "json", "-o", out, "--", *compact)
    assert done.returncode == 0, done.stderr
    (report,) = reports(out.read_text())
    (row,) = report["rows"]
    assert (row["comm"], row["compactions"]) == ("sh", zones())
    assert 0 < row["compaction_ns"] < report["interval_s"] * 1e9
    assert row["direct_reclaims"] == row["stall_ns"] == 0
    assert row["p99_ns"] is row["efficiency_pct"] is None


def test_a_replay_is_the_live_report_byte_for_byte_and_keys_share_the_sums(
    file: Path, workload: Build, traced: Run
) -> None:
    found = traced(workload("random_reader"), file, READS)
    (again,) = reports(found.replay())
    assert again == found.report
    for key, name in (("cgroup", "cgroup"), ("node", "node")):
        (report,) = reports(found.replay("-b", key))
        (row,) = report["rows"]
        assert name in row
        assert {n: row[n] for n in row if n != name} == {n: found.row[n] for n in row if n != name}


def test_others_are_left_out(file: Path, workload: Build, tmp_path: Path, cgroup: Limited) -> None:
    evict(file)
    out = tmp_path / "report"
    with cgroup.start(workload("random_reader"), file, 10 * READS) as reader:
        done = memtap("reclaim", "0.5", "1", "-c", "nobody", "-f", "json", "-o", out)
        with_it = memtap("reclaim", "0.5", "1", "--cgroup", cgroup.folder, "-f", "json")
        reader.kill()
    assert done.returncode == with_it.returncode == 0, with_it.stderr
    assert reports(out.read_text())[0]["rows"] == []
    (row,) = reports(with_it.stdout)[0]["rows"]
    assert (row["comm"], row["cgroup"]) == ("random_reader", cgroup.path)
    assert row["memcg_reclaims"] > 0
