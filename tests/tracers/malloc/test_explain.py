"""Why arenas keep what is free in them, and what is said of that."""

from __future__ import annotations

import pytest

from memtap.tracers.malloc.explain import of_heaps, tunable_of
from memtap.tracers.model.report import Row

MIB = 1 << 20


def arena(name: str = "main", pid: int = 7, **other: int | None) -> Row:
    row: Row = {"pid": pid, "comm": "app", "arena": name, "heap_bytes": 100 * MIB}
    row |= dict.fromkeys(("used_bytes", "stuck_bytes", "top_bytes", "trim_bytes"), 0)
    row |= dict.fromkeys(("tcache_bytes", "large_bytes", "resident_bytes", "chunks"), 0)
    row |= {"mmap_threshold_bytes": 128 << 10, "trim_threshold_bytes": 128 << 10, "arena_max": 0}
    row |= other
    return row | {"tunable": tunable_of(row)}


@pytest.mark.parametrize(
    ("row", "tunable"),
    [
        (arena(), None),
        (arena(top_bytes=2, stuck_bytes=1), "M_TRIM_THRESHOLD"),
        (arena(top_bytes=1, stuck_bytes=2), None),
        (arena(stuck_bytes=9, large_bytes=8), None),
        (arena(stuck_bytes=9, large_bytes=8, mmap_threshold_bytes=MIB), "M_MMAP_THRESHOLD"),
        (arena(stuck_bytes=9, large_bytes=4, mmap_threshold_bytes=MIB), None),
        (arena(stuck_bytes=9, large_bytes=None, mmap_threshold_bytes=MIB), None),
        (arena(stuck_bytes=9, mmap_threshold_bytes=None), None),
        (arena(tcache_bytes=3, stuck_bytes=2, top_bytes=2), "glibc.malloc.tcache_count"),
        (arena("2", stuck_bytes=9, tcache_bytes=1), "MALLOC_ARENA_MAX"),
        (arena("2"), None),
        (arena(stuck_bytes=None, top_bytes=None), None),
        (arena("mmap", stuck_bytes=None), None),
    ],
)
def test_a_setting_keeps_most_of_what_is_free(row: Row, tunable: str | None) -> None:
    assert row["tunable"] == tunable


def test_each_reason_is_said_with_what_it_keeps() -> None:
    told = of_heaps(
        [
            arena(used_bytes=60 * MIB, top_bytes=40 * MIB, resident_bytes=90 * MIB),
            arena("1", stuck_bytes=30 * MIB, top_bytes=2 * MIB, trim_bytes=20 * MIB),
            arena("mmap", stuck_bytes=None, used_bytes=5 * MIB, chunks=4),
        ]
    )
    assert told[0] == (
        "Process 7 (app) has 2 arenas, 200.0 MiB in all: 60.0 MiB are used, 30.0 MiB are free "
        "below what is used, 42.0 MiB are free at their ends, and threads keep 0 KiB for "
        "themselves."
    )
    assert told[1].startswith("malloc_trim(0) would give 20.0 MiB back to the kernel, of 90.0 MiB")
    assert told[2].startswith("32.0 MiB are free in arenas of threads")
    assert "M_TRIM_THRESHOLD (now 128 KiB)" in told[3]
    assert told[4].startswith("5.0 MiB are mapped in blocks of their own (4)")
    assert len(told) == 5


def test_a_threshold_that_has_moved_is_said() -> None:
    moved = arena(stuck_bytes=9 * MIB, large_bytes=8 * MIB, mmap_threshold_bytes=4 * MIB)
    assert (
        "8.0 MiB are in large chunks that are stuck. Blocks below 4.0 MiB" in of_heaps([moved])[2]
    )


def test_the_largest_processes_are_told_of_and_those_that_are_not_known() -> None:
    rows = [arena(pid=pid, heap_bytes=pid * MIB, stuck_bytes=None) for pid in (1, 2, 3, 4)]
    assert of_heaps(rows) == [
        f"Process {pid} (app): of its heap only the size is known." for pid in (4, 3, 2)
    ]
    assert of_heaps([]) == []
