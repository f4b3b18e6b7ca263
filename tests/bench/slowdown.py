"""How much slower a program's reads get while it is traced."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.bench.harness import (
    MEMTAP,
    NotMeasuredError,
    Row,
    Storm,
    compiled,
    make_file,
    show,
    workshop,
)
from tests.live.tracing import kept

ROUNDS = 20
READS = 100_000
PAGES = 512
GOAL = 1 / 3
ONE_LINER = "tracepoint:filemap:mm_filemap_get_pages { @[pid] = count(); }"


def measure() -> list[Row]:
    """CPU time that tracing adds to a warm pread of 4 KiB, next to what bpftrace adds to it.

    One process reads all the time; a round times it untraced, under `memtap cachetop`, untraced
    again, under the one-liner that only counts by pid, and untraced again. A tracer adds what a
    read takes beyond the mean of the untraced phases before and after it; a phase is the median
    of 100 times 1000 reads, each less 1000 reads of shared memory in the same two milliseconds,
    which no tracer sees: so neither a change of the machine's speed nor a neighbour counts.

    The first row is of a file that stays in the page cache, as most do that are read a lot. The
    second is of one with fresh pages: memtap keeps each read of it as an event.
    """
    if shutil.which("bpftrace") is None:
        raise NotMeasuredError("apt install bpftrace")
    with workshop() as folder:
        file = make_file(folder / "file", PAGES)
        with Storm(compiled(folder, "preads"), file, max(os.sched_getaffinity(0))) as storm:
            with kept(file):
                untraced = f"{show(median(storm.ask('read', READS)))} ns"
                settled = [one_round(storm, folder, fresh=False) for _ in range(ROUNDS)]
            fresh = [one_round(storm, folder, fresh=True) for _ in range(ROUNDS)]
    return [
        row(f"added to a warm pread of {untraced}", settled, GOAL),
        row("the same, other pages of the file fresh", fresh),
    ]


def row(what: str, rounds: list[tuple[float, float]], goal: float | None = None) -> Row:
    """Rounds of (added by memtap, added by bpftrace), in ns."""
    ours, theirs = (show(median(side)) for side in zip(*rounds, strict=True))
    ratios = [our / their for our, their in rounds]
    return Row(what, "bpftrace one-liner", ratios, goal, "", f"{ours} ns, {theirs} ns")


def one_round(storm: Storm, folder: Path, fresh: bool) -> tuple[float, float]:
    """Nanoseconds that the two tracers add to a read."""
    before = time_of_read(storm, fresh)
    with memtap(folder / "report"):
        ours = time_of_read(storm, fresh)
    between = time_of_read(storm, fresh)
    with bpftrace(storm):
        theirs = time_of_read(storm, fresh)
    after = time_of_read(storm, fresh)
    return ours - (before + between) / 2, theirs - (between + after) / 2


def time_of_read(storm: Storm, fresh: bool) -> float:
    """CPU nanoseconds that a read takes beyond one of shared memory."""
    if fresh:
        storm.ask("fresh")
    return median(storm.ask("over", READS))


@contextmanager
def memtap(report: Path) -> Iterator[None]:
    """`memtap cachetop`, from its first report on."""
    report.unlink(missing_ok=True)
    process = subprocess.Popen([MEMTAP, "cachetop", "-o", report], stderr=subprocess.DEVNULL)
    try:
        while not (report.exists() and report.stat().st_size):
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


@contextmanager
def bpftrace(storm: Storm) -> Iterator[None]:
    """The one-liner, from when it has counted the storm on."""
    process = subprocess.Popen(
        ["bpftrace", "-e", ONE_LINER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.stdout.readline()  # Attaching 1 probe...
    time.sleep(1)
    try:
        yield
    finally:
        said = interrupted(process)
    counted = re.search(rf"@\[{storm.pid}\]: (\d+)", said)
    if counted is None or int(counted[1]) < READS:
        raise RuntimeError(f"bpftrace did not count {READS} reads: {said[-200:]}")


def interrupted(process: subprocess.Popen[str]) -> str:
    """What bpftrace says at its end; it can miss a signal that comes just before it waits."""
    while True:
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=2)[0]
        except subprocess.TimeoutExpired:
            continue
