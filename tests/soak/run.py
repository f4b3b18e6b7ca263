"""Crowds of short-lived things, for as long as asked: what a report costs, and whether it grows.

    sudo ./bootstrap python -m tests.soak.run [SECONDS [CROWD...]]

For each crowd and each report a row: how many there were, how much of a CPU memtap took, its
memory after a third of the time and at the end, its longest interval of those that should be a
second, and how long it took to end when it was told to, and worked for that on a CPU.
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
    "| crowd | report | things | CPU % | MiB, early | MiB, at the end | longest s | end s "
    "| end CPU s |\n|---|---|---|---|---|---|---|---|---|"
)
GOALS = "goals: CPU 10 % beyond the events, memory level, intervals of 1 s, an end within 1 s"


@dataclass
class Soaked:
    """What became of one report in one crowd."""

    crowd: str
    report: str
    things: int
    cpu_pct: float
    early_mib: int
    late_mib: int
    longest_s: float
    end_s: float
    end_cpu_s: float

    def line(self) -> str:
        """As a row of a Markdown table."""
        return (
            f"| {self.crowd} | {self.report} | {self.things} | {self.cpu_pct:.0f} "
            f"| {self.early_mib} | {self.late_mib} | {self.longest_s:.2f} | {self.end_s:.2f} "
            f"| {self.end_cpu_s:.2f} |"
        )


def main(arguments: Sequence[str]) -> None:
    """Prints a table, a row as soon as it is known."""
    seconds = float(arguments[0]) if arguments else SECONDS
    wanted = arguments[1:] or list(CROWDS)
    print(HEAD)
    with tempfile.TemporaryDirectory(prefix="memtap-", dir="/var/tmp") as name:
        folder = Path(name)
        program = folder / "crowd"
        subprocess.check_call(["cc", "-O1", "-o", program, WORKLOADS / "crowd.c"])
        for crowd in wanted:
            for report, options in REPORTS.items():
                print(soak(folder, program, crowd, report, options, seconds).line(), flush=True)
    print(GOALS)


def soak(
    folder: Path, program: Path, crowd: str, report: str, options: Sequence[str], seconds: float
) -> Soaked:
    """One report, beside one crowd."""
    out, files = folder / "out", folder / "files"
    files.mkdir()
    with subprocess.Popen([MEMTAP, report, *options, "-f", "json", "-o", out, "1"]) as memtap:
        _wait_for(out)
        what = crowd.removeprefix("few-")
        command = [program, what, str(seconds), str(CROWDS[crowd]), files]
        before, began = _cpu_s(memtap.pid), time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as busy:
            time.sleep(seconds / 3)
            early = _rss_mib(memtap.pid)
            things = int(busy.communicate()[0])
        used = (_cpu_s(memtap.pid) - before) / (time.monotonic() - began)
        late, told, before = _rss_mib(memtap.pid), time.monotonic(), _cpu_s(memtap.pid)
        memtap.send_signal(signal.SIGTERM)
        usage = os.wait4(memtap.pid, 0)[2]
        end, end_cpu = time.monotonic() - told, usage.ru_utime + usage.ru_stime - before
    whole = [json.loads(line)["interval_s"] for line in out.read_text().splitlines()[:-1]]
    out.unlink()
    shutil.rmtree(files)
    longest = max(whole, default=0)
    return Soaked(crowd, report, things, 100 * used, early, late, longest, end, end_cpu)


def _wait_for(out: Path) -> None:
    while not (out.exists() and out.stat().st_size):
        time.sleep(0.1)


def _cpu_s(pid: int) -> float:
    """Of a process and of its children that ended, such as that which compiled, as in wait4(2)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _rss_mib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) >> 10


if __name__ == "__main__":
    main(sys.argv[1:])
