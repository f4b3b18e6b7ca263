"""Recordings: what goes in comes out, and what is none is refused in plain words."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memtap.bpf.errors import MemtapError
from memtap.bpf.session import Losses
from memtap.tracers.host.files import FileName
from memtap.tracers.host.hostile import one_line
from memtap.tracers.live.recording import Recorder, Recording, RecordingFullError, find
from memtap.tracers.model.chunk import Chunk, Origin
from memtap.tracers.model.process import Process
from memtap.tracers.pagecache.cachetop import Cachetop
from memtap.tracers.pagecache.rows import ROW
from tests.tracers.builders import (
    INO,
    Event,
    add,
    events_at_random,
    make_chunk,
    make_interval,
    make_origin,
    named,
    people_at_random,
    read,
)

RAW = "\\x1b[2J\u202e\U0001f600\"\n\0'\ud800"
HOSTILE = one_line(RAW)
SOME = make_chunk(add(0, 4), read(0, 4), processes={100: Process("cat", 0, "root", "/")})


def record(path: Path, *chunks: Chunk, origin: Origin | None = None) -> Path:
    recorder = Recorder(path, origin or make_origin(), ROW)
    for chunk in chunks:
        recorder.write(chunk)
    recorder.close()
    return path


def same(one: Chunk, other: Chunk) -> bool:
    names = ("until_ns", "processes", "paths", "interval", "last")
    return one.rows.tobytes() == other.rows.tobytes() and all(
        getattr(one, name) == getattr(other, name) for name in names
    )


CHUNKS = {
    "some rows": SOME,
    "no rows": make_chunk(),
    "within an interval": make_chunk(read(), interval=None, last=False),
    "the largest numbers": make_chunk(
        read(file=2**51, index=2**64 - 1, pages=2**32 - 1, whole=2**32 - 1, call=2**16 - 1)
    ),
    "hostile names": make_chunk(
        processes={1: Process(HOSTILE, -1, HOSTILE, HOSTILE)},
        paths={2**63: FileName(HOSTILE, 2**64 - 1, HOSTILE)},
    ),
    "losses and notes": make_chunk(
        interval=make_interval(losses=Losses(1, 2, 3), notes=("a", HOSTILE), kernel={})
    ),
}


@pytest.mark.parametrize("what", CHUNKS)
def test_a_chunk_comes_back_as_it_was(what: str, tmp_path: Path) -> None:
    (back,) = Recording(record(tmp_path / "r", CHUNKS[what]))
    assert same(back, CHUNKS[what])


@given(
    st.lists(
        st.tuples(events_at_random(most_pages=4), people_at_random(), st.booleans()), max_size=3
    )
)
def test_many_chunks_come_back_in_their_order(
    tmp_path_factory: pytest.TempPathFactory,
    parts: list[tuple[list[Event], dict[int, Process], bool]],
) -> None:
    chunks = [
        make_chunk(
            *events,
            processes=processes,
            interval=make_interval() if ends else None,
            until_ns=number,
        )
        for number, (events, processes, ends) in enumerate(parts)
    ]
    path = record(tmp_path_factory.getbasetemp() / "chunks", *chunks)
    back = list(Recording(path))
    assert len(back) == len(chunks)
    assert all(map(same, back, chunks))


def test_the_origin_comes_back_as_it_was(tmp_path: Path) -> None:
    origin = make_origin(notes=("a", HOSTILE), filtered=True, accuracy="bounded")
    assert Recording(record(tmp_path / "r", origin=origin)).origin == origin


def test_a_replay_gives_the_report_that_the_live_run_gave(tmp_path: Path) -> None:
    chunks = [make_chunk(add(0, 4), interval=None, last=False, paths=named("/x")), SOME, SOME]
    by = ("process", "file")

    def text(source: Iterator[Chunk]) -> list[str]:
        cachetop = Cachetop(make_origin(), by)
        return [json.dumps(r.to_dict()) for r in map(cachetop.feed, source) if r]

    live = text(iter(chunks))
    assert len(live) == 2
    assert text(iter(Recording(record(tmp_path / "r", *chunks)))) == live


def test_the_end_of_the_file_has_the_totals(tmp_path: Path) -> None:
    lossy = make_chunk(read(), interval=make_interval(losses=Losses(1, 2, 3, 4, 5)))
    path = record(tmp_path / "r", lossy, SOME, lossy)
    totals = json.loads(pq.read_metadata(path).metadata[b"memtap.audit"])
    assert totals == {
        "events": 4,
        "lost": 2,
        "missed": 4,
        "map_full": 6,
        "records": 8,
        "spilled": 10,
    }


# The file.


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_text("readable by all")
    path.chmod(0o644)
    record(path, SOME)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_it_belongs_to_the_user_who_called_sudo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_UID", "65534")
    monkeypatch.setenv("SUDO_GID", "65533")
    status = record(tmp_path / "r", SOME).stat()
    assert (status.st_uid, status.st_gid) == (65534, 65533)


def symlink(path: Path) -> None:
    (path.parent / "precious").write_text("kept")
    path.symlink_to("precious")


@pytest.mark.parametrize("make", [symlink, os.mkfifo, os.mkdir])
def test_only_a_regular_file_is_written_to(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "r"
    make(path)
    before = path.lstat()
    with pytest.raises(MemtapError, match="cannot record to"):
        Recorder(path, make_origin(), ROW)
    after = path.lstat()
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
    if path.is_symlink():
        assert path.read_text() == "kept"


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(MemtapError, match="No such file or directory"):
        Recorder(tmp_path / "none" / "r", make_origin(), ROW)


@pytest.fixture
def file_limit() -> Iterator[int]:
    """No file of this process can grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = 600 << 10
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_recording_that_may_not_grow_ends_and_can_be_read(
    tmp_path: Path, file_limit: int
) -> None:
    recorder = Recorder(tmp_path / "r", make_origin(), ROW)
    written = 0
    with pytest.raises(RecordingFullError, match="ended: File too large"):
        while written < file_limit:
            recorder.write(SOME)
            written += 1
    assert written > 1
    assert len(list(Recording(tmp_path / "r"))) == written


