"""How long `memtap ps` takes on a host with 500 processes, next to smem."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from tests.bench.harness import MEMTAP, NotMeasuredError, Row, Run, pairs, show, timed

ROUNDS = 15
PROCESSES = 500
GOAL = 0.5


def measure() -> list[Row]:
    """Time and CPU time of a table of all processes, of which there are 500 more than usual.

    Both begin with Python's own start, which is in the times; `ready` ends with the first line,
    and both have read everything by then.
    """
    smem = shutil.which("smem")
    if smem is None:
        raise NotMeasuredError("smem is not installed: apt install smem")
    with crowd(PROCESSES):
        taken = pairs(ROUNDS, lambda: timed([MEMTAP, "ps"]), lambda: timed([smem]))
    return [
        compared("ps, time", taken, lambda run: run.ready_s),
        compared("ps, CPU", taken, lambda run: run.cpu_s),
    ]


def compared(what: str, taken: list[tuple[Run, Run]], of: Callable[[Run], float]) -> Row:
    """The ratios of one number, with the medians of both sides."""
    ours, theirs = zip(*((of(our), of(their)) for our, their in taken), strict=True)
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    note = f"{show(median(ours))} s, {show(median(theirs))} s, {PROCESSES} processes"
    return Row(what, "smem", ratios, GOAL, note=note)


@contextmanager
def crowd(count: int) -> Iterator[None]:
    """So many processes that do nothing, each of which has run a program of its own."""
    sleeps = [subprocess.Popen(["sleep", "600"]) for _ in range(count)]
    try:
        yield
    finally:
        for sleep in sleeps:
            sleep.kill()
        for sleep in sleeps:
            sleep.wait()
