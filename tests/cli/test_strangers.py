"""Recordings that somebody made to do harm: two lines, half a gigabyte at most, and an end."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memtap.bpf.stream import Events
from memtap.tracers.host.files import FileName
from memtap.tracers.model.process import Process
from memtap.tracers.pagecache.rows import ROW
from tests.cli.calling import HOME, command, memtap, says, spawn
from tests.cli.making import FIRST, SECOND, record
from tests.tracers.builders import make_chunk, make_origin

RECORDINGS = HOME / "tests/data/recordings"

MOST_BYTES = 512 << 20
TRUST = "add --trust"


def rows(count: int, **values: Any) -> Events:
    made = np.zeros(count, ROW)
    made["kind"], made["pages"] = 1, 1
    for name, value in values.items():
        made[name] = value
    return made


def all_alike(path: Path) -> None:
    record(path, replace(SECOND, rows=rows(3_000_000)))


def many_groups(path: Path) -> None:
    record(path, *[replace(FIRST, rows=rows(500_000))] * 4)


def a_long_head(path: Path) -> None:
    record(path, make_chunk(paths={1: FileName("8:1", 1, "A" * (100 << 20))}))


def many_processes(path: Path) -> None:
    record(
        path, make_chunk(processes={number: Process("a", 0, "b", "/") for number in range(700_000)})
    )


def many_files(path: Path) -> None:
    """Little to read; but a row for each in the report."""
    several = np.arange(1_500_000)
    record(path, replace(SECOND, rows=rows(len(several), file=several, index=several * 3)))


def a_long_end(path: Path) -> None:
    record(path, SECOND, origin=make_origin(notes=("x" * (40 << 20),)))


BOMBS: dict[str, Callable[[Path], None]] = {
    each.__name__: each
    for each in (all_alike, many_groups, a_long_head, many_processes, many_files, a_long_end)
}


# In a process between, as a child of this one has at least the memory of this one.
_WITH_MEMORY = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10)
sys.exit(done.returncode)
"""


def ended(path: Path, *arguments: str) -> tuple[int, list[str], int]:
    """Status, what was said, and the most memory that a process of it took."""
    words = [sys.executable, "-c", _WITH_MEMORY, *command(*arguments, "--from", path)]
    done = subprocess.run(words, cwd=HOME, capture_output=True, text=True)
    return done.returncode, done.stderr.splitlines(), int(done.stdout)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_in_two_lines(bomb: str, tmp_path: Path) -> None:
    BOMBS[bomb](tmp_path / "r.parquet")
    status, lines, most = ended(tmp_path / "r.parquet", "cachetop", "-b", "process,file")
    assert (status, len(lines)) == (1, 2), lines
    assert lines[0].startswith("memtap: ")
    assert TRUST in lines[1]
    assert most <= MOST_BYTES


def test_who_is_trusted_may_take_more(tmp_path: Path) -> None:
    all_rows = 1_800_000
    path = record(tmp_path / "r.parquet", replace(SECOND, rows=rows(all_rows)))
    says(spawn("cachestat", "--from", path), "becomes more than 100 times its size", TRUST)
    done = memtap("cachestat", "-f", "json", "--from", path)  # which adds --trust
    assert json.loads(done.out)["audit"]["events"] == all_rows


def test_trust_is_about_a_recording() -> None:
    done = memtap("cachestat", "--trust")
    assert (done.status, "--from" in done.err) == (2, True)


@pytest.mark.parametrize("column", ["pages", "index"])
def test_numbers_that_cannot_be_are_refused(column: str, tmp_path: Path) -> None:
    changed = FIRST.rows.copy()
    changed["ns" if column == "pages" else column] = 2**64 - 1
    path = record(tmp_path / "r.parquet", replace(SECOND, rows=changed))
    says(spawn("cachetop", "--from", path), "it contradicts itself", "was not recorded by memtap")


def test_a_recording_of_another_tracer_by_its_columns_is_refused(tmp_path: Path) -> None:
    path = record(tmp_path / "r.parquet", SECOND, origin=make_origin(tracer="slab"))
    says(spawn("slab", "--from", path), "has other columns", "use the memtap")


def test_a_recording_of_the_first_schema_is_read_where_columns_are_still_the_same() -> None:
    """What `--record` of 0.1 wrote of a program that touched 400,000 bytes of malloc's."""
    malloc, faults = (RECORDINGS / f"schema-1-{name}.parquet" for name in ("malloc", "faults"))
    says(spawn("malloc", "--from", malloc), "has other columns (schema 1)", "use memtap 0.1")
    done = memtap("faults", "-b", "cause", "-f", "json", "--from", faults)
    causes = {row["cause"]: row["total"] for row in json.loads(done.out)["rows"]}
    assert causes == {"first-touch": 108, "file-map": 26, "cow": 13, "zero-page": 1}


def test_a_recording_without_an_end_is_shown_and_said(tmp_path: Path) -> None:
    whole = record(tmp_path / "whole.parquet", FIRST, SECOND, SECOND)
    data = whole.read_bytes()
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(data[: data.rindex(b"PAR1PAR1") + 4] + bytes(70_000))
    shown = memtap("cachetop", "--from", record(tmp_path / "two.parquet", FIRST, SECOND)).out
    done = spawn("cachetop", "--from", cut)
    assert (done.status, done.out) == (0, shown)
    (note,) = done.err.splitlines()
    assert note.startswith(f"memtap: note: {cut} has no end")


def test_neither_memory_nor_time_is_limited_for_those_who_come_after(recording: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA), resource.getrlimit(resource.RLIMIT_CPU)
    spawn("cachetop", "--from", recording)
    memtap("cachetop", "--from", recording)
    after = resource.getrlimit(resource.RLIMIT_DATA), resource.getrlimit(resource.RLIMIT_CPU)
    assert after == before