# Reading what is there.


def parquet(path: Path, metadata: dict[bytes, bytes]) -> None:
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata(metadata), path)


def within_its_first_chunk(path: Path) -> None:
    whole = record(path, SOME, SOME).read_bytes()
    path.write_bytes(whole[: whole.index(b"PAR1", 4) - 100])


NO_RECORDINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (Path.touch, "is no Parquet file, is damaged or has no end"),
    "text": (
        lambda path: path.write_text("hello" * 100),
        "is no Parquet file, is damaged or has no end",
    ),
    "cut off within its first chunk": (
        within_its_first_chunk,
        "is no Parquet file, is damaged or has no end",
    ),
    "somebody else's Parquet": (lambda path: parquet(path, {}), "is no recording of memtap"),
    "of another schema": (
        lambda path: parquet(path, {b"memtap": b'{"schema": 3}'}),
        "has schema 3, and this memtap knows those up to 2",
    ),
    "not there": (lambda path: None, "cannot read [^:]*: No such file or directory$"),
}


@pytest.mark.parametrize("what", NO_RECORDINGS)
def test_what_is_no_recording_is_said(what: str, tmp_path: Path) -> None:
    make, said = NO_RECORDINGS[what]
    make(tmp_path / "r")
    with pytest.raises(MemtapError, match=said) as caught:
        Recording(tmp_path / "r")
    assert caught.value.hint


