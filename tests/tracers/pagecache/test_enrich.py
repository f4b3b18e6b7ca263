"""Events, counted runs and spilled sums become rows of numbered files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from memtap.bpf.stream import NameRecord
from memtap.tracers.host.files import BUCKETS
from memtap.tracers.pagecache.cachestat import Cachestat
from memtap.tracers.pagecache.enrich import PageEnricher
from memtap.tracers.pagecache.probes import Flag, Kind
from memtap.tracers.pagecache.rows import ROW, rows_of
from tests.tracers.builders import add, make_chunk, make_origin, make_rows, read
from tests.tracers.sources import Given, make_drained

FIRST, SECOND = 0xFFFF888000001005, 0xFFFF888000002007  # addresses of inodes
RUNS = np.dtype([("tgid", "u4"), ("file", "u8"), ("hits", "u4")])
SPILLED = np.dtype(
    [
        ("tgid", "u4"),
        ("file", "u8"),
        ("kind", "u1"),
        ("flags", "u1"),
        ("events", "u8"),
        ("units", "u8"),
    ]
)


def test_a_file_has_one_number_in_events_and_runs_and_its_name_is_told() -> None:
    events = make_rows(read(), add())
    events["file"] = FIRST, SECOND
    runs = np.array([(100, FIRST, 9)], RUNS)
    name = NameRecord(0, FIRST, 7, 8 << 20 | 1, 8 << 20 | 1, 0, 1, 0, 0, b"here\0")
    drained = replace(make_drained(events), runs=runs, names=[name])
    taken = PageEnricher(Given()).enrich(drained, last=False)
    hits, first, second = taken.rows
    assert hits["file"] == first["file"] != second["file"]
    assert (hits["kind"], hits["pages"], hits["ns"]) == (Kind.HITS, 9, 0)
    assert first["file"] % BUCKETS == FIRST % BUCKETS
    assert {number: (file.dev, file.ino) for number, file in taken.paths.items()} == {
        first["file"]: ("8:1", 7)
    }


@pytest.mark.parametrize(
    ("kind", "flags", "found"),
    [
        (Kind.READ, 0, [(Kind.HITS, Flag.SPILLED, 3, 40, 0)]),
        (Kind.READ, Flag.AGAIN, []),
        (Kind.MAP, Flag.AGAIN, []),
        (Kind.ADD, Flag.WANTED, [(Kind.ADD, Flag.WANTED | Flag.SPILLED, 3, 40, 0)]),
        (Kind.DIRTY, 0, [(Kind.DIRTY, Flag.SPILLED, 3, 40, 40)]),
    ],
)
def test_what_was_spilled_is_sums(kind: Kind, flags: int, found: list[tuple[int, ...]]) -> None:
    spilled = np.array([(100, FIRST, kind, flags, 3, 40)], SPILLED)
    rows = rows_of(np.zeros(0, ROW), np.zeros(0, RUNS), spilled)
    assert rows[["kind", "flags", "index", "pages", "whole"]].tolist() == found


def test_the_kernel_is_told_which_files_have_no_fresh_page() -> None:
    session = Given(maps=("buckets",))
    made, report = PageEnricher(session), Cachestat(make_origin())
    report.feed(make_chunk(add(pages=4), add(file=2, pages=4), read(file=2, pages=4), last=False))
    made.feedback(report)
    buckets = session.tables_shared["buckets"][:, 1]
    assert np.flatnonzero(buckets).tolist() == [2]
    assert buckets[2] == 1


def test_without_buckets_the_kernel_is_told_nothing() -> None:
    session = Given()
    PageEnricher(session).feedback(Cachestat(make_origin()))
    assert not session.tables_shared
