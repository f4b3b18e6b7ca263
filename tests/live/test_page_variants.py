"""The page cache in each variant that this kernel can be looked at, by the same reads."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from memtap.bpf.cache import Cache
from memtap.bpf.kernel import Kernel
from memtap.bpf.loading import Attempts, Request
from memtap.bpf.plan import Variant
from memtap.tracers.live.live import Live
from memtap.tracers.live.processes import Processes
from memtap.tracers.pagecache.cachetop import Cachetop
from memtap.tracers.pagecache.enrich import PageEnricher
from memtap.tracers.pagecache.probes import NAME_FILES, PLAN
from tests.live.tracing import PAGE, evict, kept, make_file, with_standbys

Build = Callable[[str], Path]
Counts = tuple[int, int]

PAGES = 1009


VARIANTS = list(PLAN.possible(Kernel()))
EXACT = [variant for variant in VARIANTS if variant.accuracy == "exact"]


@pytest.fixture(scope="module")
def file(disk: Path) -> Path:
    return make_file(disk / "ways", PAGES)


@pytest.fixture(scope="module", params=with_standbys(VARIANTS))
def case(request: pytest.FixtureRequest) -> tuple[Variant, Kernel]:
    found: tuple[Variant, Kernel] = request.param
    return found


@pytest.fixture(scope="module")
def counted(case: tuple[Variant, Kernel], file: Path) -> Iterator[Callable[[list[str]], Counts]]:
    """Runs a program; gives hits and misses of the file meanwhile."""
    variant, kernel = case
    processes = Processes(kernel.btf, kernel.possible_cpus)
    loaded = Attempts(
        Request(replace(PLAN, variants=(variant,)), settings=(NAME_FILES,)), kernel, Cache()
    ).wait()
    live = Live(loaded, kernel, processes, PageEnricher)
    reporter = Cachetop(live.origin, ("file",))

    def run(command: list[str]) -> Counts:
        reporter.feed(live.collect(ends=True))  # what was done to make it ready
        subprocess.check_call(command, stdout=subprocess.DEVNULL)
        made = reporter.feed(live.collect(ends=True))
        assert made and made.audit["accuracy"] == variant.accuracy
        rows = [row for row in made.rows if row["ino"] == file.stat().st_ino]
        return (
            sum(row["hits_pages"] for row in rows),
            sum(row["misses_pages"] for row in rows),
        )

    try:
        yield run
    finally:
        live.close()
        processes.close()


@pytest.mark.parametrize("method", ["read", "pread", "readv"])
def test_reads_of_a_page_each_miss_once_and_then_hit(
    method: str, counted: Callable[[list[str]], Counts], file: Path, workload: Build
) -> None:
    read = [str(workload("reader")), method, str(file), str(PAGE)]
    evict(file)
    assert counted(read) == (0, PAGES)
    with kept(file):
        assert counted(read) == (PAGES, 0)


@pytest.mark.parametrize("case", with_standbys(EXACT), indirect=True)
def test_an_exact_variant_counts_mapped_pages_too(
    counted: Callable[[list[str]], Counts], file: Path, workload: Build
) -> None:
    touch = [str(workload("mapper")), "random", str(file)]
    evict(file)
    assert counted(touch) == (0, PAGES)
