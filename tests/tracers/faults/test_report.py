"""The report of page faults, out of rows made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from memtap.bpf.session import Losses
from memtap.bpf.stream import Events
from memtap.tracers.code.mappings import Region
from memtap.tracers.faults.probes import Kind
from memtap.tracers.faults.report import Faults
from memtap.tracers.faults.rows import ROW, Cause
from memtap.tracers.faults.times import merged, tally
from memtap.tracers.model.chunk import Chunk
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Report, Row
from tests.tracers.builders import make_chunk, make_interval, make_origin

TEXTS = {"place": {1: "/lib/x.so", 2: "//anon"}, "site": {1: "main+0x4 app"}}


def fault(**members: int) -> dict[str, int]:
    usual: dict[str, int] = {"kind": Kind.MINOR, "tgid": 100, "tid": 100, "time_ns": 1000}
    usual |= {"count": 1, "region": Region.ANON, "cause": Cause.FIRST_TOUCH, "place": 2, "site": 1}
    return usual | members


def rows_of(*faults: dict[str, int]) -> Events:
    rows = np.zeros(len(faults), ROW)
    for number, members in enumerate(faults):
        for name, value in members.items():
            rows[name][number] = value
    return rows


def chunk(*faults: dict[str, int], **other: Any) -> Chunk:
    return replace(make_chunk(**other), rows=rows_of(*faults), texts=TEXTS)


def report(*faults: dict[str, int], by: str = "process", **other: Any) -> Report:
    found = Faults(make_origin(tracer="faults"), tuple(by.split(","))).feed(chunk(*faults, **other))
    assert found is not None
    return found


def rows(*faults: dict[str, int], by: str = "process") -> list[Row]:
    return report(*faults, by=by).rows


def test_counts_by_kind() -> None:
    (row,) = rows(fault(), fault(kind=Kind.MAJOR), fault(), fault(kind=Kind.BAD))
    assert (row["minor"], row["major"], row["total"], row["share_pct"]) == (2, 1, 4, 100.0)


def test_a_row_of_the_stream_can_be_many_faults() -> None:
    (row,) = rows(fault(), fault(count=1000, time_ns=0), fault(kind=Kind.MAJOR))
    assert (row["minor"], row["major"], row["total"]) == (1001, 1, 1002)
    assert row["time_ns"] == 1002 * 1000


@pytest.mark.parametrize(
    ("by", "column", "values"),
    [
        ("process", "pid", [100, 200]),
        ("thread", "tid", [100, 201]),
        ("region", "region", ["anon", "thread-stack"]),
        ("cause", "cause", ["first-touch", "zero-page"]),
        ("file", "path", ["//anon", "/lib/x.so"]),
        ("site", "site", ["?", "main+0x4 app"]),
        ("cgroup", "cgroup", ["/a", "?"]),
    ],
)
def test_each_key_groups(by: str, column: str, values: list[object]) -> None:
    other = fault(
        tgid=200, tid=201, region=Region.THREAD_STACK, cause=Cause.ZERO_PAGE, place=1, site=9
    )
    processes = {100: Process("app", 0, "root", "/a")}
    found = report(fault(), fault(), other, by=by, processes=processes).rows
    assert [row[column] for row in found] == values
    assert sorted(row["total"] for row in found) == [1, 2]


def test_processes_of_one_cgroup_are_one_row() -> None:
    processes = {tgid: Process("app", 0, "root", "/a") for tgid in (100, 200)}
    (row,) = report(fault(), fault(tgid=200), by="cgroup", processes=processes).rows
    assert row["total"] == 2


def test_a_cgroup_that_is_grouped_by_is_shown_beside_its_processes() -> None:
    for by in ("process,cgroup", "cgroup,process"):
        columns = report(fault(), by=by).columns
        assert [column.table for column in columns if column.name == "cgroup"] == [True]


def test_keys_can_be_combined_and_the_sums_agree() -> None:
    faults = [fault(cause=c, region=r) for c in (1, 2, 3) for r in (4, 5) for _ in range(c + r)]
    for by in ("process", "region", "cause", "region,cause", "process,region,cause,file,site"):
        assert sum(row["total"] for row in rows(*faults, by=by)) == len(faults)
    assert len(rows(*faults, by="region,cause")) == 6


def test_times() -> None:
    (row,) = rows(*(fault(time_ns=ns) for ns in range(1000, 2000)))
    assert row["time_ns"] == sum(range(1000, 2000))
    assert row["max_ns"] == 1999
    assert row["p50_ns"] == pytest.approx(1500, rel=0.02)
    assert row["p99_ns"] == pytest.approx(1990, rel=0.02)


def test_faults_that_were_not_timed_took_as_long_as_those_of_their_kind_that_were() -> None:
    timed = [fault(time_ns=500), fault(kind=Kind.MAJOR, time_ns=70_000)]
    (row,) = rows(*timed, *(fault(time_ns=0) for _ in range(99)))
    assert (row["minor"], row["major"], row["time_ns"]) == (100, 1, 100 * 500 + 70_000)
    assert (row["p50_ns"], row["max_ns"]) == (pytest.approx(500, rel=0.02), 70_000)
    assert row["p99_ns"] == pytest.approx(500, rel=0.02)


def test_where_nothing_was_timed_there_are_no_times() -> None:
    (row,) = rows(fault(time_ns=0))
    assert [row[name] for name in ("time_ns", "p50_ns", "p99_ns", "max_ns")] == [None] * 4


def test_a_few_that_waited_do_not_stand_for_many_that_did_not() -> None:
    timed = [*(fault(time_ns=500) for _ in range(10)), fault(time_ns=10**9, switched=1)]
    others = [fault(time_ns=0, count=50_000, room_ns=10**10), fault(time_ns=0, switched=1)]
    (row,) = rows(*timed, *others)
    assert row["time_ns"] == 50_010 * 500 + 2 * 10**9
    assert (row["timed"], row["total"], row["max_ns"]) == (11, 50_012, 10**9)


def test_what_was_not_timed_took_no_longer_than_there_was_room() -> None:
    (row,) = rows(fault(time_ns=10**6), fault(time_ns=0, count=1000, room_ns=800_000))
    assert row["time_ns"] == 10**6 + 800_000
    assert (row["max_ns"], row["p50_ns"]) == (10**6, pytest.approx(10**6, rel=0.02))


def test_what_others_of_a_kind_took_is_said_of_no_row_without_one_that_was_timed() -> None:
    one, other = rows(fault(time_ns=500), fault(tgid=200, time_ns=0, count=9))
    assert (one["time_ns"], one["timed"]) == (500, 1)
    assert (other["time_ns"], other["p99_ns"], other["timed"]) == (None, None, 0)
    (both,) = rows(fault(time_ns=500), fault(tgid=200, time_ns=0, count=9), by="region")
    assert (both["time_ns"], both["timed"]) == (5000, 1)


def test_whatever_was_timed_sums_stay_between_what_is_certain() -> None:
    chance = np.random.default_rng(3)
    for _ in range(100):
        count = int(chance.integers(1, 60))
        found = rows_of(*[fault() for _ in range(count)])
        room = chance.integers(1, 10 ** chance.integers(2, 9, count))
        found["room_ns"], found["switched"] = room, chance.integers(0, 2, count)
        found["cause"], found["tgid"] = chance.integers(1, 4, count), chance.integers(1, 4, count)
        found["time_ns"] = np.where(chance.random(count) < 0.3, chance.integers(1, room + 1), 0)
        counted = merged([tally(found, ["region"])], ["region"])
        least, most = int(found["time_ns"].sum()), int(room[found["time_ns"] == 0].sum())
        assert least <= counted["time_ns"].sum() <= least + most
        assert (counted["least_ns"].sum(), counted["most_ns"].sum()) == (least, least + most)
        assert counted["timed"].sum() == (found["time_ns"] > 0).sum()


def test_an_interval_has_all_since_the_last() -> None:
    faults = Faults(make_origin())
    assert faults.feed(chunk(fault(), interval=None)) is None
    both = [faults.feed(chunk(fault())) for _ in range(2)]
    assert [found and found.rows[0]["total"] for found in both] == [2, 1]


def test_of_how_many_faults_the_times_are_is_said() -> None:
    faults = Faults(make_origin(way="exceptions"))
    several = [fault(time_ns=0), fault(time_ns=0), fault(), fault(kind=Kind.MAJOR)]
    found = faults.feed(chunk(*several))
    assert found and found.audit["notes"] == [
        "times are of 1 of 3 minor faults, and of 1 of 1 major ones"
    ]


def test_between_what_the_sum_of_all_times_is_for_certain_is_said() -> None:
    faults = Faults(make_origin(way="exceptions"))
    found = faults.feed(chunk(fault(time_ns=2_000_000), fault(time_ns=0, room_ns=500_000)))
    assert found and found.audit["notes"] == [
        "times are of 1 of 2 minor faults, and of 0 of 0 major ones: all took from 2.0 to 2.5 ms"
    ]


def test_records_that_did_not_fit_are_said_and_make_regions_a_guess() -> None:
    found = report(fault(), interval=make_interval(losses=Losses(records=3)))
    assert found.audit["accuracy"] == "estimated"
    assert found.audit["notes"] == ["3 records of mappings and events did not fit the rings"]


def test_no_faults_no_rows() -> None:
    found = report()
    assert (found.rows, found.audit["events"], found.audit["accuracy"]) == ([], 0, "exact")


def test_what_the_kernel_counted_more_is_said() -> None:
    interval = make_interval(kernel={"ac_minflt": 12, "ac_majflt": 1})
    found = report(fault(), fault(kind=Kind.MAJOR), interval=interval)
    (note,) = found.audit["notes"]
    assert note.startswith("11 minor faults more by the kernel's own count (ac_minflt)")


def test_what_the_kernel_counted_and_the_next_interval_shows_is_not_more() -> None:
    faults, said = Faults(make_origin()), []
    for counted, seen, unsettled in ((4, 2, 2), (2, 4, 0), (5, 3, 1), (0, 1, 0), (4, 3, 0)):
        interval = make_interval(kernel={"ac_minflt": counted}, unsettled=unsettled)
        found = faults.feed(chunk(*(fault() for _ in range(seen)), interval=interval))
        assert found
        said.append([int(note.split()[0]) for note in found.audit["notes"]])
    assert said == [[], [], [1], [], [1]]


def test_what_was_lost_is_not_said_to_be_taken_without_an_exception() -> None:
    faults, said = Faults(make_origin()), []
    for counted, lost in ((10, 9), (3, 0), (1, 0)):
        interval = make_interval(kernel={"ac_minflt": counted}, losses=Losses(lost=lost))
        found = faults.feed(chunk(fault(), interval=interval))
        assert found
        said.append([note for note in found.audit["notes"] if "ac_minflt" in note])
    first, second, third = said
    assert (first, third) == ([], [])
    assert second[0].startswith("2 minor faults more")
