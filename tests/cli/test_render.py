"""Tables: headings, alignment, how wide they are, and when the audit is printed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memtap.cli.arrange import Order
from memtap.cli.render import Blocks, Look, Rolling, cell, local_time
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Column, Kind, Section
from tests.cli.making import CAT, PATHS, PROCESSES, SECOND, stat_report, top_report
from tests.tracers.builders import add, dirty, make_chunk, make_interval, make_origin, named, read

MIXED = make_chunk(
    *(add(0, 4), read(0, 1234), read(0, 1, file=2, tgid=2000), dirty(8, 3, file=2, tgid=2000)),
    processes=PROCESSES,
    paths=PATHS,
)

BY_PROCESS = """\
 PID USER   CMD HITS MISSES DIRTIES READ_HIT% WRITE_HIT%
 100 root   cat 1230      4       0     99.7%          -
2000 daemon dd     1      0       3    100.0%     100.0%
"""
BY_FILE = """\
HITS MISSES DIRTIES READ_HIT% INSERTED EVICTED PATH
1230      4       0     99.7%        4       0 /usr/big
   1      0       3    100.0%        0       0 /tmp/x
"""
BY_CGROUP = """\
HITS MISSES DIRTIES READ_HIT% WRITE_HIT% CGROUP
1230      4       0     99.7%          - /
   1      0       3    100.0%     100.0% /a
"""
BY_USER = """\
UID USER   HITS MISSES DIRTIES READ_HIT% WRITE_HIT%
  0 root   1230      4       0     99.7%          -
  1 daemon    1      0       3    100.0%     100.0%
"""
STAT = """\
    HITS   MISSES  DIRTIES HITRATIO BUFFERS_MB CACHED_MB
    1231        4        3    99.7%          5       600
       0        0        0        -          0         1
