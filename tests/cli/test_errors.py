"""Failures that are foreseen: two lines on stderr, status 1, and never a traceback."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.calling import memtap, says, somebody, spawn
from tests.cli.making import FIRST, SECOND, record
from tests.tracers.builders import make_chunk, make_origin, named, read

A_RECORDING = "name a file that --record wrote, a glob of such files, or their folder"

# The first line is `what` with the path; a `%` stands for it.
NO_RECORDINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "no recording at %"),
    "an empty file": (Path.touch, "% is no Parquet file, is damaged or has no end"),
    "a text": (lambda path: path.write_text("time,pid\n"), "% is no Parquet file, is damaged or"),
    "an empty folder": (Path.mkdir, "no recording at %"),
    "somebody else's Parquet": (
        lambda path: pq.write_table(pa.table({"a": [1]}), path),
        "% is no recording of memtap",
    ),
}


@pytest.mark.parametrize("command", ["cachestat", "cachetop"])
@pytest.mark.parametrize("what", NO_RECORDINGS)
def test_what_is_no_recording_is_said(what: str, command: str, tmp_path: Path) -> None:
    make, said = NO_RECORDINGS[what]
    path = tmp_path / "r.parquet"
    make(path)
    done = memtap(command, "--from", path)
    says(done, said.replace("%", str(path)), A_RECORDING)
    assert done.out == ""


def test_a_glob_that_finds_nothing_is_said(tmp_path: Path) -> None:
    says(memtap("cachetop", "--from", tmp_path / "*"), f"no recording at {tmp_path}/*", A_RECORDING)


def test_what_can_be_read_of_a_damaged_recording_is_shown_before_the_error(tmp_path: Path) -> None:
    path = record(tmp_path / "r.parquet", FIRST, *[SECOND] * 9)
    data = bytearray(path.read_bytes())
    middle = pq.read_metadata(path).row_group(5).column(0).data_page_offset
    data[middle : middle + 100] = b"\xff" * 100
    path.write_bytes(data)
    done = memtap("cachestat", "--from", path)
    says(done, f"cannot read {path}: it is damaged", "before the damage was shown")
    assert len(done.lines) == 1 + 5


def test_a_process_that_is_not_there_is_said() -> None:
    for command in ("cachestat", "cachetop"):
        done = memtap(command, "-p", "999999999")
        says(done, "there is no process 999999999", "ps -e")
        assert done.out == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [(".", "Is a directory"), ("no/such", "No such file or directory")],
)
def test_an_output_that_cannot_be_written_is_said(
    name: str, reason: str, recording: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    done = memtap("cachestat", "--from", recording, "-o", path)
    says(done, f"cannot write {path}: {reason}", "name another file")
    assert done.out == ""


def test_a_full_disk_is_said(recording: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = spawn("cachetop", "--from", recording, stdout=full)
    says(done, "cannot write the report: No space left on device", "--output")


@pytest.mark.parametrize("arguments", [("schema",), ("--help",), ("ledger", "--help")])
def test_a_full_disk_is_said_of_what_is_no_report(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = spawn(*arguments, stdout=full)
    says(done, "cannot write: No space left on device", "a place that has room")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what root alone may read")
def test_a_recording_of_somebody_else_is_said(public: Path) -> None:
    path = record(public / "private", FIRST)
    path.chmod(0o600)
    done = spawn("cachetop", "--from", path, **somebody())
    says(done, f"cannot read {path}: Permission denied", A_RECORDING)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what others may not ask about")
def test_files_of_somebody_else_alone_are_no_report(public: Path) -> None:
    file = public / "file"
    file.write_text("x")
    done = spawn("files", file, **somebody())
    says(done, "1 file is not ours to ask about", "files that you own")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what root alone may enter")
def test_a_folder_of_somebody_else_is_said(public: Path) -> None:
    folder = public / "closed"
    folder.mkdir(mode=0o700)
    path = record(folder / "r.parquet", FIRST)
    done = spawn("cachetop", "--from", path, **somebody())
    says(done, f"{path}", A_RECORDING)


def test_a_name_that_is_too_long_is_said() -> None:
    says(memtap("cachetop", "--from", "x" * 5000), "x" * 5000, A_RECORDING)


@pytest.mark.parametrize("name", ["a\nb", "\x9b31m", "\u202eb"])
def test_a_hostile_file_name_is_said_harmlessly(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.parquet").touch()
    done = memtap("cachetop", "--from", tmp_path)
    says(done, "is no Parquet file", A_RECORDING)
    assert all(line.isprintable() for line in done.err.splitlines())


def test_a_recording_is_not_overwritten_by_its_own_report(tmp_path: Path) -> None:
    path = record(tmp_path / "r.parquet", FIRST)
    before = path.read_bytes()
    done = spawn("cachetop", "--from", path, "-o", path)
    assert path.read_bytes() == before
    says(done, f"{path}", "another file")


def test_a_name_that_the_output_cannot_encode_is_no_traceback(tmp_path: Path) -> None:
    path = record(tmp_path / "r.parquet", make_chunk(read(), paths=named("/größe")))
    done = spawn(
        "cachetop", "-b", "file", "--from", path, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert "Traceback" not in done.err


def test_a_recording_of_another_tracer_is_said(tmp_path: Path) -> None:
    path = record(tmp_path / "r", FIRST, origin=make_origin(tracer="slab"))
    done = memtap("cachetop", "--from", path)
    says(done, f"{path} is a recording of another report", "it can be shown by memtap slab")


def test_of_a_recording_all_that_can_show_it_are_named(tmp_path: Path) -> None:
    path = record(tmp_path / "r", FIRST)
    done = memtap("faults", "--from", path)
    says(done, f"{path} is a", "shown by memtap cachestat and memtap cachetop")


def test_a_recording_and_its_report_are_two_files() -> None:
    done = memtap("cachetop", "--record", "x", "-o", "x")
    assert done.status == 2
    assert "name the same file" in done.err
