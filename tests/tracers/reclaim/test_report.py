"""The report of reclaim, out of rows made by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtap.bpf.stream import Events
from memtap.tracers.model.chunk import Chunk
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Report, Row
from memtap.tracers.reclaim.counters import counters
from memtap.tracers.reclaim.pairs import Spans
from memtap.tracers.reclaim.probes import Edge, Kind
from memtap.tracers.reclaim.report import Reclaim
from memtap.tracers.reclaim.rows import ROW
from tests.bpf.ctext import members, source
from tests.tracers.builders import make_chunk, make_interval, make_origin

PROGRAM = source("programs/reclaim.bpf.c")
MS = 1_000_000
PROCESSES = {100: Process("a", 1, "daemon", "/x"), 200: Process("b", 0, "root", "/x")}

Event = dict[str, int]


def begin(kind: Kind, ns: int, **members: int) -> Event:
    return {"kind": kind, "ns": ns, "edge": Edge.BEGINS, "tgid": 100, "tid": 100} | members


def end(kind: Kind, ns: int, **members: int) -> Event:
    return begin(kind, ns, edge=Edge.ENDS, **members)


def told(kind: Kind, amount: int, **members: int) -> Event:
    return {"kind": kind, "amount": amount, "tgid": 100, "tid": 100} | members


def rows_of(*several: Event) -> Events:
    rows = np.zeros(len(several), ROW)
    for row, event in zip(rows, several, strict=True):
        for name, value in event.items():
            row[name] = value
    return rows


def chunk(*several: Event, **other: Any) -> Chunk:
    return replace(make_chunk(**({"processes": PROCESSES} | other)), rows=rows_of(*several))


def report(*several: Event, by: str = "process", **other: Any) -> Report:
    found = Reclaim(make_origin(tracer="reclaim"), tuple(by.split(","))).feed(
        chunk(*several, **other)
    )
    assert found is not None
    return found


def only(*several: Event, by: str = "process") -> Row:
    (row,) = report(*several, by=by).rows
    return row


def test_rows_have_the_members_of_the_programs_events() -> None:
    event = members(PROGRAM, "event")
    event["ns"] = 2 * event.pop("dt_ns")
    assert {name: ROW[name].itemsize for name in ROW.names or ()} == event


def test_stalls_are_counted_and_timed_whatever_ran_out() -> None:
    row = only(
        begin(Kind.DIRECT, 1 * MS),
        end(Kind.DIRECT, 3 * MS),
        begin(Kind.MEMCG, 4 * MS),
        end(Kind.MEMCG, 5 * MS),
        begin(Kind.NODE, 6 * MS),
        end(Kind.NODE, 7 * MS),
    )
    assert (row["direct_reclaims"], row["memcg_reclaims"]) == (3, 1)
    assert (row["stall_ns"], row["max_ns"]) == (4 * MS, 2 * MS)
    assert row["p99_ns"] == pytest.approx(2 * MS, rel=0.02)
    assert row["compactions"] == row["kswapd_wakes"] == 0


def test_what_is_in_another_is_its_own_and_no_stall() -> None:
    row = only(
        begin(Kind.DIRECT, 0),
        begin(Kind.COMPACTION, 1 * MS),
        end(Kind.COMPACTION, 2 * MS),
        end(Kind.DIRECT, 10 * MS),
    )
    assert (row["direct_reclaims"], row["stall_ns"]) == (1, 10 * MS)
    assert (row["compactions"], row["compaction_ns"]) == (1, MS)


def test_pages_are_added_up() -> None:
    row = only(
        told(Kind.SHRINK, 32, reclaimed=30),
        told(Kind.SHRINK, 64, reclaimed=2),
        told(Kind.SWAP_OUT, 5),
        told(Kind.SWAP_IN, 7),
        told(Kind.SLAB, 9),
        told(Kind.THROTTLED, 100),
    )
    assert (row["scanned_pages"], row["reclaimed_pages"]) == (96, 32)
    assert row["efficiency_pct"] == 100 * 32 / 96
    assert (row["swapout_pages"], row["swapin_pages"], row["slab_objects"]) == (5, 7, 9)
    assert (row["throttled"], row["throttled_ns"]) == (1, 100_000)
    assert row["direct_reclaims"] == 0 and row["p99_ns"] is None


def test_kswapd_is_a_process_that_is_awake_and_stalls_nobody() -> None:
    row = only(begin(Kind.KSWAPD, MS, node=1), end(Kind.KSWAPD, 9 * MS, node=1), by="node")
    assert (row["node"], row["kswapd_wakes"], row["kswapd_ns"]) == (1, 1, 8 * MS)
    assert row["stall_ns"] == row["direct_reclaims"] == 0


def test_rows_are_told_apart_by_the_keys_and_threads_are_not() -> None:
    several = [
        begin(Kind.DIRECT, 0),
        begin(Kind.DIRECT, 1, tid=101),
        begin(Kind.DIRECT, 2, tgid=200, tid=200, node=1),
        end(Kind.DIRECT, 5),
        end(Kind.DIRECT, 6, tid=101),
        end(Kind.DIRECT, 7, tgid=200, tid=200, node=1),
    ]
    stalls = {row["comm"]: row["stall_ns"] for row in report(*several).rows}
    assert stalls == {"a": 10, "b": 5}
    assert only(*several, by="cgroup") | {"p99_ns": 0} == only(*several, by="cgroup") | {
        "p99_ns": 0,
        "cgroup": "/x",
        "stall_ns": 15,
        "direct_reclaims": 3,
    }
    assert {row["node"]: row["stall_ns"] for row in report(*several, by="node").rows} == {
        0: 10,
        1: 5,
    }
    assert len(report(*several, by="process,node").rows) == 2


def test_a_stall_counts_in_the_interval_in_which_it_ends() -> None:
    reclaim = Reclaim(make_origin())
    first = reclaim.feed(chunk(begin(Kind.MEMCG, 5), until_ns=10, last=False))
    second = reclaim.feed(chunk(end(Kind.MEMCG, 25), until_ns=30, last=False))
    assert first is not None and first.rows == []
    assert second is not None and second.rows[0]["stall_ns"] == 20


def test_an_end_that_came_in_before_its_begin_finds_it() -> None:
    """A thread went on to a CPU that was asked before the one that it came from."""
    reclaim = Reclaim(make_origin())
    first = reclaim.feed(chunk(end(Kind.DIRECT, 15), until_ns=10, last=False))
    second = reclaim.feed(chunk(begin(Kind.DIRECT, 12), until_ns=20))
    assert first is not None and first.rows == []
    assert second is not None and second.rows[0]["stall_ns"] == 3
    assert second.audit["notes"] == []


def test_what_had_begun_before_is_left_out_and_said() -> None:
    found = report(end(Kind.DIRECT, 5), begin(Kind.DIRECT, 6), end(Kind.DIRECT, 8))
    assert found.rows[0]["stall_ns"] == 2
    assert found.audit["notes"] == ["1 ended that had begun before: their time is left out"]


@pytest.mark.parametrize(
    ("filtered", "accuracy", "noted"), [(False, "bounded", 1), (True, "exact", 0)]
)
def test_swap_that_was_not_seen_bounds_the_report(
    filtered: bool, accuracy: str, noted: int
) -> None:
    interval = make_interval(kernel={"pswpin": 7, "pswpout": 9})
    found = Reclaim(make_origin(filtered=filtered)).feed(
        chunk(told(Kind.SWAP_IN, 7), told(Kind.SWAP_OUT, 5), interval=interval)
    )
    assert found is not None
    assert (found.audit["accuracy"], len(found.audit["notes"])) == (accuracy, noted)
    assert found.audit["events"] == 2


@given(
    st.lists(st.tuples(st.integers(1, 2), st.sampled_from(list(Edge))), max_size=30),
    st.sets(st.integers(0, 30)),
)
def test_pairs_are_those_of_a_slow_loop_however_they_are_cut(
    steps: list[tuple[int, Edge]], cuts: set[int]
) -> None:
    rows = rows_of(*(begin(Kind.DIRECT, n, tid=tid, edge=e) for n, (tid, e) in enumerate(steps)))
    expected, opened = [], dict[int, int]()
    for ns, (tid, which) in enumerate(steps):
        if which is Edge.BEGINS:
            opened[tid] = ns
        elif tid in opened:
            expected.append((tid, opened.pop(tid), ns))
    spans, found = Spans(ROW), []
    bounds = [0, *sorted(cuts), len(steps) + 31]
    for start, stop in pairwise(bounds):
        ends, begins = spans.feed(rows[start:stop], stop, last=False)
        found += [
            (int(e["tid"]), int(b["ns"]), int(e["ns"])) for b, e in zip(begins, ends, strict=True)
        ]
    assert sorted(found) == sorted(expected)
    assert spans.orphans == sum(e is Edge.ENDS for _, e in steps) - len(expected)


def test_the_kernels_counters_are_read(tmp_path: Path) -> None:
    (tmp_path / "proc/pressure").mkdir(parents=True)
    (tmp_path / "proc/vmstat").write_text("pswpin 3\npswpout 4\nother 5\n")
    assert counters(tmp_path) == {"pswpin": 3, "pswpout": 4}
    (tmp_path / "proc/pressure/memory").write_text(
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=70\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=60\n"
    )
    found = counters(tmp_path)
    assert (found["pressure_some_us"], found["pressure_full_us"]) == (70, 60)
