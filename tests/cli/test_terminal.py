"""What is different where a person looks: colours, and lines that fit."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest

from memtap.bpf.session import Losses
from memtap.cli.output import is_styled
from memtap.cli.render import Blocks, Look, Rolling
from tests.cli.calling import memtap, spawn
from tests.cli.making import record, stat_report
from tests.tracers.builders import make_chunk, make_interval, named, read

BOLD, YELLOW, PLAIN = "\x1b[1m", "\x1b[33m", "\x1b[0m"


@contextmanager
def terminal(columns: int = 80) -> Iterator[tuple[TextIO, int]]:
    """The user's end of a terminal, and a descriptor to read from what was written to it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(theirs, "w") as stream:
        yield stream, ours
    os.close(ours)


@pytest.mark.parametrize("renderer", [Blocks, Rolling])
def test_headings_are_bold_and_warnings_yellow(renderer: type[Blocks | Rolling]) -> None:
    report = stat_report(make_chunk(read(), interval=make_interval(losses=Losses(lost=1))))
    head, row, audit = renderer(Look(styled=True)).render(report).splitlines()
    assert head.startswith(BOLD) and head.endswith(PLAIN)
    assert "\x1b" not in row
    assert audit.startswith(f"{YELLOW}audit: ") and audit.endswith(PLAIN)


def test_an_audit_that_warns_of_nothing_has_no_colour() -> None:
    for renderer in (Blocks, Rolling):
        look = Look(styled=True, verbose=True)
        audit = renderer(look).render(stat_report(make_chunk(read()))).splitlines()[-1]
        assert audit.startswith("audit: exact")


def test_colours_are_for_terminals_alone(tmp_path: Path) -> None:
    with terminal() as (stream, _):
        assert is_styled(stream)
    with (tmp_path / "file").open("w") as file:
        assert not is_styled(file)


@pytest.mark.parametrize("value", ["1", "0", "yes"])
def test_no_color_is_honoured(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", value)
    with terminal() as (stream, _):
        assert not is_styled(stream)


@pytest.fixture(scope="module")
def deep(public: Path) -> Path:
    chunk = make_chunk(read(), paths=named("/deep" * 100))
    return record(public / "deep.parquet", chunk)


def on_terminal(columns: int, *arguments: object) -> list[str]:
    """The lines that memtap prints on a terminal of this width."""
    with terminal(columns) as (stream, ours):
        # With the environment named, as readline, which pytest imports, sets COLUMNS behind it.
        done = spawn(*arguments, stdin=stream, stdout=stream, env=os.environ)
        assert (done.status, done.err) == (0, "")
        return os.read(ours, 65536).decode().splitlines()


def test_on_a_terminal_lines_fit_and_headings_are_bold(deep: Path) -> None:
    head, row = on_terminal(72, "cachetop", "-b", "file", "--from", deep)
    assert head.startswith(BOLD)
    assert len(row) == 72


def test_elsewhere_lines_are_whole(deep: Path) -> None:
    assert memtap("cachetop", "-b", "file", "--from", deep).out.endswith(" " + "/deep" * 100 + "\n")


def test_on_a_terminal_without_colours_nothing_is_bold(
    recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    head, *rows = on_terminal(80, "cachestat", "--from", recording)
    assert head.split()[0] == "HITS"
    assert len(rows) == 2
