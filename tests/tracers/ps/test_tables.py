"""Page tables by arithmetic: ranges of pages that are known, and two ways to find them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import numpy as np
import pytest

from memtap.bpf.errors import MemtapError
from memtap.tracers.ps.columns import TABLES
from memtap.tracers.ps.tables import Entries, Level, levels, report, rows_of, spans
from memtap.tracers.ps.touched import Bounds, Touched, runs

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE = mmap.PAGESIZE

PTE, PMD, PUD = Level("pte", 2 * MIB), Level("pmd", GIB), Level("pud", 512 * GIB)
small_pages = pytest.mark.skipif(PAGE != 4 * KIB, reason="pages have another size here")


def bounds(*ranges: tuple[int, int]) -> Bounds:
    return np.array(ranges, np.uint64).reshape(-1, 2)


def entries(*ranges: tuple[int, int, int], thp: int = 0) -> Entries:
    """Of ranges from, to, and with pages of a size."""
    sizes = np.array([size for *_, size in ranges], np.uint64)
    return Entries(bounds(*((start, end) for start, end, _ in ranges)), sizes, thp)


@small_pages
@pytest.mark.parametrize(
    ("top", "names"),
    [
        ((1 << 47) - PAGE, ["pte", "pmd", "pud"]),  # x86-64
        ((1 << 48) - PAGE, ["pte", "pmd", "pud"]),  # arm64
        ((1 << 39) - PAGE, ["pte", "pmd"]),  # arm64 with three levels
    ],
)
def test_the_highest_table_is_not_counted(top: int, names: list[str]) -> None:
    assert [level.name for level in levels(top)] == names
    assert levels(top)[:2] == [PTE, PMD]


@pytest.mark.parametrize(
    ("ranges", "count"),
    [
        ([], 0),
        ([(0, 4096)], 1),
        ([(2 * MIB - 4096, 2 * MIB)], 1),
        ([(2 * MIB - 4096, 2 * MIB + 4096)], 2),
        ([(0, 4096), (8192, 12288), (2 * MIB, 2 * MIB + 4096)], 2),
        ([(MIB, 5 * MIB), (5 * MIB, 6 * MIB), (7 * MIB, 9 * MIB)], 5),
    ],
)
def test_parts_that_ranges_touch_count_once(ranges: list[tuple[int, int]], count: int) -> None:
    assert spans(bounds(*ranges), 2 * MIB) == count


def test_a_page_needs_a_table_of_each_level() -> None:
    found = entries((GIB - 4096, GIB, 4096), (GIB, GIB + 4096, 4096), (600 * GIB, 601 * GIB, 4096))
    assert [found.tables(level) for level in (PTE, PMD, PUD)] == [2 + 512, 3, 2]
    assert [found.saved(level) for level in (PTE, PMD, PUD)] == [0, 0, 0]


def test_huge_pages_save_the_tables_below_them() -> None:
    found = entries((0, 2 * MIB, 4096), (2 * MIB, 8 * MIB, 2 * MIB), (GIB, 3 * GIB, GIB))
    assert [found.tables(level) for level in (PTE, PMD, PUD)] == [1, 1, 1]
    assert [found.saved(level) for level in (PTE, PMD, PUD)] == [3 + 1024, 2, 0]


def test_huge_pages_of_files_save_a_table_each() -> None:
    found = entries((0, 8 * MIB, 4096), thp=4 * MIB)
    assert (found.tables(PTE), found.saved(PTE), found.tables(PMD), found.saved(PMD)) == (
        2,
        2,
        1,
        0,
    )


@small_pages
def test_what_is_left_of_the_total_is_empty() -> None:
    rows = rows_of(entries((0, 4096, 4096)), 10 * PAGE, [PTE, PMD, PUD])
    assert [(row["level"], row["tables"]) for row in rows] == [
        ("pud", 1),
        ("pmd", 1),
        ("pte", 1),
        ("empty", 7),
    ]


def test_runs_begin_and_end() -> None:
    are = np.array([True, True, False, False, True, False, True])
    assert runs(are).tolist() == [[0, 2], [4, 5], [6, 7]]
    assert runs(are[:0]).tolist() == []


@pytest.fixture
def sparse() -> Iterator[tuple[int, int]]:
    """The bounds of memory of 2 GiB, of which every third of 300 pages is touched, and the last."""
    memory = mmap.mmap(-1, 2 * GIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in (*range(0, 300, 3), 2 * GIB // PAGE - 1):
        memory[page * PAGE] = 1
    address = np.frombuffer(memory, np.uint8).ctypes.data
    yield address, address + 2 * GIB


@pytest.mark.parametrize("scans", [True, False])
def test_pages_with_entries_are_found_in_both_ways(sparse: tuple[int, int], scans: bool) -> None:
    start, end = sparse
    fd = os.open("/proc/self/pagemap", os.O_RDONLY)
    try:
        touched = Touched(fd)
        touched.scans = scans
        found = touched.ranges(start, end)
    finally:
        os.close(fd)
    pages = [*range(0, 300, 3), 2 * GIB // PAGE - 1]
    assert found.tolist() == [[start + p * PAGE, start + (p + 1) * PAGE] for p in pages]


def test_what_has_no_address_space_is_said() -> None:
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    with pytest.raises(MemtapError, match=f"process {child} has no address space"):
        report(child, TABLES)
    os.waitpid(child, 0)


def test_the_levels_of_this_process_add_up_to_vmpte() -> None:
    found = report(os.getpid(), TABLES)
    total = found.audit["kernel"]["VmPTE"] * KIB
    assert sum(row["size_bytes"] for row in found.rows) == total
