"""What programs read: JSON and CSV."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest

from memtap.cli.render import Csv, Json
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Report
from tests.cli.making import FIRST, SECOND, stat_report, top_report
from tests.tracers.builders import make_chunk, named, read

STAT = [
    "hits_pages", "misses_pages", "dirties_pages", "hit_ratio_pct", "buffers_bytes", "cached_bytes",
]  # fmt: skip
STAT_WIDE = ["readahead_pages", "unused_readahead_pages", "evicted_pages", "written_pages"]
STAT_WIDE += ["removed_pages", "dirty_folio_pages"]
COUNTS = ["hits_pages", "misses_pages", "dirties_pages", "read_hit_pct", "write_hit_pct"]
PROCESS = ["pid", "uid", "user", "comm", "cgroup", "args", *COUNTS, "dirty_folio_pages"]
FILE = ["dev", "ino", "path", *COUNTS, "inserted_pages", "evicted_pages", "removed_pages"]
FILE += ["dirty_folio_pages"]

REPORTS = [
    (stat_report(FIRST), STAT),
    (stat_report(FIRST, wide=True), [*STAT, *STAT_WIDE]),
    (top_report(FIRST), PROCESS),
    (top_report(FIRST, ("file",)), FILE),
]


def parsed(report: Report) -> dict[str, Any]:
    text = Json().render(report)
    assert text.count("\n") == 1 and text.endswith("\n"), "one line per report"
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize(("report", "names"), REPORTS)
def test_json_has_the_keys_of_the_contract(report: Report, names: list[str]) -> None:
    found = parsed(report)
    assert list(found) == ["report", "schema", "time", "interval_s", "rows", "audit"]
    assert [list(row) for row in found["rows"]] == [names]
    assert list(found["audit"]) == [
        "accuracy", "events", "lost", "missed", "map_full", "probes", "kernel", "self", "notes",
    ]  # fmt: skip


def test_json_has_what_was_counted() -> None:
    found = parsed(top_report(FIRST))
    assert [found[name] for name in ("report", "schema", "time", "interval_s")] == [
        "cachetop", 1, "2026-01-31T12:00:01.000Z", 1.003,
    ]  # fmt: skip
    assert found["rows"] == [
        dict(zip(PROCESS, [100, 0, "root", "cat", "/", "?", 0, 4, 0, 0.0, None, 0], strict=True))
    ]
    assert found["audit"]["events"] == 2
    assert found["audit"]["kernel"] == {"nr_written": 7}


def test_json_of_an_interval_without_events_has_no_rows() -> None:
    assert parsed(top_report(make_chunk()))["rows"] == []


@pytest.mark.parametrize(("report", "names"), REPORTS)
def test_csv_has_one_header_over_all_reports(report: Report, names: list[str]) -> None:
    renderer = Csv()
    first, *rest = [renderer.render(report) for _ in range(3)]
    head, line = first.splitlines()
    assert head == ",".join(["time", *names])
    assert rest == [f"{line}\n"] * 2


def test_csv_has_what_was_counted_under_the_reports_time() -> None:
    renderer = Csv()
    lines = [
        line for part in (FIRST, SECOND) for line in renderer.render(stat_report(part)).split()
    ]
    assert lines[1:] == [
        "2026-01-31T12:00:01.000Z,0,4,0,0.0,5242880,629145600",
        "2026-01-31T12:00:02.000Z,5,0,3,100.0,5242880,629145600",
    ]


def test_a_ratio_of_nothing_is_empty_in_csv_and_null_in_json() -> None:
    quiet = stat_report(make_chunk())
    assert Csv().render(quiet).splitlines()[1].split(",")[1:5] == ["0", "0", "0", ""]
    assert parsed(quiet)["rows"][0]["hit_ratio_pct"] is None


ODD = 'a,b "c" \\n =1+1 日本 \U0001f600'


def test_odd_names_come_back_from_csv_and_json_as_they_were() -> None:
    chunk = make_chunk(read(), processes={100: Process(ODD, 0, ODD, ODD)}, paths=named(ODD))
    report = top_report(chunk, ("process", "file"))
    (row,) = csv.DictReader(Csv().render(report).splitlines())
    names = ("user", "comm", "cgroup", "path")
    assert [row[name] for name in names] == [ODD] * 4
    assert [parsed(report)["rows"][0][name] for name in names] == [ODD] * 4
