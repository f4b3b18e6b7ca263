"""What several tracers in one run cost, beside each of them in a run of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench.faults import Toucher, cpu_s, running
from tests.bench.harness import MEMTAP, Row, Storm, compiled, make_file, show, workshop

ROUNDS = 6
TRACERS = ("faults", "malloc", "cachetop", "reclaim")
BLOCKS, TIMES = 200, 400  # that are taken, touched and given back; how often all of them
PAGES, READS = 512, 200_000
# All are measured for as long after the work, so that an interval ends that holds the last of it.
AFTER_S = 1.5
GOAL = 1.1


@dataclass(frozen=True)
class Cost:
    """What tracing took for the same work.

    Attributes:
        own_s: CPU seconds of memtap.
        added: how much longer a block takes than untraced just before and after, in terms of a
            loop that only computes.
    """

    own_s: float
    added: float


class Work:
    """A program that takes and gives back large blocks, and one that reads cached pages."""

    def __init__(self, folder: Path, toucher: Toucher, storm: Storm) -> None:
        self._report, self._toucher, self._storm = folder / "report", toucher, storm

    def block(self) -> float:
        """What a block takes."""
        return self._toucher.touch("large", TIMES).ratio

    def traced(self, *command: str) -> Cost:
        """What all that work costs under one memtap."""
        before = self.block()
        with running([MEMTAP, *command, "-o", str(self._report)], self._report) as process:
            began_s = cpu_s(process.pid)
            block = self.block()
            self._storm.ask("read", READS)
            time.sleep(AFTER_S)
            own_s = cpu_s(process.pid) - began_s
        return Cost(own_s, block - (before + self.block()) / 2)


def measure() -> list[Row]:
    """CPU time of memtap, and what it adds to a block, of all in one run and of each alone.

    A round runs each tracer alone and then all together, over the same work. The goal of both is
    what the parts cost when they are added up; one process, one set of processes and one clock
    should make the CPU time less.
    """
    with workshop() as folder, ExitStack() as stack:
        toucher = Toucher(compiled(folder, "mallocs"), BLOCKS, "large", TIMES)
        stack.callback(toucher.end)
        file = make_file(folder / "file", PAGES)
        storm = stack.enter_context(Storm(compiled(folder, "preads"), file))
        work = Work(folder, toucher, storm)
        rounds = [one_round(work) for _ in range(ROUNDS)]
    own = [(together.own_s, sum(cost.own_s for cost in alone)) for alone, together in rounds]
    added = [(together.added, sum(cost.added for cost in alone)) for alone, together in rounds]
    what = f"`memtap run -t {','.join(TRACERS)}`"
    return [
        row(f"CPU of {what}", own, " s"),
        row(f"added to malloc(300000), a touch and free by {what}", added, ""),
    ]


def one_round(work: Work) -> tuple[Sequence[Cost], Cost]:
    """Costs of each tracer alone, and of all together."""
    alone = [work.traced(name) for name in TRACERS]
    return alone, work.traced("run", "-t", ",".join(TRACERS), "1")


def row(what: str, taken: list[tuple[float, float]], unit: str) -> Row:
    """Pairs of (together, added up)."""
    together, added = (f"{show(median(side))}{unit}" for side in zip(*taken, strict=True))
    ratios = [one / other for one, other in taken]
    return Row(what, "each alone, added up", ratios, GOAL, note=f"{together}, {added}")
