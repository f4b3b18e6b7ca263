"""Crowds of short-lived things, for as long as asked: what a report costs, and whether it grows.

    sudo ./bootstrap python -m tests.soak.run [SECONDS [CROWD...]]

For each crowd and each report a row: how many things there were, events of each, and how many were
lost; how much of a CPU memtap took for them and how much of that beyond the events, both also as
time for each thing; its memory after a third of the time and at the end, its longest interval of
those that should be a second; and how long it took to end, when it was told to while the crowd went
on, and worked for that on a CPU. A crowd can be narrowed down to one report: `processes:malloc`.

Beyond the events: CPU time is measured while there is nothing, while there is the crowd, and while
one process makes the same events as often. What that takes more than nothing is what events cost.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.harness import MEMTAP

WORKLOADS = Path(__file__).resolve().parent.parent / "workloads"
SECONDS = 30.0

# Things a second; 0 is as many as go.
CROWDS = {"processes": 0, "few-processes": 50, "files": 0, "objects": 0}
REPORTS: dict[str, tuple[str, ...]] = {
    "cachestat": (),
    "cachetop": ("-b", "process,file"),
    "faults": ("-b", "process,file"),
    "malloc": (),
    "slab": ("-b", "process"),
    "pages": (),
    "reclaim": (),
    "oom": (),
}
HEAD = (
    "| crowd | report | things | events of each | lost | CPU % | beyond % | us of each | beyond us "
    "| MiB, early | MiB, at the end | longest s | end s | end CPU s |\n" + "|---" * 14 + "|"
)
GOALS = "goals: CPU 10 % beyond the events, memory level, intervals of 1 s, an end within 1 s"

# When a crowd is over, all that it did is told by so many more reports.
_MORE = 2


@dataclass
class Cost:
    """What memtap took in a time, and what happened in it."""

    seconds: float
    cpu_s: float
    events: int
    things: int
    lost: int

    def beyond(self, idle: Cost) -> Cost:
        """The same, less what such a time takes when nothing happens."""
        share = self.seconds / idle.seconds
        cpu_s, events = self.cpu_s - idle.cpu_s * share, self.events - round(idle.events * share)
        return Cost(self.seconds, cpu_s, events, self.things, self.lost)


@dataclass
class Soaked:
    """What became of one report in one crowd: its cost, and that of the same events alone."""

    crowd: str
    report: str
    cost: Cost
    of_events: Cost
    early_mib: int
    late_mib: int
    longest_s: float
    end_s: float
    end_cpu_s: float

    def line(self) -> str:
        """As a row of a Markdown table."""
        cost, things = self.cost, self.cost.things
        each = max(self.of_events.cpu_s, 0) / max(self.of_events.events, 1)
        beyond_s = cost.cpu_s - each * max(cost.events, 0)
        return (
            f"| {self.crowd} | {self.report} | {things} | {cost.events / things:.1f} "
            f"| {cost.lost} | {100 * cost.cpu_s / cost.seconds:.1f} "
            f"| {100 * beyond_s / cost.seconds:.1f} "
            f"| {1e6 * cost.cpu_s / things:.0f} | {1e6 * beyond_s / things:.0f} "
            f"| {self.early_mib} | {self.late_mib} | {self.longest_s:.2f} | {self.end_s:.2f} "
            f"| {self.end_cpu_s:.2f} |"
        )


def main(arguments: Sequence[str]) -> None:
    """Prints a table, a row as soon as it is known."""
    seconds = float(arguments[0]) if arguments else SECONDS
    print(HEAD)
    with tempfile.TemporaryDirectory(prefix="memtap-", dir="/var/tmp") as name:
        folder = Path(name)
        subprocess.check_call(["cc", "-O1", "-o", folder / "crowd", WORKLOADS / "crowd.c"])
        for wanted in arguments[1:] or list(CROWDS):
            crowd, *reports = wanted.split(":")
            for report in reports or REPORTS:
                print(soak(folder, crowd, report, seconds).line(), flush=True)
    print(GOALS)


def soak(folder: Path, crowd: str, report: str, seconds: float) -> Soaked:
    """One report, beside one crowd."""
    run = _Run(folder, report)
    what, rate = crowd.removeprefix("few-"), float(CROWDS[crowd])
    idle = run.cost("nothing", seconds / 3, 0)
    busy = run.cost(what, seconds, rate)
    late = run.mib()
    same = run.cost(f"same-{what}", seconds / 3, busy.things / seconds)
    longest = run.longest_s()
    end_s, end_cpu_s = run.end(what, rate)
    return Soaked(
        crowd,
        report,
        busy.beyond(idle),
        same.beyond(idle),
        run.early_mib,
        late,
        longest,
        end_s,
        end_cpu_s,
    )


class _Run:
    """A memtap that traces the host, and what is done beside it.

    Attributes:
        early_mib: its memory after a third of the last time.
    """

    def __init__(self, folder: Path, report: str) -> None:
        self._crowd, self._out, self._files = (folder / n for n in ("crowd", "out", "files"))
        self._files.mkdir()
        self.early_mib = 0
        options = (*REPORTS[report], "-f", "json", "-o", str(self._out), "1")
        self._memtap = subprocess.Popen([MEMTAP, report, *options])
        self._wait_for(2)  # the first is of what was there before

    def _wait_for(self, reports: int) -> None:
        while len(self._reports()) < reports:
            time.sleep(0.1)

    def _reports(self) -> list[str]:
        return self._out.read_text().splitlines() if self._out.exists() else []

    def _make(self, what: str, seconds: float, rate: float) -> subprocess.Popen[str]:
        command = list(map(str, (self._crowd, what, seconds, rate, self._files)))
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def cost(self, what: str, seconds: float, rate: float) -> Cost:
        """What it takes while there is such a crowd."""
        reports, cpu, began = len(self._reports()), _cpu_s(self._memtap.pid), time.monotonic()
        with self._make(what, seconds, rate) as busy:
            time.sleep(seconds / 3)
            self.early_mib = self.mib() if "-" not in what else self.early_mib
            things = int(busy.communicate()[0])
        self._wait_for(len(self._reports()) + _MORE)
        lines = self._reports()[reports:]
        audits = [json.loads(line)["audit"] for line in lines]
        events, lost = (sum(audit[name] for audit in audits) for name in ("events", "lost"))
        return Cost(time.monotonic() - began, _cpu_s(self._memtap.pid) - cpu, events, things, lost)

    def mib(self) -> int:
        """Its memory now."""
        status = Path(f"/proc/{self._memtap.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) >> 10

    def longest_s(self) -> float:
        """The longest of its intervals so far."""
        return max(float(json.loads(line)["interval_s"]) for line in self._reports())

    def end(self, what: str, rate: float) -> tuple[float, float]:
        """How long it takes to end while there is a crowd, by the clock and on a CPU."""
        with self._make(what, 60, rate) as busy:
            self._wait_for(len(self._reports()) + 2)  # a whole interval of the crowd is over
            told, before = time.monotonic(), _cpu_s(self._memtap.pid)
            self._memtap.send_signal(signal.SIGTERM)
            usage = os.wait4(self._memtap.pid, 0)[2]
            end_s = time.monotonic() - told
            busy.kill()
        self._memtap.returncode = 0  # it was waited for
        self._out.unlink()
        shutil.rmtree(self._files)
        return end_s, usage.ru_utime + usage.ru_stime - before


def _cpu_s(pid: int) -> float:
    """Of a process and of its children that ended, such as that which compiled, as in wait4(2)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main(sys.argv[1:])
