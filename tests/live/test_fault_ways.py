"""Page faults by the less usual ways: without tracepoints as on arm64, with stacks that collide."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from memtap.bpf.kernel import Kernel
from memtap.bpf.loading import Attempts, Request
from memtap.bpf.plan import Plan
from memtap.tracers.edge import Texts
from memtap.tracers.faultedge import FaultEdge
from memtap.tracers.faultplan import PLAN, Kind
from memtap.tracers.faultrows import Cause
from memtap.tracers.live import Live
from memtap.tracers.mappings import Region
from memtap.tracers.processes import Processes

Build = Callable[[str], Path]

PAGES = 1000
COUNTS = replace(PLAN, ways=PLAN.ways[1:])


def traced(command: list[str], plan: Plan, *settings: str) -> tuple[str, pl.DataFrame, Texts]:
    """What a program printed, the rows of its faults, and the texts that these name."""
    kernel = Kernel()
    processes = Processes(kernel.btf, kernel.possible_cpus)
    loaded = Attempts(Request(plan, settings=settings), kernel, cache=None).wait()
    live = Live(loaded, kernel, processes, partial(FaultEdge, names_code=bool(settings)))
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
            printed, _ = program.communicate()
        chunk = live.collect(ends=True, last=True)
    finally:
        live.close()
        processes.close()
    assert chunk.interval and chunk.interval.losses.lost == 0
    rows = pl.DataFrame(chunk.rows).filter(pl.col("tgid") == program.pid)
    return printed, rows, chunk.texts


@pytest.mark.parametrize(
    ("case", "region", "cause"),
    [
        ("anon", Region.ANON, Cause.FIRST_TOUCH),
        ("brk", Region.HEAP, Cause.FIRST_TOUCH),
        ("zero", Region.ANON, Cause.FIRST_TOUCH),  # a read cannot be told from a write
        ("memfd", Region.SHM, Cause.SHM),
    ],
)
def test_completed_faults_are_counted(
    case: str, region: Region, cause: Cause, workload: Build
) -> None:
    printed, rows, _ = traced([str(workload("faulter")), case, str(PAGES)], COUNTS)
    minor, major, start, end = printed.split()
    inside = pl.col("address").is_between(int(start, 16), int(end, 16), closed="left")
    found = rows.filter(inside)
    assert found["count"].sum() == int(minor) + int(major) == PAGES
    kind, same = pl.col("kind") == Kind.MINOR, pl.col("cause") == cause
    assert len(found.filter(kind, same, pl.col("region") == region)) == PAGES
    assert (found["time_ns"] == 0).all()


def test_stacks_of_which_the_hashes_meet_are_kept_all_the_same(workload: Build) -> None:
    command = [str(workload("faulter")), "threads", str(PAGES)]
    _, rows, texts = traced(command, PLAN, "STACKS 1")
    known = {
        number for number, text in texts["stack"].items() if text.split(";")[-1] == "touch_all"
    }
    assert rows.filter(pl.col("stack").is_in(known))["count"].sum() == PAGES
