"""Names that other processes chose do nothing to a terminal, and do not spoil a table."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from memtap.cli.render import Blocks, Look
from memtap.tracers.host.hostile import printable
from memtap.tracers.model.process import Process
from tests.cli.calling import memtap
from tests.cli.making import record, top_report
from tests.tracers.builders import make_chunk, named, read

RAW = {
    "erases the screen": b"\x1b[2J\x1b[H",
    "sets the title": b"\x1b]0;mine\x07",
    "lines of its own": b"a\n1 root init\r\n",
    "backspaces": b"rm\x08\x08ls",
    "C1 controls": "\x9b31m\x85".encode(),
    "right to left": "\u202egnp.exe\u2066".encode(),
    "line separators": "a\u2028b\u2029c".encode(),
    "not UTF-8": b"\xff\xfe\x80",
    "nothing to see": "\u200b\ufeff\xad\u3164".encode(),
    "very long": b"\x01" * 4000,
}


def of_name(name: str, tmp_path: Path) -> Path:
    chunk = make_chunk(read(), processes={100: Process(name, 0, name, name)}, paths=named(name))
    return record(tmp_path / "r.parquet", chunk)


def is_harmless(text: str, lines: int) -> bool:
    """Does nothing on a terminal but print so many lines?"""
    found = text.split("\n")
    return len(found) == lines + 1 and all(line.isprintable() for line in found)


@pytest.mark.parametrize(("format", "lines"), [("table", 2), ("csv", 2), ("json", 1)])
@pytest.mark.parametrize("what", RAW)
def test_a_hostile_name_is_printed_harmlessly(
    what: str, format: str, lines: int, tmp_path: Path
) -> None:
    path = of_name(printable(RAW[what]), tmp_path)
    done = memtap("cachetop", "-b", "process,file", "-f", format, "--from", path)
    assert (done.status, done.err) == (0, "")
    assert is_harmless(done.out, lines)


@pytest.mark.parametrize(
    ("format", "lines"),
    [
        ("table", 2),
        ("csv", 2),
        ("json", 1),
    ],
)
@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "\u202eb", "\x9b31m"])
def test_a_hostile_recording_is_printed_harmlessly(
    name: str, format: str, lines: int, tmp_path: Path
) -> None:
    done = memtap("cachetop", "-b", "process,file", "-f", format, "--from", of_name(name, tmp_path))
    assert (done.status, done.err) == (0, "")
    assert is_harmless(done.out, lines)


def cells(text: str) -> int:
    """How many cells of a terminal a text takes."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


@pytest.mark.parametrize(
    "path",
    ["/x" * 2000, "/grüße" * 600, "/a b" * 1000, "/日本" * 600],
)
def test_a_long_path_does_not_wrap(path: str) -> None:
    report = top_report(make_chunk(read(), paths=named(path)), ("file",))
    lines = Blocks(Look(width=80)).render(report).splitlines()
    assert max(map(cells, lines)) <= 80


@pytest.mark.parametrize("name", ["cat", "größer", "日本語"])
def test_a_foreign_name_leaves_the_columns_aligned(name: str) -> None:
    processes = {1: Process(name, 0, "root", "/"), 2: Process("a-long-one", 0, "root", "/")}
    text = Blocks(Look()).render(
        top_report(make_chunk(read(tgid=1), read(tgid=2), processes=processes))
    )
    assert len({cells(line) for line in text.splitlines()}) == 1
