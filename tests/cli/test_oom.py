"""oom --scores: a look at /proc, which needs no root and cannot be recorded."""

from __future__ import annotations

import json
import os

import pytest

from tests.cli.calling import memtap, somebody, spawn


def test_who_is_next_is_told_without_root_and_without_bcc() -> None:
    done = spawn("oom", "--scores", "-p", os.getpid(), "-f", "json", **somebody())
    assert done.status == 0, done.err
    (row,) = json.loads(done.out)["rows"]
    assert row["pid"] == os.getpid()
    assert row["res_bytes"] > 10 << 20


def test_the_formula_is_told_with_the_numbers_of_the_first() -> None:
    done = memtap("oom", "--scores", "--explain", "-p", os.getpid())
    assert done.status == 0, done.err
    heading, row, *explanation = done.lines
    assert heading.split()[-6:] == ["SCORE", "ADJ", "ADJ_KB", "RES_KB", "SWAP_KB", "PGTAB_KB"]
    told = " ".join(explanation)
    assert f"its score is {row.split()[3]}." in told
    assert all(len(line) < 80 for line in done.lines)


def test_it_looks_as_often_as_it_is_told() -> None:
    done = memtap("oom", "--scores", "0.01", "3", "-p", os.getpid(), "-f", "json")
    assert [len(json.loads(line)["rows"]) for line in done.lines] == [1, 1, 1]


@pytest.mark.parametrize(
    "more", [["--", "true"], ["--record", "x"], ["--cgroup", "/"], ["--from", "x"]]
)
def test_what_only_tracing_can_do_is_refused(more: list[str]) -> None:
    done = memtap("oom", "--scores", *more)
    assert done.status == 2
    assert "--scores" in done.err


def test_columns_to_sort_by_are_those_of_what_is_shown() -> None:
    assert memtap("oom", "--scores", "-s", "score", "-r", "1").status == 0
    assert memtap("oom", "--scores", "-s", "trigger_pid").status == 2
    assert "no column 'score'" in memtap("oom", "-s", "score").err
