"""How much slower page faults get while they are traced, and what counting them costs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from statistics import median, quantiles

from tests.bench.harness import (
    MEMTAP,
    OUR_HEADERS,
    PYTHON,
    Row,
    compiled,
    pinned,
    show,
    workshop,
)

ROUNDS = 6
PAGES = 4000
TOUCHES = 100  # of all pages; a phase is their lower quartile
STORM_TOUCHES = 750  # three million faults
GOAL = 1.10
GOAL_CPU_S = 0.5
ONE_LINER = "software:page-faults:1 { @[pid] = count(); }"
CALLBACK = """
import sys
from bcc import BPF, PerfSWConfig, PerfType
bpf = BPF(text=b'''
struct event { u64 address; u32 tgid; u32 tid; };
BPF_PERF_OUTPUT(events);
int on_fault(u64 *ctx)
{
	struct event event = {.address = ctx[22], .tgid = bpf_get_current_pid_tgid() >> 32};
	event.tid = bpf_get_current_pid_tgid();
	events.perf_submit(ctx, &event, sizeof(event));
	return 0;
}
''')
counts = {}
def count(cpu, data, size):
    event = bpf[b"events"].event(data)
    counts[event.tgid] = counts.get(event.tgid, 0) + 1
bpf[b"events"].open_perf_buffer(count, page_cnt=4096)
bpf.attach_perf_event(PerfType.SOFTWARE, PerfSWConfig.PAGE_FAULTS, b"on_fault", sample_period=1)
print("ready", flush=True)
while True:
    bpf.perf_buffer_poll()
"""

Tracer = Callable[[], AbstractContextManager[None]]


class Toucher:
    """A running `touches` (touches.c)."""

    def __init__(self, program: str) -> None:
        command = [*pinned(max(os.sched_getaffinity(0))), program, str(PAGES)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.touch(TOUCHES)

    def touch(self, rounds: int) -> float:
        """Nanoseconds of CPU time per fault: the lower quartile of so many rounds."""
        assert self._process.stdin and self._process.stdout
        print("touch", rounds, file=self._process.stdin, flush=True)
        return quantiles(map(int, self._process.stdout.readline().split()), n=4)[0]

    def end(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()


def measure() -> list[Row]:
    """CPU time of a first touch of anonymous memory under each tracer, against untraced.

    One process touches all the time; in a round it is timed untraced and under each tracer in
    turn, and a ratio is to the mean of the untraced phases before and after.

    The last row is the CPU time (user + system) that memtap takes for a million of such faults.
    """
    with workshop() as folder:
        toucher = Toucher(compiled(folder, "touches"))
        try:
            rows = [slowdown(toucher, folder, *each) for each in tracers(folder)]
            return [*rows, cost(toucher, folder)]
        finally:
            toucher.end()


def tracers(folder: Path) -> list[tuple[str, list[str], float | None]]:
    """What is traced with: its name, the command, and the goal."""
    report = ["-o", str(folder / "report")]
    record = ["perf", "record", "-a", "-e", "page-faults", "-c", "1", "-o", str(folder / "data")]
    return [
        ("memtap faults", [MEMTAP, "faults", *report], GOAL),
        ("memtap faults --stacks", [MEMTAP, "faults", "--stacks", *report], None),
        ("bpftrace, counting by pid", ["bpftrace", "-e", ONE_LINER], None),
        ("perf record -e page-faults -c 1", record, None),
        ("BCC, a callback for each", [PYTHON, "-c", CALLBACK], None),
    ]


def slowdown(
    toucher: Toucher, folder: Path, name: str, command: list[str], goal: float | None
) -> Row:
    """The row of one tracer."""
    what = f"a page fault under {name}"
    if shutil.which(command[0]) is None:
        return Row(what, "untraced", [], goal, note=f"{command[0]} is not installed")
    ratios, untraced = [], [toucher.touch(TOUCHES)]
    for _ in range(ROUNDS):
        with running(command, folder / "report"):
            traced = toucher.touch(TOUCHES)
        untraced.append(toucher.touch(TOUCHES))
        ratios.append(2 * traced / (untraced[-2] + untraced[-1]))
    return Row(what, "untraced", ratios, goal, note=f"untraced {show(median(untraced))} ns")


@contextmanager
def running(command: list[str], report: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A tracer, from when it traces."""
    report.unlink(missing_ok=True)
    environment = os.environ | {"BCC_KERNEL_SOURCE": str(OUR_HEADERS)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        if command[0] == MEMTAP:
            while not (report.exists() and report.stat().st_size):
                still(process)
                time.sleep(0.1)
        else:
            time.sleep(3)
        yield process
        still(process)
        while process.poll() is None:  # bpftrace can miss a signal that comes just before it waits
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)


def still(process: subprocess.Popen[bytes]) -> None:
    """Raises RuntimeError unless a tracer is running."""
    if process.poll() is not None:
        raise RuntimeError(f"{process.args!r} ended with status {process.returncode}")


def cost(toucher: Toucher, folder: Path) -> Row:
    """CPU seconds that memtap takes for a million faults."""
    report = folder / "report"
    samples = []
    for _ in range(3):
        with running([MEMTAP, "faults", "-o", str(report)], report) as process:
            before = cpu_s(process.pid)
            toucher.touch(STORM_TOUCHES)
            time.sleep(1.5)
            samples.append((cpu_s(process.pid) - before) / (STORM_TOUCHES * PAGES / 1e6))
    return Row("CPU of memtap for a million faults", "", samples, GOAL_CPU_S, "s")


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
