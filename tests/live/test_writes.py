"""Writes: a page is dirtied once, until it is clean again; and the kernel's nr_dirtied agrees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.tracing import PAGE, Trace, evict, kept, make_file

PAGES = 2000

Build = Callable[[str], Path]
Run = Callable[..., Trace]


@pytest.fixture
def file(disk: Path) -> Path:
    """A file that is on disk, and clean."""
    return make_file(disk / "writes", PAGES)


def agrees_with_kernel(done: Trace) -> bool:
    """Whether nr_dirtied, which counts for the whole host, came about as far."""
    dirtied = sum(row["dirties_pages"] for row in done.report["rows"])
    return abs(int(done.stdout) - dirtied) <= max(8, PAGES // 50)


def test_new_pages_are_dirtied_and_not_missed(disk: Path, workload: Build, trace: Run) -> None:
    path = disk / "new"
    done = trace(workload("writer"), path, "new", str(PAGES), str(PAGE), "1")
    assert done.counts(path) == (0, 0, PAGES)
    assert done.file(path)["write_hit_pct"] == 0.0
    assert agrees_with_kernel(done)


def test_a_page_that_is_dirty_is_not_dirtied_again(disk: Path, workload: Build, trace: Run) -> None:
    path = disk / "again"
    done = trace(workload("writer"), path, "new", str(PAGES), str(PAGE), "5")
    assert done.counts(path) == (0, 0, PAGES)
    assert agrees_with_kernel(done)


def test_writes_to_cached_clean_pages_are_write_hits(
    file: Path, workload: Build, trace: Run
) -> None:
    with kept(file):
        done = trace(workload("writer"), file, "old", str(PAGES), str(PAGE), "1")
    assert done.counts(file) == (0, 0, PAGES)
    assert done.file(file)["write_hit_pct"] == 100.0
    assert agrees_with_kernel(done)


def test_part_of_a_cold_page_makes_it_dirty_and_is_no_write_hit(
    file: Path, workload: Build, trace: Run
) -> None:
    evict(file)
    done = trace(workload("writer"), file, "old", str(PAGES), "100", "1")
    assert done.counts(file) == (0, 0, PAGES)
    assert done.file(file)["write_hit_pct"] == 0.0
    assert agrees_with_kernel(done)


def test_direct_writes_are_nothing(file: Path, workload: Build, trace: Run) -> None:
    evict(file)
    done = trace(workload("writer"), file, "direct", str(PAGES), str(PAGE), "1")
    assert done.counts(file) == (0, 0, 0)


def test_direct_reads_are_nothing(file: Path, trace: Run) -> None:
    evict(file)
    done = trace("dd", f"if={file}", "of=/dev/null", "bs=64k", "iflag=direct")
    assert done.counts(file) == (0, 0, 0)
