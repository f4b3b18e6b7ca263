"""Whether anything is lost when the machine is busy and the reader comes late."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.harness import Row, Storm, apart, compiled, make_file, pinned, show, workshop

ROUNDS = 5
READS = 1_000_000
STALL_S = 0.5
PAGES = 8192


def measure() -> list[Row]:
    """A storm of events on each CPU; a process that spins on each, or none; a slow reader.

    The reader sleeps for half a second before each look. Each storm reads a million pages of a
    file that has fresh pages, so that each read is an event. `lost` is the sum of the audit's
    lost, missed and map_full; `miscounted` how far hits + misses are from the truth.
    """
    with workshop() as folder:
        program = compiled(folder, "preads")
        files = [make_file(folder / str(cpu), PAGES) for cpu in os.sched_getaffinity(0)]
        busy = [apart(stall, program, files, True) for _ in range(ROUNDS)]
        idle = [apart(stall, program, files, False) for _ in range(ROUNDS)]
    return [*rows("loss, a spinning process per CPU", busy), *rows("loss, none", idle)]


def rows(what: str, rounds: list[tuple[int, int, int]]) -> list[Row]:
    """Rows of (events, lost, counted) of each round."""
    cpus = len(os.sched_getaffinity(0))
    events, counted = (min(round[at] for round in rounds) for at in (0, 2))
    note = f"at least {show(events / 1e6)} million events, {counted} counted of {cpus * READS}"
    wrong = [abs(counted - cpus * READS) for _, _, counted in rounds]
    return [
        Row(f"{what}: lost", "", [lost for _, lost, _ in rounds], 0),
        Row(f"{what}: miscounted", "", wrong, 0, note=note),
    ]


def stall(program: str, files: list[Path], busy: bool) -> tuple[int, int, int]:
    """Events that came in, what was lost, and accesses counted."""
    from tests.bench.tracing import Tracer

    cpus = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        if busy:
            stack.enter_context(spinning(cpus))
        storms = [Storm(program, file, cpu) for file, cpu in zip(files, cpus, strict=True)]
        for storm in storms:
            stack.enter_context(storm)
        tracer = stack.enter_context(Tracer(*storms))
        for storm in storms:
            storm.ask("fresh")
            storm.begin("read", READS)
        while not all(storm.has_answered() for storm in storms):
            time.sleep(STALL_S)
            tracer.collect()
        tracer.collect()
        losses = tracer.losses
    return tracer.details, losses.lost + losses.missed + losses.map_full, tracer.accesses


@contextmanager
def spinning(cpus: list[int]) -> Iterator[None]:
    """A process on each CPU that never sleeps."""
    spin = ["sh", "-c", "while :; do :; done"]
    processes = [subprocess.Popen([*pinned(cpu), *spin]) for cpu in cpus]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
