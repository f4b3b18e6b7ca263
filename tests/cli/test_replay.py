"""`--from`: the reports of a recording, for anybody, anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.calling import memtap, somebody, spawn
from tests.cli.making import record
from tests.tracers.builders import add, make_chunk, read

STAT = """\
    HITS   MISSES  DIRTIES HITRATIO BUFFERS_MB CACHED_MB
       0        4        0     0.0%          5       600
       5        0        3   100.0%          5       600
"""
TOP = """\
PID USER CMD HITS MISSES DIRTIES READ_HIT% WRITE_HIT%
100 root cat    0      4       0      0.0%          -

 PID USER   CMD HITS MISSES DIRTIES READ_HIT% WRITE_HIT%
 100 root   cat    4      0       0    100.0%          -
2000 daemon dd     1      0       3    100.0%     100.0%
"""


def rows(*arguments: object) -> list[list[dict[str, Any]]]:
    """The rows of each report."""
    done = memtap(*arguments, "-f", "json")
    assert (done.status, done.err) == (0, "")
    return [json.loads(line)["rows"] for line in done.lines]


def column(name: str, *arguments: object) -> list[Any]:
    """A column of the last report."""
    return [row[name] for row in rows(*arguments)[-1]]


@pytest.mark.parametrize(("command", "table"), [("cachestat", STAT), ("cachetop", TOP)])
def test_a_replay_is_the_report_of_what_was_recorded(
    command: str, table: str, recording: Path
) -> None:
    done = memtap(command, "--from", recording)
    assert (done.status, done.out, done.err) == (0, table, "")


@pytest.mark.parametrize(
    ("command", "format"), [("cachestat", "table"), ("cachetop", "json"), ("cachetop", "csv")]
)
def test_neither_root_nor_bcc_is_needed(command: str, format: str, recording: Path) -> None:
    arguments = (command, "-f", format, "--from", recording)
    assert spawn(*arguments, **somebody()) == memtap(*arguments)


@pytest.mark.parametrize(
    ("arguments", "pids"),
    [
        ("", [100, 2000]),
        ("-s dirties", [2000, 100]),
        ("-s HITS -r 1", [100]),
        ("--rows 1 --sort pid", [2000]),
        ("--sort cmd", [100, 2000]),
        ("--sort write_hit%", [2000, 100]),
        ("--sort cmd --reverse", [2000, 100]),
        ("-s HITS -r 1 --reverse", [2000]),
    ],
)
def test_rows_are_sorted_and_cut(arguments: str, pids: list[int], recording: Path) -> None:
    assert column("pid", "cachetop", *arguments.split(), "--from", recording) == pids


def test_most_misses_come_first_and_then_most_hits(tmp_path: Path) -> None:
    hits = [read(tgid=1), read(0, 3, tgid=2), read(0, 2, tgid=3)]
    path = record(tmp_path / "r.parquet", make_chunk(*hits, add(9, 1), read(9, 1, tgid=1)))
    assert column("pid", "cachetop", "--from", path) == [1, 2, 3]
    assert column("pid", "cachetop", "-s", "hits", "--from", path) == [2, 3, 1]


@pytest.mark.parametrize(
    ("by", "name", "values"),
    [
        ("process", "comm", ["cat", "dd"]),
        ("file", "path", ["/usr/big", "/tmp/x"]),
        ("cgroup", "cgroup", ["/", "/a"]),
        ("user", "user", ["root", "daemon"]),
        ("user,file", "path", ["/usr/big", "/tmp/x"]),
    ],
)
def test_rows_are_grouped(by: str, name: str, values: list[str], recording: Path) -> None:
    assert column(name, "cachetop", "--by", by, "--from", recording) == values


@pytest.mark.parametrize("by", ["process", "file", "cgroup", "user", "process,file"])
def test_the_rows_of_cachetop_add_up_to_cachestat(by: str, recording: Path) -> None:
    names = ("hits_pages", "misses_pages", "dirties_pages")
    total = [[row[name] for name in names] for (row,) in rows("cachestat", "--from", recording)]
    parts = rows("cachetop", "--by", by, "--from", recording)
    assert total == [[0, 4, 0], [5, 0, 3]]
    assert total == [[sum(row[name] for row in part) for name in names] for part in parts]


def test_a_timestamp_stands_before_each_table(recording: Path) -> None:
    done = memtap("cachetop", "-T", "--from", recording)
    assert [line for line in done.lines if ":" in line] == ["17:30:01", "17:30:02"]
    assert done.out.replace("17:30:01\n", "").replace("17:30:02\n", "") == TOP
    head, *lines = memtap("cachestat", "-T", "--from", recording).lines
    assert [line.split()[0] for line in (head, *lines)] == ["TIME", "17:30:01", "17:30:02"]


def test_verbose_says_below_each_table_how_far_to_believe_it(recording: Path) -> None:
    done = memtap("cachetop", "-v", "--from", recording)
    assert [line.split(",")[0] for line in done.lines if "audit" in line] == ["audit: exact"] * 2


def test_wide_has_more_columns(recording: Path) -> None:
    assert "READAHEAD" in memtap("cachestat", "--wide", "--from", recording).out
    assert "CGROUP" in memtap("cachetop", "--wide", "--from", recording).out


def test_output_goes_to_a_file(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("what was there before\n" * 100)
    arguments = ("cachestat", "--from", recording)
    done = spawn(*arguments, "-o", out)
    assert (done.status, done.out, done.err) == (0, "", "")
    assert out.read_text() == memtap(*arguments).out


@pytest.mark.parametrize("pattern", [".", "[ab].parquet", "*"])
def test_a_folder_or_a_glob_is_one_run_in_order(pattern: str, tmp_path: Path) -> None:
    for name, pages in ("b", 2), ("a", 1):
        record(tmp_path / f"{name}.parquet", make_chunk(read(0, pages)))
    done = memtap("cachestat", "-f", "csv", "--from", tmp_path / pattern)
    assert [line.split(",")[1] for line in done.lines] == ["hits_pages", "1", "2"]


def test_of_several_recordings_each_is_named_once(recording: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.parquet").write_bytes(recording.read_bytes())
    lines = memtap("cachetop", "--from", f"{tmp_path}/[ab].parquet").lines
    said = [f"recorded in {tmp_path}/{name}.parquet" for name in "ab"]
    assert [line for line in lines if "recorded" in line] == said
    assert "recorded" not in memtap("cachetop", "--from", recording).out


def test_a_page_that_one_recording_brings_in_is_no_miss_of_the_next(tmp_path: Path) -> None:
    record(tmp_path / "1.parquet", make_chunk(add(0, 4)))
    record(tmp_path / "2.parquet", make_chunk(read(0, 4)))
    _, (row,) = rows("cachestat", "--from", tmp_path)
    assert (row["hits_pages"], row["misses_pages"]) == (4, 0)


def test_a_recording_of_no_interval_has_no_report(tmp_path: Path) -> None:
    path = record(tmp_path / "r.parquet", make_chunk(read(), interval=None))
    done = memtap("cachestat", "--from", path)
    assert (done.status, done.out, done.err) == (0, "", "")
