"""Crowds of processes that come and go: what a report remembers of them stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memtap.tracers.code.mappings import Mappings
from memtap.tracers.malloc import rows as mallocrows
from memtap.tracers.malloc.probes import Call
from memtap.tracers.malloc.report import Malloc
from memtap.tracers.malloc.rows import Fact
from memtap.tracers.model import enricher
from memtap.tracers.model.chunk import Chunk
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Report
from memtap.tracers.pagecache import rows as pagerows
from memtap.tracers.pagecache.cachetop import Cachetop
from memtap.tracers.pages import rows as pagesrows
from memtap.tracers.pages.report import Pages
from memtap.tracers.reclaim import rows as reclaimrows
from memtap.tracers.reclaim.report import Reclaim
from memtap.tracers.slab import rows as slabrows
from memtap.tracers.slab.report import Slab
from tests.tracers.builders import make_interval, make_origin

REMEMBERED, CHUNKS, EACH = 64, 8, 100
KEPT = 4 * REMEMBERED + EACH

REPORTS = {
    "slab": (Slab, slabrows.ROW, {"kind": slabrows.Kind.COUNTED, "allocs": 1, "allocated": 8}),
    "pages": (Pages, pagesrows.ROW, {"kind": pagesrows.Kind.COUNTED, "allocs": 1}),
    "cachetop": (Cachetop, pagerows.ROW, {}),
    "reclaim": (Reclaim, reclaimrows.ROW, {}),
}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there are soon too many."""
    monkeypatch.setattr(enricher, "REMEMBERED", REMEMBERED)


def crowds(row: np.dtype[np.void], members: dict[str, int]) -> Iterator[Chunk]:
    """One chunk for each interval, in which so many new processes do the same."""
    for number in range(CHUNKS):
        tgids = np.arange(number * EACH + 1, (number + 1) * EACH + 1)
        rows = np.zeros(EACH, row)
        rows["tgid"], rows["ns"] = tgids, number
        for name, value in members.items():
            rows[name] = value
        processes = {tgid: Process("one", 0, "root", "/") for tgid in tgids.tolist()}
        yield Chunk(rows=rows, until_ns=number, processes=processes, interval=make_interval())


def largest(thing: Any) -> int:
    """How much there is in the largest of the dictionaries that an object has, and its objects."""
    sizes = [0]
    for held in vars(thing).values():
        if isinstance(held, dict):
            sizes.append(len(held))
        elif hasattr(held, "__dict__"):
            sizes.append(largest(held))
    return max(sizes)


@pytest.mark.parametrize("name", REPORTS)
def test_of_a_crowd_no_more_is_kept_than_of_the_last_ones(name: str) -> None:
    report, row, members = REPORTS[name]
    reporter = report(make_origin(), ("process",))
    for chunk in crowds(row, members):
        assert reporter.feed(chunk)
    assert KEPT < CHUNKS * EACH  # or nothing would have to go
    assert largest(reporter) <= KEPT


def test_of_allocators_those_of_the_living_are_kept() -> None:
    malloc = Malloc(make_origin(), ("process",))
    for chunk in crowds(mallocrows.ROW, {"kind": Call.BRK}):
        ends = chunk.rows.copy()
        ends["kind"] = Fact.EXIT
        assert malloc.feed(replace(chunk, rows=np.concatenate([chunk.rows, ends])))
    assert largest(malloc) <= KEPT


def test_whose_end_was_lost_is_missed_when_there_are_many(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").touch()
    (tmp_path / "proc/7").mkdir()
    mappings = Mappings(tmp_path)
    for tgid in range(7, 4104):
        mappings.take(tgid, b"")
    assert mappings.gone() == set()  # an end can still be on its way
    assert mappings.gone() == set(range(8, 4104))
    few = Mappings(tmp_path)
    few.take(8, b"")
    assert few.gone() == few.gone() == set()


def test_what_many_have_left_is_told_of_the_last_and_of_all_others_together() -> None:
    _, row, members = REPORTS["slab"]
    slab = Slab(make_origin(), ("process",))
    report: Report | None = None
    for chunk in crowds(row, members):
        report = slab.feed(chunk)
    assert report
    assert sum(row["live"] for row in report.rows) == CHUNKS * EACH
    (others,) = [row for row in report.rows if row["comm"] == "[others]"]
    assert (others["pid"], others["live"]) == (0, CHUNKS * EACH - len(report.rows) + 1)
    news = [row for row in report.rows if row["allocs"]]
    assert [row["comm"] for row in news] == ["one"] * EACH


def test_a_few_that_hold_more_than_the_others_keep_their_rows() -> None:
    _, row, members = REPORTS["slab"]
    slab = Slab(make_origin(), ("process",))
    first, *rest = crowds(row, members)
    first.rows["allocated"][7] = 1 << 20
    for chunk in (first, *rest):
        report = slab.feed(chunk)
    assert report
    assert [row["live_bytes"] for row in report.rows if row["pid"] == 8] == [1 << 20]
