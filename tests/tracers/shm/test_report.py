"""The report of shared memory, out of rows made by hand; and what its C program writes down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from memtap.tracers.host.files import FileName
from memtap.tracers.model.chunk import Chunk
from memtap.tracers.model.report import Report
from memtap.tracers.shm import looks, segments
from memtap.tracers.shm.columns import shm_columns
from memtap.tracers.shm.enrich import ShmEnricher
from memtap.tracers.shm.probes import Kind
from memtap.tracers.shm.report import Shm
from memtap.tracers.shm.rows import NOW, ROW, Sort
from memtap.tracers.shm.segments import sort_of
from tests.bpf.ctext import layout, members, number, source
from tests.tracers.builders import make_chunk, make_interval, make_origin
from tests.tracers.sources import Given, make_drained

PROGRAM = source("programs/shm.bpf.c")
PATHS = {
    1: FileName("0:1", 5, "shmid 5"),
    2: FileName("0:27", 9, "/dev/shm/x (deleted)"),
    3: FileName("0:30", 9, "/run/x"),
}
SORTS = {1: Sort.SYSV, 2: Sort.TMPFS, 3: Sort.TMPFS}


def chunk(*several: dict[str, int], **other: Any) -> Chunk:
    rows = np.zeros(len(several), ROW)
    for at, row in enumerate(several):
        segment = row.get("segment", 1)
        usual = {"kind": Kind.GREW, "segment": 1, "tgid": 7, "tid": 7, "sort": SORTS[segment]}
        for name, value in (usual | row).items():
            rows[name][at] = value
    return replace(make_chunk(**other), rows=rows, paths=PATHS)


def reports(*chunks: Chunk, by: str = "segment", **origin: Any) -> list[Report]:
    reporter = Shm(make_origin(tracer="shm", **origin), tuple(by.split(",")))
    return [found for each in chunks if (found := reporter.feed(each))]


def swapping(**counters: int) -> Any:
    return make_interval(kernel={"nr_shmem": 0, "pswpin": 0, "pswpout": 0} | counters)


def test_what_was_done_is_added_up_by_what_is_asked_for() -> None:
    rows = (
        {"count": 3},
        {"count": 4, "tid": 8},
        {"count": 2, "tgid": 9, "kind": Kind.FREED},
        {"count": 1, "kind": Kind.CREATED},
        {"count": 5, "kind": Kind.ATTACHED, "tgid": 9},
    )
    (report,) = reports(chunk(*rows), by="process")
    found = {
        row["pid"]: (row["grown_bytes"], row["freed_bytes"], row["created"], row["attaches"])
        for row in report.rows
    }
    assert found == {7: (7 * 4096, 0, 1, 0), 9: (0, 2 * 4096, 0, 5)}
    assert report.audit["events"] == 15
    (report,) = reports(chunk(*rows), by="thread")
    grown = {(row["pid"], row["tid"]): row["grown_bytes"] for row in report.rows}
    assert grown == {(7, 7): 3 * 4096, (7, 8): 4 * 4096, (9, 7): 0}


def test_a_segment_is_told_by_what_it_is() -> None:
    (report,) = reports(chunk({"count": 1}, {"count": 1, "segment": 2}, {"count": 1, "segment": 3}))
    assert [(row["kind"], row["segment"], row["dev"], row["ino"]) for row in report.rows] == [
        ("posix", "/dev/shm/x (deleted)", "0:27", 9),
        ("sysv", "shmid 5", "0:1", 5),
        ("tmpfs", "/run/x", "0:30", 9),
    ]


def test_how_segments_are_now_counts_once_for_each_that_a_row_is_about() -> None:
    now = {"kind": NOW, "count": 10, "bytes": 90_000, "swapped": 2, "tgid": 0, "tid": 0}
    rows = (
        {"count": 3},
        {"count": 4, "tid": 8},
        now,
        {"count": 1, "segment": 3},
        now | {"segment": 3},
    )
    (report,) = reports(chunk(*rows), by="process")
    (row,) = report.rows
    assert (row["size_bytes"], row["resident_bytes"]) == (180_000, 20 * 4096)
    assert row["swapped_bytes"] == 4 * 4096
    (report,) = reports(chunk(*rows[:-1]), by="process")  # of one nobody knows
    assert report.rows[0]["size_bytes"] is None


def test_huge_pages_are_said_to_be_told_of_by_nobody() -> None:
    rows = ({"count": 1, "kind": Kind.CREATED, "is_huge": 1}, {"kind": NOW, "is_huge": 1})
    (report,) = reports(chunk(*rows))
    (row,) = report.rows
    assert (row["created"], row["grown_bytes"], row["freed_bytes"]) == (1, None, None)
    assert report.audit["notes"] == [
        "1 segments have huge pages: who grows and frees those nobody tells"
    ]


def test_pages_out_of_swap_bound_what_grew() -> None:
    (report,) = reports(chunk({"count": 9}, interval=swapping(pswpin=4)))
    assert report.audit["accuracy"] == "bounded"
    assert "4 pages too large" in report.audit["notes"][0]
    (report,) = reports(chunk({"count": 3}, interval=swapping(pswpin=400)))
    assert "3 pages too large" in report.audit["notes"][0]
    (report,) = reports(chunk(interval=swapping(pswpin=400)))
    assert (report.audit["accuracy"], report.audit["notes"]) == ("exact", [])


@pytest.mark.parametrize(("alloced", "unseen"), [(60, 0), (50, 10), (0, 60)])
def test_the_kernels_own_count_tells_what_was_freed_in_swap(alloced: int, unseen: int) -> None:
    first = chunk(
        {"kind": Kind.CREATED, "count": 1},
        {"count": 100},
        {"kind": NOW, "count": 70, "swapped": 30, "alloced": 100},
        interval=swapping(pswpout=30),
        last=False,
    )
    second = chunk(
        {"kind": Kind.FREED, "count": 40}, {"kind": NOW, "alloced": alloced}, interval=swapping()
    )
    before, after = reports(first, second)
    assert before.audit["accuracy"] == "exact"
    assert after.audit["accuracy"] == ("bounded" if unseen else "exact")
    assert len(after.audit["notes"]) == bool(unseen)
    if unseen:
        assert after.audit["notes"][0].startswith(f"{unseen} pages")


def test_where_nothing_was_swapped_the_count_of_a_busy_segment_proves_nothing() -> None:
    """It goes on while it is looked at."""
    rows = ({"kind": Kind.CREATED, "count": 1}, {"count": 5}, {"kind": NOW, "alloced": 9})
    (report,) = reports(chunk(*rows, interval=swapping()))
    assert report.audit["accuracy"] == "exact"


def test_segments_have_a_name_by_their_titles() -> None:
    assert sort_of("SYSV00000000") is Sort.SYSV
    assert sort_of("SYSV0000000x") is Sort.KERNEL
    assert sort_of("memfd:SYSV00000000") is Sort.MEMFD
    assert sort_of("dev/zero") is sort_of("anon_hugepage") is Sort.ANONYMOUS
    assert sort_of("") is Sort.TMPFS
    assert segments.shown("SYSV00001234", 7) == "shmid 7 key 0x00001234"
    assert segments.shown("SYSV00000000", 7) == "shmid 7"
    assert segments.shown("dev/zero", 7) == "/dev/zero"


def test_what_the_program_writes_down_is_what_is_read() -> None:
    assert number(PROGRAM, "PLACES_OF_PAGES") == looks.PLACES
    assert number(PROGRAM, "PAGES_IN_PLACE") == looks.PAGES
    assert looks.WORDS == looks.PAGES * 4
    assert number(PROGRAM, "MOST_WISHES") == looks.WISHES
    assert members(PROGRAM, "wish") == dict.fromkeys(("inode", "segment", "at"), 8)
    assert looks.WISH_WORDS == 3
    assert number(PROGRAM, "TITLE") == segments.TITLE
    assert {"segment", "tgid", "kind"} == members(PROGRAM, "spill").keys()


@pytest.mark.parametrize("by", ["segment", "process", "kind", "cgroup", "thread", "comm"])
def test_rows_have_all_columns(by: str) -> None:
    (report,) = reports(chunk({"count": 1}), by=by)
    assert list(report.rows[0]) == [column.name for column in shm_columns((by,))]


class Kernel(Given):
    """Answers as the C program does, of one segment."""

    def __init__(self, title: bytes, born_s: int) -> None:
        names = ("segment_numbers", "answer")
        super().__init__(layouts={name: layout(PROGRAM, name) for name in names})
        numbers = (1234, 5, born_s)
        self._record = b"".join(each.to_bytes(8, "little") for each in numbers)
        self._record += (1).to_bytes(4, "little") + bytes(4) + title.ljust(segments.TITLE, b"\0")

    def look_up(self, name: str, key: bytes, value_bytes: int) -> bytes | None:
        assert (name, len(self._record)) == ("segments", value_bytes)
        return self._record if key == (77).to_bytes(8, "little") else None


@pytest.mark.parametrize(
    ("title", "sort", "path"),
    [
        (b"SYSV00000000\0left over", Sort.SYSV, "shmid 5"),
        (b"memfd:a\x1b", Sort.MEMFD, "memfd:a\\x1b"),
        (b"", Sort.TMPFS, None),
    ],
)
def test_events_get_the_names_of_their_segments(title: bytes, sort: Sort, path: str | None) -> None:
    events = np.zeros(2, [(name, ROW[name]) for name in EVENT])
    events["segment"], events["kind"], events["count"] = (77, 78), Kind.GREW, (3, 4)
    taken = ShmEnricher(Kernel(title, 0)).enrich(make_drained(events), last=False)
    assert taken.rows["count"].tolist() == [3, 4]
    assert taken.rows["sort"].tolist() == [sort, Sort.TMPFS]
    assert [name.path for name in taken.paths.values()] == ([path] if path else [])


EVENT = ("ns", "segment", "count", "tgid", "tid", "kind")


@pytest.mark.parametrize(("born_s", "kept"), [(1, []), (1 << 40, [Kind.CREATED])])
def test_a_system_v_segment_of_before_is_not_made_by_getting_it(
    born_s: int, kept: list[Kind]
) -> None:
    events = np.zeros(1, [(name, ROW[name]) for name in EVENT])
    events["segment"], events["kind"] = 77, Kind.CREATED
    taken = ShmEnricher(Kernel(b"SYSV00000000", born_s)).enrich(make_drained(events), last=True)
    assert taken.rows["kind"].tolist() == kept
