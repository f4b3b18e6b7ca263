"""Page faults on a kernel that has no tracepoint where they are raised, as on arm64."""

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
from memtap.tracers.faultedge import FaultEdge
from memtap.tracers.faultplan import PLAN, Kind
from memtap.tracers.faultrows import Cause
from memtap.tracers.live import Live
from memtap.tracers.mappings import Region
from memtap.tracers.processes import Processes

Build = Callable[[str], Path]

PAGES = 1000
COUNTS = replace(PLAN, ways=PLAN.ways[1:])


def traced(command: list[str]) -> tuple[str, pl.DataFrame]:
    """What a program printed, and the rows of its faults, counted by the second way."""
    kernel = Kernel()
    processes = Processes(kernel.btf, kernel.possible_cpus)
    loaded = Attempts(Request(COUNTS), kernel, cache=None).wait()
    live = Live(loaded, kernel, processes, partial(FaultEdge, names_code=False))
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
            printed, _ = program.communicate()
        chunk = live.collect(ends=True, last=True)
    finally:
        live.close()
        processes.close()
    assert chunk.interval and chunk.interval.losses.lost == 0
    return printed, pl.DataFrame(chunk.rows).filter(pl.col("tgid") == program.pid)


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
    printed, rows = traced([str(workload("faulter")), case, str(PAGES)])
    minor, major, start, end = printed.split()
    inside = pl.col("address").is_between(int(start, 16), int(end, 16), closed="left")
    found = rows.filter(inside)
    assert found["count"].sum() == int(minor) + int(major) == PAGES
    kind, same = pl.col("kind") == Kind.MINOR, pl.col("cause") == cause
    assert len(found.filter(kind, same, pl.col("region") == region)) == PAGES
    assert (found["time_ns"] == 0).all()
