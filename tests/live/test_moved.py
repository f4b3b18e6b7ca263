"""Memory that mremap(2) moves, of which the kernel tells nobody: its faults are still its own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from memtap.tracers.code.mappings import Region
from tests.live.tracing import Row, make_file, memtap, reports, scaled

Build = Callable[[str], Path]

PAGES = scaled(1600)

# What of the program itself and of its libraries is anonymous memory, too.
OTHERS = 24


@pytest.fixture(scope="module")
def file(disk: Path) -> Path:
    return make_file(disk / "moved", PAGES)


def faults_of(folder: Path, *program: object) -> tuple[dict[str, Any], int]:
    """The report of a program, and the number that it prints."""
    out = folder / "report"
    how = ["-b", "region,cause,file", "--explain", "-f", "json", "-o", out]
    done = memtap("faults", *how, "--", *map(str, program))
    assert done.returncode == 0, done.stderr
    (report,) = reports(out.read_text())
    return report, int(done.stdout)


def total(rows: list[Row], **wanted: str) -> int:
    return sum(row["total"] for row in rows if wanted.items() <= row.items())


@pytest.mark.parametrize(
    "case",
    [
        *("grow", "threads", "over-a-file", "a-part", "kept", "into-the-middle", "heap"),
        *("above-a-file", "file", "memfd", "twice", "shrink"),
    ],
)
def test_what_was_moved_is_what_it_was(
    case: str, workload: Build, file: Path, tmp_path: Path
) -> None:
    report, touched = faults_of(tmp_path, workload("mover"), case, file, PAGES)
    rows = report["rows"]
    assert total(rows, region="?") == 0
    if case == "file":
        assert total(rows, region="file", cause="file-map", path=str(file)) == touched
    elif case in ("memfd", "twice", "shrink"):
        assert total(rows, region="shm", cause="shm", path="/memfd:moved (deleted)") == touched
    else:
        found = total(rows, region="anon", cause="first-touch")
        assert touched <= found <= touched + OTHERS
        assert total(rows, region="file", path=str(file)) == 0


def test_what_is_moved_at_once_leaves_what_stood_in_its_gaps(
    workload: Build, file: Path, tmp_path: Path
) -> None:
    """A third of it is anonymous memory, one the gap, and one a memfd."""
    program = [workload("mover"), "gaps", file, str(PAGES)]
    if subprocess.run(program, check=False, capture_output=True).returncode == 77:
        pytest.skip("this kernel moves one mapping at a time")
    report, touched = faults_of(tmp_path, *program)
    rows, third = report["rows"], PAGES // 3
    assert total(rows, region="file", cause="file-map", path=str(file)) == touched - 2 * third > 0
    assert total(rows, region="shm", cause="shm", path="/memfd:moved (deleted)") == third
    assert third <= total(rows, region="anon", cause="first-touch") <= third + OTHERS
    assert total(rows, region="?") == 0


@pytest.mark.parametrize("seed", range(1, 5))
def test_whatever_is_mapped_and_moved_and_cut_and_protected(
    seed: int, workload: Build, tmp_path: Path
) -> None:
    recording, program = tmp_path / "r.parquet", [workload("remapper"), seed, scaled(400)]
    how = ["-o", tmp_path / "out", "--record", recording]
    done = memtap("faults", *how, "--", *map(str, program))
    assert done.returncode == 0, done.stderr
    start, end, *counts = done.stdout.split()
    inside = pl.col("address").is_between(int(start, 16), int(end, 16), closed="left")
    rows = pl.read_parquet(recording).filter(pl.col("head").is_null(), inside)
    found = dict(rows.group_by("region").agg(pl.col("count").sum()).iter_rows())
    regions = (Region.ANON, Region.SHM, Region.DATA)
    assert found == dict(zip(regions, map(int, counts), strict=True))


@pytest.mark.parametrize("case", ["grow", "threads", "kept"])
def test_what_was_moved_was_not_given_back(
    case: str, workload: Build, file: Path, tmp_path: Path
) -> None:
    report, _ = faults_of(tmp_path, workload("mover"), case, file, PAGES)
    assert not any("given back" in sentence for sentence in report["explanation"])


def test_another_program_gives_nothing_back(workload: Build, tmp_path: Path) -> None:
    """Without chance in its addresses it has the same ones, in the same process."""
    once = f"{workload('mallocer')} keep 2000 1000"
    program = ["setarch", "-R", "sh", "-c", f"exec setarch -R {once}"]
    out = tmp_path / "report"
    done = memtap("faults", "--explain", "-f", "json", "-o", out, "--", *program)
    assert done.returncode == 0, done.stderr
    (report,) = reports(out.read_text())
    assert not any("given back" in sentence for sentence in report["explanation"])


def test_malloc_keeps_the_path_of_a_block_that_grows(workload: Build, tmp_path: Path) -> None:
    out = tmp_path / "report"
    program = [workload("mallocer"), "resize", 16, 300_000]
    how = ["-b", "process,path", "-f", "json", "-o", out]
    done = memtap("malloc", *how, "--", *map(str, program))
    assert done.returncode == 0, done.stderr
    (report,) = reports(out.read_text())
    faults = {row["path"]: row["faults"] for row in report["rows"] if row["comm"] == "mallocer"}
    pages = 16 * 300_000 // 4096
    assert pages <= faults["mmap"] <= pages + 3  # its header, and what is no whole page
    assert faults["mmap"] + faults["other"] < pages + 400
