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
from statistics import median, quantiles

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

ROUNDS = 10
READS = 300_000
PAGES = 8192
GOAL = 1 / 3
ONE_LINER = "tracepoint:filemap:mm_filemap_get_pages { @[pid] = count(); }"


def measure() -> list[Row]:
    """CPU time that tracing adds to a warm pread of 4 KiB, next to what bpftrace adds to it.

    One process reads all the time; a round times it untraced, under `memtap cachetop`, untraced
    and under the one-liner that only counts by pid. Each time is the lower decile of 300 times
    1000 reads: what else runs on the machine can only add to it.

    The second row is of a file with fresh pages, of which memtap keeps each read as an event;
    most files have none.
    """
    if shutil.which("bpftrace") is None:
        raise NotMeasuredError("apt install bpftrace")
    with workshop() as folder:
        file = make_file(folder / "file", PAGES)
        with Storm(compiled(folder, "preads"), file, max(os.sched_getaffinity(0))) as storm:
            settled = [one_round(storm, folder, fresh=False) for _ in range(ROUNDS)]
            fresh = [one_round(storm, folder, fresh=True) for _ in range(ROUNDS)]
    return [
        row("slowdown of a warm pread", settled, GOAL),
        row("the same, other pages of the file fresh", fresh),
    ]


def row(what: str, rounds: list[tuple[float, float, float]], goal: float | None = None) -> Row:
    """Rounds of (untraced, added by memtap, added by bpftrace), in ns."""
    untraced, ours, theirs = (show(median(side)) for side in zip(*rounds, strict=True))
    note = f"{untraced} ns and {ours}, {theirs}"
    return Row(
        what, "bpftrace one-liner", [our / their for _, our, their in rounds], goal, "", note
    )


def one_round(storm: Storm, folder: Path, fresh: bool) -> tuple[float, float, float]:
    """Nanoseconds of a read, and what the two tracers add to it."""
    before = time_of_read(storm, fresh)
    with memtap(folder / "report"):
        ours = time_of_read(storm, fresh)
    between = time_of_read(storm, fresh)
    with bpftrace(storm):
        theirs = time_of_read(storm, fresh)
    return before, ours - before, theirs - between


def time_of_read(storm: Storm, fresh: bool) -> float:
    """CPU nanoseconds per read."""
    if fresh:
        storm.ask("fresh")
    return quantiles(storm.ask("read", READS), n=10)[0]


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
