"""cachetop: the same counts, by whom or by what."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtap.cli.arrange import Order
from memtap.cli.render import Json
from memtap.tracers.host.files import FileName
from memtap.tracers.model.frames import pl
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Row, percentage
from memtap.tracers.pagecache.cachestat import Cachestat
from memtap.tracers.pagecache.cachetop import Cachetop, percentages
from memtap.tracers.pagecache.columns import CACHETOP_KEYS
from tests.tracers.builders import (
    Event,
    add,
    dirty,
    events_at_random,
    make_chunk,
    make_origin,
    named,
    numbered,
    people_at_random,
    read,
)

PROCESS = ["pid", "uid", "user", "comm", "cgroup", "args"]
FILE = ["dev", "ino", "path"]
COUNTS = ["hits_pages", "misses_pages", "dirties_pages", "read_hit_pct", "write_hit_pct"]
PAGES = ["inserted_pages", "evicted_pages", "removed_pages"]
WIDE = ["dirty_folio_pages"]
ROOT = Process("cat", 0, "root", "/")
DAEMON = Process("dd", 1, "daemon", "/a")


def rows(*events: Event, by: tuple[str, ...] = ("process",), **members: object) -> list[Row]:
    found = Cachetop(make_origin(), by).feed(make_chunk(*events, **members))
    assert found is not None
    return list(found.to_dict()["rows"])


@pytest.mark.parametrize(
    ("by", "names"),
    [
        (("process",), PROCESS + COUNTS + WIDE),
        (("file",), FILE + COUNTS + PAGES + WIDE),
        (("cgroup",), ["cgroup", *COUNTS, *WIDE]),
        (("user",), ["uid", "user", *COUNTS, *WIDE]),
        (("process", "file"), PROCESS + FILE + COUNTS + PAGES + WIDE),
        (("process", "user", "cgroup"), PROCESS + COUNTS + WIDE),
        (("user", "cgroup"), ["uid", "user", "cgroup", *COUNTS, *WIDE]),
    ],
)
def test_columns_are_those_of_the_contract(by: tuple[str, ...], names: list[str]) -> None:
    assert list(rows(read(), by=by)[0]) == names


@pytest.mark.parametrize(
    ("by", "headings"),
    [
        ("process", ["PID", "USER", "CMD"]),
        ("user", ["UID", "USER"]),
        ("cgroup", ["CGROUP"]),
    ],
)
def test_headings_are_those_of_the_contract(by: str, headings: list[str]) -> None:
    found = Cachetop(make_origin(), (by,)).feed(make_chunk())
    assert found is not None
    counts = ["HITS", "MISSES", "DIRTIES", "READ_HIT%", "WRITE_HIT%"]
    assert [column.heading for column in found.columns if column.table] == headings + counts


def test_a_process_is_named() -> None:
    (row,) = rows(add(0, 1), read(0, 4), processes={100: DAEMON})
    assert row == {
        "pid": 100,
        "uid": 1,
        "user": "daemon",
        "comm": "dd",
        "cgroup": "/a",
        "args": "?",
        "hits_pages": 3,
        "misses_pages": 1,
        "dirties_pages": 0,
        "read_hit_pct": 75.0,
        "write_hit_pct": None,
        "dirty_folio_pages": 0,
    }


def test_a_process_that_nobody_knows_is_a_question_mark() -> None:
    (row,) = rows(read())
    assert [row[name] for name in PROCESS] == [100, -1, "?", "?", "?", "?"]


@pytest.mark.parametrize(
    ("paths", "shown"), [({}, ["?", 0, "?"]), (named("/etc/x"), ["8:1", 12, "/etc/x"])]
)
def test_a_file_is_named_by_device_inode_and_path(
    paths: dict[int, FileName], shown: list[object]
) -> None:
    (row,) = rows(read(), by=("file",), paths=paths)
    assert [row[name] for name in FILE] == shown


def test_a_file_with_a_huge_inode_number_is_named_too() -> None:
    ino = (1 << 64) - 1
    (row,) = rows(read(), by=("file",), paths=named("/x", ino=ino))
    assert (row["ino"], row["path"]) == (ino, "/x")


def test_write_hits_are_of_the_pages_made_dirty() -> None:
    (row,) = rows(add(0, 1), dirty(0, 4))
    assert (row["dirties_pages"], row["write_hit_pct"]) == (4, 75.0)
    assert row["read_hit_pct"] is None


def test_two_files_of_one_name_and_number_are_two_rows() -> None:
    paths = named("/x", file=1) | named("/x", file=2)
    found = rows(read(file=1), read(0, 2, file=2), by=("file",), paths=paths)
    assert [(row["path"], row["hits_pages"]) for row in found] == [("/x", 1), ("/x", 2)]


def test_what_is_dirty_with_a_page_is_told_apart() -> None:
    (row,) = rows(dirty(5, 1, whole=16, call=5))
    assert (row["dirties_pages"], row["dirty_folio_pages"]) == (1, 16)


def test_processes_of_one_user_are_one_row_by_user() -> None:
    processes = {1: ROOT, 2: replace(ROOT, comm="sh"), 3: DAEMON}
    events = (read(tgid=1), read(tgid=2), read(tgid=3))
    found = rows(*events, by=("user",), processes=processes)
    assert [(row["uid"], row["hits_pages"]) for row in found] == [(0, 2), (1, 1)]


def test_who_only_brings_pages_in_has_no_row_by_process() -> None:
    events = (add(tgid=1), read(tgid=2))
    assert [row["pid"] for row in rows(*events)] == [2]
    assert len(rows(*events, by=("process", "file"))) == 2


def test_rows_come_in_the_order_of_their_keys() -> None:
    events = [read(tgid=tgid, file=file) for tgid in (9, 30, 1) for file in (1, 2)]
    paths = named("/x", file=1, ino=5) | named("/y", file=2, ino=2)
    found = rows(*events, by=("process", "file"), paths=paths)
    keys = [(row["pid"], row["ino"]) for row in found]
    assert keys == [(1, 2), (1, 5), (9, 2), (9, 5), (30, 2), (30, 5)]


def test_names_are_kept_until_they_change() -> None:
    cachetop = Cachetop(make_origin(), ("process", "file"))
    path = named("/x")
    chunks = [
        make_chunk(read(), processes={100: ROOT}, paths=path),
        make_chunk(read()),
        make_chunk(read(), processes={100: DAEMON}),
    ]
    found = [cachetop.feed(chunk) for chunk in chunks]
    shown = [(r.rows[0]["comm"], r.rows[0]["path"]) for r in found if r]
    assert shown == [("cat", "/x"), ("cat", "/x"), ("dd", "/x")]


def test_the_last_interval_can_be_grouped_anew() -> None:
    cachetop = Cachetop(make_origin())
    paths = named("/x", file=1, ino=1) | named("/x", file=2, ino=2)
    first = cachetop.feed(make_chunk(read(file=1), read(file=2), paths=paths))
    cachetop.by = ("file",)
    anew = cachetop.report()
    assert first is not None
    assert [row["ino"] for row in anew.rows] == [1, 2]
    assert anew.audit == first.audit


@given(
    feeds=st.lists(st.tuples(events_at_random(most_pages=4), people_at_random()), max_size=3),
    by=st.lists(st.sampled_from(list(CACHETOP_KEYS)), min_size=1, unique=True),
)
def test_rows_of_any_grouping_sum_up_to_cachestat(
    feeds: list[tuple[list[Event], dict[int, Process]]], by: list[str]
) -> None:
    cachestat, cachetop = Cachestat(make_origin()), Cachetop(make_origin(), tuple(by))
    for events, processes in feeds:
        chunk = make_chunk(*events, processes=processes)
        whole, parts = cachestat.feed(chunk), cachetop.feed(chunk)
        assert whole is not None
        assert parts is not None
        for name in COUNTS[:3]:
            assert sum(row[name] for row in parts.rows) == whole.rows[0][name]
        assert parts.audit == whole.audit


def test_files_that_are_not_shown_are_not_named() -> None:
    def nobody_asks() -> tuple[str, int, str]:
        raise AssertionError("a file that is cut off was named")

    paths = named("/most", file=2) | {numbered(file): FileName.lazy(nobody_asks) for file in (1, 3)}
    events = (read(file=1), read(0, 2, file=2), read(file=3))
    report = Cachetop(make_origin(), ("file",)).feed(make_chunk(*events, paths=paths))
    assert report is not None
    (row,) = Order("hits_pages", rows=1, ties="misses_pages").arrange(report).rows
    assert (row["path"], row["hits_pages"]) == ("/most", 2)


@given(
    events_at_random(most_pages=3),
    st.sampled_from(["hits_pages", "read_hit_pct", "write_hit_pct", "path", "dev", "pid", "comm"]),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 4)),
)
def test_rows_are_ordered_as_those_of_other_reports(
    events: list[Event], column: str, reverse: bool, count: int | None
) -> None:
    paths = named("/x", file=1) | named("/a", file=2)
    report = Cachetop(make_origin(), ("process", "file")).feed(make_chunk(*events, paths=paths))
    assert report is not None
    order = Order(column, reverse, rows=count, ties="hits_pages")
    usual = order.arrange(replace(report, rows=list(report.rows))).rows
    by = [(row[column], row["hits_pages"]) for row in order.arrange(report).rows]
    assert by == [(row[column], row["hits_pages"]) for row in usual]
    if count is None:
        assert list(order.arrange(report).rows) == usual


@pytest.mark.parametrize("path", ["/plain", '/"quoted"\\n', "/größe"])
def test_rows_are_the_same_in_json_as_one_by_one(path: str) -> None:
    events = [add(0, 3), read(0, 7), dirty(2, 2), read(file=2)]
    report = Cachetop(make_origin(), ("process", "file")).feed(
        make_chunk(*events, processes={100: DAEMON}, paths=named(path))
    )
    assert report is not None
    text = Json().render(report)
    assert text.isascii() and text.count("\n") == 1
    assert json.loads(text) == json.loads(json.dumps(report.to_dict()))


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)), max_size=20))
def test_ratios_are_those_of_one_by_one(pairs: list[tuple[int, int]]) -> None:
    parts, wholes = (pl.Series([pair[at] for pair in pairs], dtype=pl.Int64) for at in (0, 1))
    assert percentages(parts, wholes).to_list() == [percentage(*pair) for pair in pairs]
