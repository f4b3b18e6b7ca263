"""slab's report: counts of owners, what is live, what is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from memtap.bpf.stream import Events
from memtap.tracers.model.chunk import Chunk
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Report
from memtap.tracers.slab.enrich import LARGE, UNKNOWN, _is_ours, _name, _shown
from memtap.tracers.slab.report import NO_PROCESS, Slab, waste
from memtap.tracers.slab.rows import ROW, Kind
from tests.tracers.builders import make_interval, make_origin

FILP, DENTRY, OPEN, STAT = 1, 2, 1, 2
TEXTS = {
    "cache": {FILP: "filp", DENTRY: "dentry"},
    "site": {OPEN: "alloc_empty_file+0x3c [kernel]", STAT: "__d_alloc+0x2d [kernel]"},
    "stack": {7: "do_sys_open;alloc_empty_file"},
}
FILP_AT = 0xFFFF888100000000
PROCESSES = {100: Process("cat", 0, "root", "/"), 200: Process("ls", 0, "root", "/")}


def row(cache: int = FILP, kind: Kind = Kind.COUNTED, tgid: int = 100, **values: int) -> Events:
    """A row; of an owner, unless another kind is wanted."""
    made = np.zeros(1, ROW)
    site = {FILP: OPEN, DENTRY: STAT}.get(cache, 0)
    for name, value in {"site": site, **values, "cache": cache, "kind": kind, "tgid": tgid}.items():
        made[name] = value
    return made


def chunk(*rows: Events, ends: bool = True, until_ns: int = 0) -> Chunk:
    return Chunk(
        rows=np.concatenate([np.empty(0, ROW), *rows]),
        until_ns=until_ns,
        processes=PROCESSES,
        texts=TEXTS,
        interval=make_interval() if ends else None,
    )


def report_of(slab: Slab, *rows: Events, until_ns: int = 0) -> Report:
    made = slab.feed(chunk(*rows, until_ns=until_ns))
    assert made
    return made


def rows_by(slab: Slab, column: str, *rows: Events) -> dict[Any, Any]:
    return {row[column]: row for row in report_of(slab, *rows).rows}


def test_what_is_taken_is_counted_by_cache() -> None:
    took = row(allocs=3, requested=90, allocated=120), row(tgid=200, allocs=1, allocated=40)
    found = rows_by(Slab(make_origin()), "cache", *took, row(DENTRY, frees=2, freed=400))
    assert found["filp"] == {
        "cache": "filp",
        "allocs": 4,
        "frees": 0,
        "live": 4,
        "requested_bytes": 90,
        "allocated_bytes": 160,
        "waste_pct": 43.75,
        "live_bytes": 160,
    }
    assert found["dentry"]["live"] == -2  # they were there before
    assert found["dentry"]["live_bytes"] == -400
    assert found["dentry"]["waste_pct"] is None


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        (("cache",), [("filp",), ("dentry",)]),
        (("site",), [(TEXTS["site"][OPEN],), (TEXTS["site"][STAT],)]),
        (("process",), [(100,), (200,)]),
        (("process", "cache"), [(100, "filp"), (200, "filp"), (100, "dentry")]),
    ],
)
def test_rows_are_grouped_by_what_was_asked_for(
    by: tuple[str, ...], groups: list[tuple[Any, ...]]
) -> None:
    took = row(allocs=1), row(tgid=200, allocs=1), row(DENTRY, allocs=1)
    made = report_of(Slab(make_origin(), by), *took)
    names = ["pid" if key == "process" else key for key in by]
    assert {tuple(row[name] for name in names) for row in made.rows} == set(groups)
    assert sum(row["allocs"] for row in made.rows) == made.audit["events"] == 3


def test_live_is_since_it_began_and_counts_are_of_the_interval() -> None:
    slab = Slab(make_origin())
    report_of(slab, row(allocs=5, allocated=500))
    (second,) = report_of(slab, row(allocs=1, frees=4, allocated=100, freed=400)).rows
    assert (second["allocs"], second["frees"]) == (1, 4)
    assert (second["live"], second["live_bytes"]) == (2, 200)


def test_what_has_something_is_shown_though_nothing_happened() -> None:
    slab = Slab(make_origin())
    report_of(slab, row(allocs=5, allocated=500), row(DENTRY, allocs=1, frees=1))
    (second,) = report_of(slab).rows
    assert (second["cache"], second["allocs"], second["live"]) == ("filp", 0, 5)
    report_of(slab, row(frees=5, freed=500))
    assert report_of(slab).rows == []


def test_a_process_that_changes_its_name_keeps_what_it_has() -> None:
    slab = Slab(make_origin(), ("process",))
    report_of(slab, row(allocs=5))
    renamed = Chunk(np.empty(0, ROW), 0, {100: Process("dog")}, interval=make_interval())
    made = slab.feed(renamed)
    assert made
    assert [(row["comm"], row["live"]) for row in made.rows] == [("dog", 5)]


def test_chunks_before_the_end_of_an_interval_count_for_it() -> None:
    slab = Slab(make_origin())
    assert slab.feed(chunk(row(allocs=2), ends=False)) is None
    assert rows_by(slab, "cache", row(allocs=3))["filp"]["allocs"] == 5


def test_what_nobody_asked_for_is_a_question_mark() -> None:
    (found,) = report_of(Slab(make_origin(), ("site",)), row(cache=9, frees=1)).rows
    assert found["site"] == "?"


def test_leaks_are_told_the_oldest_first() -> None:
    slab = Slab(make_origin(), leaks=True)
    young = row(DENTRY, Kind.KEPT, allocs=1, allocated=192, ns=900)
    old = row(FILP, Kind.KEPT, allocs=3, allocated=600, ns=400, stack=7)
    leaks = report_of(slab, young, old, until_ns=1000).section("leaks")
    assert leaks
    first, second = leaks
    assert (first["cache"], first["objects"], first["bytes"], first["age_ns"]) == (
        "filp",
        3,
        600,
        600,
    )
    assert first["frames"] == ["do_sys_open", "alloc_empty_file"]
    assert (second["cache"], second["age_ns"], second["frames"]) == ("dentry", 100, [])


def test_leaks_are_those_of_now_and_only_if_they_were_asked_for() -> None:
    slab = Slab(make_origin(), leaks=True)
    assert report_of(slab, row(FILP, Kind.KEPT, allocs=3)).section("leaks")
    assert report_of(slab).section("leaks") == []
    assert report_of(Slab(make_origin()), row(FILP, Kind.KEPT, allocs=3)).section("leaks") is None


@pytest.mark.parametrize(
    ("requested", "allocated", "per_cent"), [(48, 64, 25.0), (64, 64, 0.0), (0, 0, None)]
)
def test_waste_is_what_nobody_asked_for(
    requested: int, allocated: int, per_cent: float | None
) -> None:
    assert waste(requested, allocated) == per_cent


@pytest.mark.parametrize(
    ("cache", "name"),
    [
        (UNKNOWN, "?"),
        (LARGE, "kmalloc-large"),
        (8, "kmalloc-8"),
        (192, "kmalloc-192"),
        (1024, "kmalloc-1k"),
        (8192, "kmalloc-8k"),
        (0xFFFF888100000000, "filp"),
        (0xFFFF888100000040, "?"),
    ],
)
def test_a_cache_has_the_name_that_slabinfo_gives_it(cache: int, name: str) -> None:
    assert _name(cache, {0xFFFF888100000000: "filp"}) == name


def test_frames_of_tracing_itself_are_known() -> None:
    ours = ["bpf_prog_daa20a9088e5c6fd_on_kmalloc", "bpf_trace_run6", "__bpf_trace_kmalloc"]
    assert all(map(_is_ours, ours))
    assert not _is_ours("__kmalloc_cache_noprof")


def test_what_is_no_process_is_named() -> None:
    idle, early = row(tgid=0, allocs=2), row(tgid=NO_PROCESS, frees=5)
    found = rows_by(Slab(make_origin(), ("process",)), "comm", idle, early)
    assert {name: (each["pid"], each["live"]) for name, each in found.items()} == {
        "[interrupt]": (0, 2),
        "[earlier]": (0, -5),
    }


def test_it_is_said_what_a_negative_number_means() -> None:
    slab = Slab(make_origin())
    assert report_of(slab, row(allocs=3)).audit["notes"] == []
    (note,) = report_of(slab, row(frees=4)).audit["notes"]
    assert note == "LIVE below 0: what was there before it began was freed"


def test_what_may_be_unseen_bounds_the_report() -> None:
    """Only while something of such a cache is there: the rest is exact."""
    slab = Slab(make_origin())
    told = replace(chunk(row(allocs=3), row(DENTRY, allocs=7)), texts=TEXTS | {"unseen": {2: "d"}})
    made = slab.feed(told)
    assert made and made.audit["accuracy"] == "bounded"
    (note,) = made.audit["notes"]
    assert note.startswith("LIVE can be off by 7 objects, of d: ")
    made = report_of(slab, row(DENTRY, frees=7))
    assert (made.audit["accuracy"], made.audit["notes"]) == ("exact", [])


def test_what_is_also_allocated_unseen_is_said_to_have_no_bound() -> None:
    """Also when as many were seen to be freed as to be allocated: others may be there."""
    slab = Slab(make_origin())
    texts = TEXTS | {"unseen": {1: "f", 2: "d"}, "unbounded": {2: "d"}}
    made = slab.feed(replace(chunk(row(allocs=3)), texts=texts))
    assert made and len(made.audit["notes"]) == 1
    made = report_of(slab, row(frees=3), row(DENTRY, allocs=7, frees=7))
    assert made.audit["accuracy"] == "bounded"
    (note,) = made.audit["notes"]
    assert note.startswith("how far LIVE of d can be off is not known: ")


def test_no_cache_is_called_by_a_question_mark() -> None:
    names = {FILP_AT: "filp"}
    assert [_shown(cache, names) for cache in (UNKNOWN, FILP_AT, FILP_AT + 64, LARGE, 64)] == [
        "[earlier]", "filp", "[unnamed]", "kmalloc-large", "kmalloc-64",
    ]  # fmt: skip
