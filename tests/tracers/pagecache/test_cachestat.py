"""cachestat: one row for everything that was traced."""

from __future__ import annotations

import pytest

from memtap.bpf.session import Losses
from memtap.tracers.model.report import Report, Row
from memtap.tracers.pagecache.cachestat import Cachestat
from memtap.tracers.pagecache.probes import Flag
from tests.tracers.builders import (
    Event,
    add,
    delete,
    dirty,
    make_chunk,
    make_interval,
    make_origin,
    read,
)

NAMES = ["hits_pages", "misses_pages", "dirties_pages"]
NAMES += ["hit_ratio_pct", "buffers_bytes", "cached_bytes"]
WIDE = ["readahead_pages", "unused_readahead_pages", "evicted_pages", "written_pages"]
WIDE += ["removed_pages", "dirty_folio_pages"]


def report(*events: Event, wide: bool = True, filtered: bool = False) -> Report:
    found = Cachestat(make_origin(filtered=filtered), wide).feed(make_chunk(*events))
    assert found is not None
    return found


def row(*events: Event, filtered: bool = False) -> Row:
    (only,) = report(*events, filtered=filtered).rows
    return only


@pytest.mark.parametrize(("wide", "names"), [(False, NAMES), (True, NAMES + WIDE)])
def test_columns_are_those_of_the_contract(wide: bool, names: list[str]) -> None:
    assert list(report(wide=wide).to_dict()["rows"][0]) == names


def test_headings_are_those_of_the_contract() -> None:
    headings = ["HITS", "MISSES", "DIRTIES", "HITRATIO", "BUFFERS_MB", "CACHED_MB"]
    assert [column.heading for column in report(wide=False).columns] == headings


def test_the_object_is_that_of_the_contract() -> None:
    found = report().to_dict()
    assert list(found) == ["report", "schema", "time", "interval_s", "rows", "audit"]
    assert [found[name] for name in ("report", "schema")] == ["cachestat", 1]
    assert [found["time"], found["interval_s"]] == ["2026-01-31T12:00:01.000Z", 1.003]


def test_the_ratio_is_hits_of_hits_and_misses() -> None:
    assert row(add(0, 1), read(0, 3))["hit_ratio_pct"] == 200 / 3


def test_there_is_no_ratio_of_nothing() -> None:
    assert row()["hit_ratio_pct"] is None


def test_processes_and_files_are_summed() -> None:
    assert row(read(0, 3), read(tgid=7, file=2), dirty(file=9))["hits_pages"] == 4


def test_pages_that_writes_put_there_are_no_readahead() -> None:
    assert row(add(0, 8), add(8, 2), dirty(8, 2))["readahead_pages"] == 8


def test_unused_is_what_nobody_asks_for_before_the_end_or_before_it_leaves() -> None:
    found = row(add(0, 8), read(0, 1), delete(0, 4))
    assert (found["unused_readahead_pages"], found["evicted_pages"]) == (7, 4)


def test_a_block_device_has_no_unused_readahead() -> None:
    assert row(add(0, 8, flags=Flag.DEVICE))["unused_readahead_pages"] == 0


@pytest.mark.parametrize(("filtered", "written"), [(False, 7), (True, None)])
def test_written_pages_are_known_for_the_whole_host_alone(
    filtered: bool, written: int | None
) -> None:
    assert row(filtered=filtered)["written_pages"] == written


def test_what_the_host_caches_is_that_of_the_interval() -> None:
    found = row()
    assert (found["buffers_bytes"], found["cached_bytes"]) == (5 << 20, 600 << 20)


def test_a_report_comes_with_the_end_of_an_interval_and_has_all_since_the_last() -> None:
    cachestat = Cachestat(make_origin())
    assert cachestat.feed(make_chunk(read(), interval=None)) is None
    both = [cachestat.feed(make_chunk(read())) for _ in range(2)]
    assert [found and found.rows[0]["hits_pages"] for found in both] == [2, 1]
    assert [found and found.audit["events"] for found in both] == [2, 1]


# How far it can be believed.


def audit(kernel: dict[str, int], losses: Losses, accuracy: str = "exact") -> Row:
    interval = make_interval(kernel={"nr_written": 7} | kernel, losses=losses, notes=("b",))
    cachestat = Cachestat(make_origin(accuracy=accuracy, notes=("a",)))
    found = cachestat.feed(make_chunk(interval=interval))
    assert found is not None
    return found.audit


def test_the_audit_is_that_of_the_contract() -> None:
    assert audit({"pgfault": 3}, Losses()) == {
        "accuracy": "exact",
        "events": 0,
        "lost": 0,
        "missed": 0,
        "map_full": 0,
        "probes": ["tp_btf:mm_filemap_get_pages"],
        "kernel": {"nr_written": 7, "pgfault": 3},
        "self": {"events": 0},
        "notes": ["a", "b"],
    }


@pytest.mark.parametrize("losses", [Losses(lost=1), Losses(missed=1), Losses(map_full=1)])
def test_whatever_was_lost_makes_it_an_estimate(losses: Losses) -> None:
    found = audit({}, losses)
    assert found["accuracy"] == "estimated"
    assert Losses(found["lost"], found["missed"], found["map_full"]) == losses


@pytest.mark.parametrize(
    ("promised", "accuracy"), [("exact", "bounded"), ("estimated", "estimated")]
)
def test_huge_mappings_of_files_bound_it(promised: str, accuracy: str) -> None:
    found = audit({"thp_file_mapped": 3}, Losses(), promised)
    assert found["accuracy"] == accuracy
    assert found["notes"][2].startswith("3 huge mappings")


def test_the_kernels_counter_of_huge_mappings_alone_bounds_nothing() -> None:
    found = audit({"thp_file_mapped": 0}, Losses())
    assert (found["accuracy"], len(found["notes"])) == ("exact", 2)