"""


@pytest.mark.parametrize(
    ("by", "table"),
    [("process", BY_PROCESS), ("file", BY_FILE), ("cgroup", BY_CGROUP), ("user", BY_USER)],
)
def test_cachetop_is_a_table_with_aligned_columns(by: str, table: str) -> None:
    assert Blocks(Look()).render(top_report(MIXED, (by,))) == table


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("count", 1234567, "1234567"),
        ("pct", 33.333, "33.3%"),
        ("mib", 5 << 20, "5"),
        ("mib", (5 << 20) - 1, "4"),
        ("kib", 5 << 10, "5"),
        ("kib", (5 << 10) - 1, "4"),
        ("kib", -(5 << 10), "-5"),
        ("human", 1536, "1.5K"),
        ("ms", 1_250_000, "1.2"),
        ("us", 1_250, "1.2"),
        ("hex", 0xFFF0, "fff0"),
        ("user", "systemd-network", "systemd+"),
        ("text", None, "-"),
    ],
)
def test_a_value_is_shown_in_the_unit_of_its_column(kind: Kind, value: object, shown: str) -> None:
    assert cell(Column("name", "NAME", kind), {"name": value}) == shown


def test_no_more_of_what_was_told_before_is_no_table() -> None:
    none = replace(top_report(make_chunk()), goes_on=True)
    assert Blocks(Look()).render(none) == ""
    assert Blocks(Look()).render(replace(none, goes_on=False)) != ""


def test_cachestat_is_a_line_per_report_below_one_heading() -> None:
    quiet = make_chunk(interval=make_interval(buffers_bytes=1023 << 10, cached_bytes=1 << 20))
    rolling = Rolling(Look())
    assert rolling.render(stat_report(MIXED)) + rolling.render(stat_report(quiet)) == STAT


def test_between_two_tables_is_an_empty_line() -> None:
    blocks, report = Blocks(Look()), top_report(MIXED)
    assert [blocks.render(report) for _ in range(3)] == [BY_PROCESS, *[f"\n{BY_PROCESS}"] * 2]


@pytest.mark.parametrize(("width", "headings"), [(80, [0, 20, 40]), (None, [0])])
def test_headings_come_again_after_20_lines_on_a_terminal(
    width: int | None, headings: list[int]
) -> None:
    rolling, report = Rolling(Look(width=width)), stat_report(MIXED)
    texts = [rolling.render(report) for _ in range(50)]
    assert [number for number, text in enumerate(texts) if "HITS" in text] == headings


def test_wide_tables_have_the_columns_that_others_leave_out() -> None:
    rolling = Rolling(Look(wide=True)).render(stat_report(MIXED, wide=True))
    assert rolling.split()[6:10] == ["READAHEAD", "UNUSED", "EVICTED", "WRITTEN"]
    head, first, _ = Blocks(Look(wide=True)).render(top_report(MIXED)).splitlines()
    assert head.split()[:3] == ["PID", "UID", "USER"]
    assert head.split()[-2:] == ["CGROUP", "ARGS"]
    assert first.split()[-2:] == ["/", "?"]
    by_file = Blocks(Look(wide=True)).render(top_report(MIXED, ("file",)))
    assert by_file.split()[:7] == [
        "DEV",
        "INO",
        "HITS",
        "MISSES",
        "DIRTIES",
        "READ_HIT%",
        "WRITE_HIT%",
    ]


def test_what_the_kernel_does_not_count_for_one_process_is_a_dash() -> None:
    report = stat_report(MIXED, wide=True, origin=make_origin(filtered=True))
    headings, cells = Rolling(Look(wide=True)).render(report).splitlines()
    assert cells.split()[headings.split().index("WRITTEN")] == "-"


@pytest.mark.parametrize("pages", [7, 1_234_567])
def test_default_tables_are_narrower_than_80_columns(pages: int) -> None:
    processes = {4_194_303: Process("kworker/u16:3-e", 112, "postgres", "/")}
    tgid = {"tgid": 4_194_303}
    events = [add(0, pages, **tgid), read(0, pages, **tgid), read(0, pages, **tgid)]
    interval = make_interval(buffers_bytes=1 << 40, cached_bytes=1 << 44)
    chunk = make_chunk(*events, dirty(0, pages, **tgid), processes=processes, interval=interval)
    tables = [Blocks(Look()).render(top_report(chunk, (by,))) for by in ("process", "user")]
    tables += [Rolling(Look(timestamp=True)).render(stat_report(chunk))]
    assert all(str(pages) in table for table in tables)
    assert max(len(line) for table in tables for line in table.splitlines()) < 80


@pytest.mark.parametrize("by", ["file", "cgroup"])
@pytest.mark.parametrize("width", [60, 80, 132])
def test_a_long_path_is_cut_at_its_start_to_fit(by: str, width: int) -> None:
    path = "/start/" + "x" * 4000 + "/end"
    chunk = make_chunk(read(), processes={100: replace(CAT, cgroup=path)}, paths=named(path))
    _, row = Blocks(Look(width=width)).render(top_report(chunk, (by,))).splitlines()
    assert len(row) == width
    shown = row.split()[-1]
    assert shown[0] == "…"
    assert path.endswith(shown[1:])
    _, row = Blocks(Look()).render(top_report(chunk, (by,))).splitlines()
    assert row.split()[-1] == path


@pytest.mark.parametrize("width", [60, 80, 132])
def test_long_arguments_are_cut_at_their_end_to_fit(width: int) -> None:
    args = "start " + "x" * 4000 + " end"
    chunk = make_chunk(read(), processes={100: replace(CAT, args=args)}, paths=named("/p"))
    report = top_report(chunk)
    *_, row = Blocks(Look(width=width, wide=True)).render(report).splitlines()
    shown = row[row.index("start") :]
    assert (len(row), shown[-1]) == (width, "…")
    assert args.startswith(shown[:-1])


def test_a_path_that_just_fits_is_whole() -> None:
    report = top_report(MIXED, ("file",))
    needed = max(map(len, BY_FILE.splitlines()))
    assert Blocks(Look(width=needed)).render(report) == BY_FILE
    assert "…" in Blocks(Look(width=needed - 1)).render(report)


def test_a_file_whose_path_nobody_knows_is_told_by_device_and_inode() -> None:
    chunk = make_chunk(read(), paths=named("?", ino=77))
    text = Blocks(Look()).render(top_report(chunk, ("file",)))
    assert text.endswith(" ? dev 8:1 ino 77\n")


def test_times_are_local() -> None:
    assert local_time("2026-01-31T12:00:01.000Z") == "17:30:01"
    assert Blocks(Look(timestamp=True)).render(top_report(MIXED)) == f"17:30:01\n{BY_PROCESS}"
    heading, line = Rolling(Look(timestamp=True)).render(stat_report(SECOND)).splitlines()
    assert (heading.split()[:2], line.split()[:2]) == (["TIME", "HITS"], ["17:30:02", "5"])
    assert heading.index("HITS") + len("HITS") == line.index(" 5 ") + len(" 5")


DEEP = "/kubepods.slice/kubepods-burstable.slice/cri-containerd-0123456789abcdef.scope"


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("by", ["process", "file", "cgroup", "user", "process,file"])
def test_wide_tables_fit_and_all_their_columns_can_be_seen(by: str, width: int) -> None:
    """Where there is room CGROUP is whole; where there is none, its end is shown, as of a PATH."""
    processes = {100: Process("kworker/u16:3-events_unbound", 0, "root", DEEP)}
    chunk = make_chunk(read(), processes=processes, paths=named("/deep" * 30 + "/end"))
    report = top_report(chunk, tuple(by.split(",")))
    lines = Blocks(Look(width=width, wide=True)).render(report).splitlines()
    assert max(map(len, lines)) <= width
    headings = [column.heading for column in report.columns]
    text = " ".join(lines)
    assert [heading for heading in headings if f" {heading} " not in f" {text} "] == []
    assert "CGROUP" not in headings or ".scope" in text or "ope" in text
    assert "PATH" not in headings or "/end" in text
    whole = Blocks(Look(wide=True)).render(report)
    assert "CGROUP" not in headings or DEEP in whole
    assert len(whole.splitlines()) == 2


def test_a_long_name_gives_way_after_paths_and_a_usual_one_never() -> None:
    processes = {
        100: Process("kworker/u16:3-events_unbound", 0, "root", "/"),
        200: Process("a" * 15, 0, "root", "/"),
    }
    report = top_report(make_chunk(read(), read(tgid=200), processes=processes))
    lines = Blocks(Look(width=65)).render(report).splitlines()
    assert "kworker/u16:3-+" in lines[1] + lines[2]
    assert "a" * 15 in lines[1] + lines[2]
    assert "kworker/u16:3-events_unbound" in Blocks(Look(width=80)).render(report)


def test_rows_are_counted_for_stacks_too() -> None:
    stacks = [{"frames": ("main", f"f{number}"), "count": 100 - number} for number in range(50)]
    section = Section("stacks", "stacks", stacks, most=5)
    report = replace(top_report(MIXED), sections=(section,))
    for rows, shown in ((None, 5), (1, 1), (3, 3), (20, 20), (90, 50)):
        text = Blocks(Look(rows=rows)).render(Order("hits_pages", rows=rows).arrange(report))
        assert text.count(" < main") == shown
    assert Order("hits_pages", rows=3).arrange(report).section("stacks") == stacks[:3]


def test_a_note_is_told_once_however_often_it_is_true() -> None:
    noted = make_chunk(read(), interval=make_interval(notes=("a", "b")))
    for renderer in (Blocks(Look(verbose=True)), Rolling(Look(verbose=True))):
        texts = [renderer.render(stat_report(noted)) for _ in range(3)]
        assert [text.count("note: ") for text in texts] == [2, 0, 0]
        more = make_chunk(read(), interval=make_interval(notes=("a", "c")))
        assert [
            line for line in renderer.render(stat_report(more)).splitlines() if "note:" in line
        ] == ["  note: c"]


def test_remarks_stand_below_the_rows() -> None:
    report = replace(top_report(MIXED), remarks=("first", "second"))
    assert Blocks(Look()).render(report) == BY_PROCESS + "first\nsecond\n"
    assert report.to_dict()["remarks"] == ["first", "second"]
    assert "remarks" not in top_report(MIXED).to_dict()


def test_a_number_is_never_cut() -> None:
    report = stat_report(MIXED)
    report.rows[0]["hits_pages"] = 123_456_789_012
    assert "123456789012" in Rolling(Look()).render(report).split()
    report = top_report(MIXED)
    report.rows[0]["hits_pages"] = 123_456_789_012
    for width in (20, 40, 60, 80):
        assert "123456789012" in Blocks(Look(width=width, wide=True)).render(report).split()
