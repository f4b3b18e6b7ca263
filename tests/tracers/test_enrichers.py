"""Enrichers that ask little: what comes out of the kernel is what a row holds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from memtap.tracers import load
from memtap.tracers.model.enricher import Enricher, Taken
from memtap.tracers.model.tracer import Query
from memtap.tracers.pages.enrich import PagesEnricher
from memtap.tracers.pages.rows import ROW as PAGES_ROW
from memtap.tracers.pages.rows import Kind
from memtap.tracers.reclaim.enrich import ReclaimEnricher
from memtap.tracers.reclaim.rows import ROW as RECLAIM_ROW
from tests.tracers.sources import Counted, Given, make_drained


def test_events_of_reclaim_are_rows_as_they_are() -> None:
    events = np.zeros(3, RECLAIM_ROW)
    for at, name in enumerate(RECLAIM_ROW.names or ()):
        events[name] = np.arange(3) + at
    taken = ReclaimEnricher(Given()).enrich(make_drained(events), last=False)
    assert (taken.rows == events).all()


def test_counters_of_pages_are_rows_beside_what_is_free() -> None:
    counted = np.zeros(2, [("tgid", "u4"), ("order", "u2"), ("allocs", "u8"), ("frees", "u8")])
    counted["tgid"], counted["order"] = (7, 8), (0, 3)
    counted["allocs"], counted["frees"] = (5, 6), (1, 2)
    made = PagesEnricher(Given(counters=Counted(counted, counted[:0])))
    first, second = (made.enrich(make_drained(until_ns=5), last=False) for _ in range(2))
    rows = first.rows[first.rows["kind"] == Kind.COUNTED]
    names = ["tgid", "order", "allocs", "frees"]
    assert rows[names].tolist() == counted[names].tolist()
    assert set(first.rows["ns"].tolist()) == {5}
    free = first.rows[first.rows["kind"] == Kind.FREE]
    assert free["order"].tolist() == [*range(len(free))]
    assert first.rows.dtype == PAGES_ROW
    assert "migratetype" in first.texts or not first.texts.get("migratetype", {})
    assert not second.texts


def test_an_enricher_that_says_nothing_keeps_nothing_and_waits() -> None:
    class Plain(Enricher):
        row = RECLAIM_ROW

        def enrich(self, drained: object, last: bool) -> Taken:
            return Taken(np.empty(0, self.row))

    plain = Plain()
    plain.follow(1)
    plain.feedback(None)
    assert (plain.polled(), plain.most_batches) == (math.inf, math.inf)


@pytest.mark.parametrize("name", ["pages", "reclaim", "oom"])
def test_rows_are_of_the_type_that_is_declared(name: str) -> None:
    tracer = load(name)
    made = tracer.make_enricher(Given(counters=Counted()), Query(by=()))
    assert made.row == tracer.row().dtype
