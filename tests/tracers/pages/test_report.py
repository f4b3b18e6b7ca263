"""The report of the buddy allocator, out of rows made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memtap.tracers.model.chunk import Chunk
from memtap.tracers.model.report import Report
from memtap.tracers.pages.free import free_blocks, free_pages_by_type, unusable
from memtap.tracers.pages.report import Pages
from memtap.tracers.pages.rows import ROW, UNTOLD, Kind
from tests.tracers.builders import make_chunk, make_origin

TYPES = {"migratetype": {0: "unmovable", 1: "movable"}}


def chunk(*several: dict[str, int], **other: Any) -> Chunk:
    rows = np.zeros(len(several), ROW)
    for number, members in enumerate(several):
        for name, value in ({"kind": Kind.COUNTED} | members).items():
            rows[name][number] = value
    return replace(make_chunk(**other), rows=rows, texts=TYPES)


def report(*several: dict[str, int], by: str = "order", **other: Any) -> Report:
    found = Pages(make_origin(tracer="pages"), tuple(by.split(","))).feed(chunk(*several, **other))
    assert found is not None
    return found


def test_blocks_count_as_the_pages_they_hold() -> None:
    found = report({"order": 9, "allocs": 3, "frees": 1}, {"order": 0, "allocs": 5})
    assert [
        (row["order"], row["allocs"], row["allocated_bytes"], row["live_bytes"])
        for row in found.rows
    ] == [(0, 5, 5 * 4096, 5 * 4096), (9, 3, 3 * 512 * 4096, 2 * 512 * 4096)]
    assert found.audit["events"] == 9


def test_what_is_left_stands_beside_and_is_told_of_orders_nobody_asked_for() -> None:
    free = [{"kind": Kind.FREE, "order": n, "allocs": count} for n, count in enumerate((4, 2, 2))]
    found = report(*free, {"order": 1, "allocs": 1})
    assert [row["free_blocks"] for row in found.rows] == [4, 2, 2]
    assert [row["unusable_pct"] for row in found.rows] == [0.0, 25.0, 50.0]


def test_frees_do_not_tell_their_type() -> None:
    free = {"kind": Kind.FREE_OF_TYPE, "migratetype": 1, "allocs": 7}
    taken = {"migratetype": 1, "allocs": 3, "fallbacks": 2}
    found = report(free, taken, {"migratetype": UNTOLD, "frees": 2}, by="migratetype")
    rows = {row["migratetype"]: row for row in found.rows}
    assert rows["movable"]["free_bytes"] == 7 * 4096
    assert (rows["movable"]["live_bytes"], rows["movable"]["fallbacks"]) == (3 * 4096, 2)
    assert (rows["?"]["frees"], rows["?"]["free_bytes"]) == (2, None)


def test_what_is_live_outlasts_an_interval_and_what_was_counted_does_not() -> None:
    pages = Pages(make_origin(tracer="pages"), ("process",))
    taken, given = {"tgid": 100, "allocs": 10}, {"tgid": 100, "frees": 4, "migratetype": UNTOLD}
    first, second = (pages.feed(chunk(each)) for each in (taken, given))
    assert first and second
    assert [(row["allocs"], row["frees"]) for row in first.rows + second.rows] == [(10, 0), (0, 4)]
    assert [row["live_bytes"] for row in first.rows + second.rows] == [10 * 4096, 6 * 4096]


def test_what_only_the_kernel_knows_of_is_said_and_bounds_the_report() -> None:
    untold = {"kind": Kind.UNTOLD_PAGES, "allocs": 1005}
    found = report({"order": 1, "allocs": 5}, untold)
    (note,) = found.audit["notes"]
    assert note.startswith("at most 1,005 pages more were handed out")
    assert (found.audit["accuracy"], found.audit["events"]) == ("bounded", 5)


def test_what_was_untold_is_of_one_interval() -> None:
    pages, untold = Pages(make_origin(tracer="pages")), {"kind": Kind.UNTOLD_PAGES, "allocs": 7}
    parts = chunk(untold, interval=None), chunk(untold), chunk({"order": 1, "allocs": 5})
    none, first, second = map(pages.feed, parts)
    assert none is None
    assert first and second
    assert "at most 14 pages" in first.audit["notes"][0]
    assert (second.audit["accuracy"], second.audit["notes"]) == ("exact", [])


@pytest.mark.parametrize(
    ("blocks", "order", "found"),
    [([], 3, None), ([0, 0], 1, None), ([8], 0, 0.0), ([8, 4], 1, 50.0), ([8, 4], 2, 100.0)],
)
def test_unusable_is_what_is_in_smaller_blocks(
    blocks: list[int], order: int, found: float | None
) -> None:
    assert unusable(blocks, order) == found


def test_what_is_free_is_added_up(tmp_path: Path) -> None:
    (tmp_path / "buddyinfo").write_text(
        "Node 0, zone      DMA      1      2      3\nNode 1, zone   Normal     10     20     30\n"
    )
    (tmp_path / "pagetypeinfo").write_text(
        "Page block order: 9\n\nFree pages count per migrate type at order  0 1 2\n"
        "Node    0, zone      DMA, type    Unmovable      1      2      0\n"
        "Node    0, zone   Normal, type    Unmovable >100000     0      1\n"
        "\nNumber of blocks type     Unmovable\nNode 0, zone      DMA            1\n"
    )
    assert free_blocks(tmp_path) == [11, 22, 33]
    assert free_pages_by_type(tmp_path) == {"unmovable": 5 + 100_000 + 4}
    assert free_pages_by_type(tmp_path / "nothing") == {}