def test_a_recording_that_is_damaged_inside_is_said(tmp_path: Path) -> None:
    path = record(tmp_path / "r", *[SOME] * 20)
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 2] = b"\xff" * (len(data) // 2 - 4)
    path.write_bytes(data)
    with pytest.raises(MemtapError, match="it is damaged"):
        list(Recording(path))


def test_a_file_is_found_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "[odd]*name"
    path.touch()
    assert find(str(path)) == [path]


def test_the_recordings_of_a_folder_are_found_in_order(tmp_path: Path) -> None:
    for name in ("2.parquet", "1.parquet", "notes.txt"):
        (tmp_path / name).touch()
    assert find(str(tmp_path)) == [tmp_path / "1.parquet", tmp_path / "2.parquet"]


def test_a_glob_is_followed_in_order(tmp_path: Path) -> None:
    for name in ("b2", "b1", "a"):
        (tmp_path / name).touch()
    assert find(str(tmp_path / "b*")) == [tmp_path / "b1", tmp_path / "b2"]


@pytest.mark.parametrize("pattern", ["", "none", "*.parquet"])
def test_nothing_found_is_said(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(MemtapError, match="no recording at"):
        find(str(tmp_path / pattern))


@example(flips=[(0.654296875, 15)])  # the type of a column
@example(flips=[(0.65315, 1)])  # whether it can be null
@example(flips=[(0.66695, 64)])  # how often it is
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1)
)
def test_whatever_is_damaged_is_said_and_never_shown_as_a_number(
    flips: list[tuple[float, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Bytes of a recording are changed at random; what still reads is what was written."""
    path = record(tmp_path_factory.mktemp("damaged") / "r.parquet", SOME, make_chunk(read()))
    whole = path.read_bytes()
    data = bytearray(whole)
    for place, change in flips:
        data[int(place * len(data))] ^= change
    path.write_bytes(data)
    try:
        damaged = Recording(path)
        damaged.require(SOME.rows.dtype)  # as each command does: types may have been damaged
        rows = [chunk.rows.tobytes() for chunk in damaged]
    except MemtapError:
        return
    path.write_bytes(whole)
    written = [chunk.rows.tobytes() for chunk in Recording(path)]
    assert rows == (written[: len(rows)] if damaged.was_cut_off else written)


def test_names_in_a_file_that_anybody_could_write_are_made_printable(tmp_path: Path) -> None:
    raw = make_chunk(processes={1: Process(RAW, 0, RAW, RAW)}, paths={1: FileName(RAW, INO, RAW)})
    (back,) = Recording(record(tmp_path / "r", raw))
    assert back.processes == {1: Process(HOSTILE, 0, HOSTILE, HOSTILE)}
    assert back.paths == {1: FileName(HOSTILE, INO, HOSTILE)}
    assert HOSTILE.isprintable()


@pytest.mark.parametrize("time", ["", "yesterday", "2026-01-31T25:00:00Z"])
def test_a_time_that_is_none_is_damage(time: str, tmp_path: Path) -> None:
    path = record(tmp_path / "r", make_chunk(interval=make_interval(time=time)))
    with pytest.raises(MemtapError, match="damaged"):
        list(Recording(path))


# What is left of a recorder that was killed.


def recorder_that_kills_itself(path: Path, chunks: int) -> None:
    """Another process records so much, and is killed before it can close the file."""
    child = os.fork()
    if child == 0:
        recorder = Recorder(path, make_origin(), ROW)
        for _ in range(chunks):
            recorder.write(SOME)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("chunks", [1, 2, 30])
def test_what_was_recorded_before_a_kill_is_there(chunks: int, tmp_path: Path) -> None:
    path = tmp_path / "r"
    recorder_that_kills_itself(path, chunks)
    recording = Recording(path)
    assert recording.was_cut_off
    assert recording.origin == make_origin()
    back = list(recording)
    assert len(back) == chunks
    assert all(same(chunk, SOME) for chunk in back)


def test_who_was_killed_before_anything_was_recorded_left_no_recording(tmp_path: Path) -> None:
    recorder_that_kills_itself(tmp_path / "r", 0)
    with pytest.raises(MemtapError, match="is no Parquet file, is damaged or has no end"):
        Recording(tmp_path / "r")


@given(part=st.floats(0, 1), zeros=st.sampled_from([0, 1, 7, 4096, 300_000]))
def test_wherever_it_is_cut_off_all_that_was_whole_is_read(
    part: float, zeros: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Behind the cut there may be the room that was kept for more."""
    path = tmp_path_factory.mktemp("cut") / "r"
    recorder, ends = Recorder(path, make_origin(), ROW), []
    for _ in range(3):
        recorder.write(SOME)
        ends.append(recorder._file.tell())
    recorder.close()
    whole = path.read_bytes()
    cut = int(part * len(whole))
    path.write_bytes(whole[:cut] + bytes(zeros))
    before = sum(end <= cut for end in ends)
    try:
        recording = Recording(path)
    except MemtapError:
        assert before == 0
        return
    assert len(list(recording)) == before
    assert recording.was_cut_off == (cut < len(whole) or zeros > 0)


def test_a_recording_is_plain_parquet(tmp_path: Path) -> None:
    path = record(tmp_path / "r", SOME, make_chunk(read()), SOME)
    table = pq.read_table(path)
    assert table.column_names == [*(ROW.names or ()), "head"]
    rows = [len(chunk.rows) + 1 for chunk in Recording(path)]
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(n).num_rows for n in range(3)] == rows
    assert len(table) == metadata.num_rows == sum(rows)


def test_a_recording_can_be_read_while_it_grows(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "r", make_origin(), ROW)
    for count in range(1, 4):
        recorder.write(SOME)
        assert len(list(Recording(tmp_path / "r"))) == count
    recorder.close()
    assert not Recording(tmp_path / "r").was_cut_off


# What others have made.


def test_what_becomes_too_large_is_refused_and_read_if_it_is_trusted(tmp_path: Path) -> None:
    rows = np.zeros(3_000_000, ROW)
    path = record(tmp_path / "r", replace(SOME, rows=rows))
    assert path.stat().st_size < 100_000
    with pytest.raises(MemtapError, match="becomes more than 100 times its size") as refused:
        list(Recording(path))
    assert "--trust" in refused.value.hint
    (chunk,) = Recording(path, trusted=True)
    assert len(chunk.rows) == len(rows)


def test_the_type_of_rows_must_be_the_tracers(tmp_path: Path) -> None:
    recording = Recording(record(tmp_path / "r", SOME))
    recording.require(ROW)
    with pytest.raises(MemtapError, match=r"has other columns \(schema 2\)"):
        recording.require(np.dtype([(name, "u8") for name in ROW.names or ()]))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_only_a_regular_file_is_read(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "r")
    with pytest.raises(MemtapError, match="it is no regular file"):
        Recording(tmp_path / "r")


HEADS: dict[str, object] = {
    "a number that is too large": {"until_ns": 2**64},
    "a number below none": {"until_ns": -1},
    "no number": {"until_ns": True},
    "a process of no number": {"who": [["1", "a", 0, "b", "/"]]},
    "a process with more": {"who": [[1, "a", 0, "b", "/", "c", "d", "e", "f"]]},
    "a user below -1": {"who": [[1, "a", -2, "b", "/"]]},
    "a name that is none": {"who": [[1, None, 0, "b", "/"]]},
    "a name without an end": {"paths": [[1, "8:1", 1, "a" * (2 << 20)]]},
    "texts of no kind": {"texts": []},
    "a text of no number": {"texts": {"place": [["1", "a"]]}},
    "neither true nor false": {"last": 1},
    "an interval of no length": {"interval": {"seconds": float("nan")}},
    "an interval without an end": {"interval": {"seconds": float("inf")}},
    "an interval below none": {"interval": {"seconds": -1.0}},
    "an interval of text": {"interval": {"seconds": "1"}},
    "more of an interval": {"interval": {"more": 1}},
    "losses below none": {"interval": {"losses": {"lost": -5}}},
    "a counter that is none": {"interval": {"kernel": {"pgfault": 0.5}}},
    "notes that are none": {"interval": {"notes": [1]}},
    "a time before there was any": {"interval": {"time": "0001-01-01T00:00:00.000Z"}},
    "a time of nowhere": {"interval": {"time": "2026-01-31T12:00:01.000"}},
}


@pytest.mark.parametrize("what", HEADS)
def test_a_head_that_cannot_be_is_damage(what: str) -> None:
    head = json.loads(SOME.head())
    assert same(Chunk.from_head(json.dumps(head), SOME.rows), SOME)
    changes = HEADS[what]
    assert isinstance(changes, dict)
    for name, change in changes.items():
        head[name] = head[name] | change if name == "interval" else change
    with pytest.raises((ValueError, TypeError, LookupError, AttributeError)):
        Chunk.from_head(json.dumps(head), SOME.rows)


@pytest.mark.parametrize(
    "change",
    [{"page_bytes": 0}, {"accuracy": "perfect"}, {"filtered": 0}, {"notes": "a"}, {"host": None}],
)
def test_an_origin_that_cannot_be_is_damage(change: dict[str, object]) -> None:
    said = json.loads(make_origin().to_json())
    assert Origin.from_json(json.dumps(said)) == make_origin()
    with pytest.raises((ValueError, TypeError)):
        Origin.from_json(json.dumps(said | change))


def test_notes_and_names_of_an_origin_are_made_printable() -> None:
    origin = Origin.from_json(make_origin(notes=(RAW,), host=RAW, probes=(RAW,)).to_json())
    assert (origin.notes, origin.host, origin.probes) == ((HOSTILE,), HOSTILE, (HOSTILE,))
