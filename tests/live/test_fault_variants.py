"""Page faults by the other variants: without tracepoints as on arm64, with stacks that collide."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from memtap.bpf.cache import Cache
from memtap.bpf.kernel import Kernel
from memtap.bpf.loading import Attempts, Request
from memtap.bpf.plan import Plan, Variant
from memtap.tracers.code.mappings import Region
from memtap.tracers.faults.enrich import FaultEnricher
from memtap.tracers.faults.probes import COUNTS, PLAN, Kind
from memtap.tracers.faults.rows import Cause
from memtap.tracers.live.live import Live
from memtap.tracers.live.processes import Processes
from memtap.tracers.model.enricher import Texts

Build = Callable[[str], Path]

PAGES = 1000
VARIANTS = list(PLAN.possible(Kernel()))[1:]


@dataclass
class Ran:
    """A program that ran while faults were traced: what it printed, and the rows of its faults."""

    printed: str
    rows: pl.DataFrame


def traced(commands: list[list[str]], plan: Plan, *settings: str) -> tuple[list[Ran], Texts]:
    """Programs that ran one after the other, and the texts that the rows name."""
    kernel = Kernel()
    processes = Processes(kernel.btf, kernel.possible_cpus)
    loaded = Attempts(Request(plan, settings=settings), kernel, Cache()).wait()
    live = Live(loaded, kernel, processes, partial(FaultEnricher, names_code=bool(settings)))
    printed = {}
    try:
        for command in commands:
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
                printed[program.pid] = program.communicate()[0]
        chunk = live.collect(ends=True, last=True)
    finally:
        live.close()
        processes.close()
    assert chunk.interval and chunk.interval.losses.lost == 0
    rows = pl.DataFrame(chunk.rows)
    ran = [Ran(text, rows.filter(pl.col("tgid") == pid)) for pid, text in printed.items()]
    return ran, chunk.texts


CASES = {
    "anon": (Region.ANON, Cause.FIRST_TOUCH),
    "brk": (Region.HEAP, Cause.FIRST_TOUCH),
    "zero": (Region.ANON, Cause.ZERO_PAGE),
    "memfd": (Region.SHM, Cause.SHM),
}


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda variant: variant.name)
def variant(request: pytest.FixtureRequest) -> Variant:
    found: Variant = request.param
    return found


@pytest.fixture(scope="module")
def ran(variant: Variant, workload: Build) -> dict[str, Ran]:
    """All cases, traced by that variant."""
    commands = [[str(workload("faulter")), case, str(PAGES)] for case in CASES]
    found, _ = traced(commands, replace(PLAN, variants=(variant,)))
    return dict(zip(CASES, found, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_completed_faults_are_counted_and_timed_where_they_are_raised(
    case: str, variant: Variant, ran: dict[str, Ran]
) -> None:
    minor, major, start, end = ran[case].printed.split()
    inside = pl.col("address").is_between(int(start, 16), int(end, 16), closed="left")
    found = ran[case].rows.filter(inside)
    assert found["count"].sum() == int(minor) + int(major) == PAGES
    region, cause = CASES[case]
    if variant.name == COUNTS and case == "zero":
        cause = Cause.FIRST_TOUCH  # a read cannot be told from a write
    of_sort = found.filter(pl.col("cause") == cause, pl.col("region") == region)
    assert of_sort["count"].sum() == PAGES
    assert of_sort.filter(pl.col("kind") == Kind.MAJOR)["count"].sum() == int(major)
    assert (found["time_ns"] > 0).any() == (variant.name != COUNTS)


@pytest.mark.parametrize("variants", [PLAN.variants, PLAN.variants[-1:]], ids=["best", "counts"])
def test_stacks_of_which_the_hashes_meet_are_kept_all_the_same(
    variants: tuple[Variant, ...], workload: Build
) -> None:
    """Where a stack meets another in the second map, too, it is not kept: so not three times."""
    command = [str(workload("faulter")), "threads", str(PAGES)]
    programs, texts = traced([command] * 3, replace(PLAN, variants=variants), "STACKS 1")
    known = {
        number for number, text in texts["stack"].items() if text.split(";")[-1] == "touch_all"
    }
    of_stack = [each.rows.filter(pl.col("stack").is_in(known))["count"].sum() for each in programs]
    assert max(of_stack) == PAGES
