"""Mapped files: an access is a fault, and the kernel's own count of faults is the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.tracing import Trace, evict, kept, make_file, scaled

PAGES = scaled(4096)

Build = Callable[[str], Path]
Run = Callable[..., Trace]


@pytest.fixture(scope="module")
def file(disk: Path) -> Path:
    return make_file(disk / "maps", PAGES)


def faults(done: Trace) -> tuple[int, int]:
    """Minor and major faults, as the program counted them by getrusage."""
    minor, major = done.stdout.split()
    return int(minor), int(major)


def test_a_cold_scan_without_readahead_misses_every_page(
    file: Path, workload: Build, trace: Run
) -> None:
    evict(file)
    done = trace(workload("mapper"), "random", file)
    assert faults(done) == (0, PAGES)
    assert done.counts(file) == (0, PAGES, 0)


def test_a_warm_scan_without_fault_around_hits_every_page(
    file: Path, workload: Build, trace: Run
) -> None:
    with kept(file):
        done = trace(workload("mapper"), "random", file)
    assert done.counts(file) == (sum(faults(done)), 0, 0)


def test_a_warm_scan_is_a_hit_for_each_fault(file: Path, workload: Build, trace: Run) -> None:
    with kept(file):
        done = trace(workload("mapper"), "normal", file)
    minor, major = faults(done)
    assert major == 0
    assert minor < PAGES, "fault-around maps several pages at once"
    assert done.counts(file) == (minor, 0, 0)


def test_a_cold_scan_with_readahead_is_an_access_for_each_fault(
    file: Path, workload: Build, trace: Run
) -> None:
    evict(file)
    done = trace(workload("mapper"), "normal", file)
    minor, major = faults(done)
    hits, misses, _ = done.counts(file)
    assert abs(hits + misses - minor - major) <= 8
    assert misses >= major > 0
    assert done.file(file)["inserted_pages"] == PAGES
