"""How much slower page faults get while they are traced, and what counting them costs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

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
PAGES = 1000
TOUCHES = 400  # of all pages, in a phase
STORM_TOUCHES = 3000  # three million faults
GOAL = 1.10
GOAL_CPU_S = 0.5
ONE_LINER = "software:page-faults:1 { @[pid] = count(); }"
CALLBACK = """
import signal
from bcc import BPF, PerfSWConfig, PerfType
signal.signal(signal.SIGINT, signal.SIG_DFL)  # or BCC prints it, and goes on
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


@dataclass(frozen=True)
class Phase:
    """Some rounds of faults.

    Attributes:
        ns: CPU time per fault.
        ratio: the same in terms of what the kernel takes to populate a page without a fault, in
            the same two milliseconds; how fast the machine is just then has no part in it.
    """

    ns: float
    ratio: float


class Toucher:
    """A running `touches` (touches.c), or another program that obeys likewise.

    Attributes:
        pid: its number.
    """

    def __init__(self, program: str, size: int, how: str, rounds: int) -> None:
        command = [*pinned(max(os.sched_getaffinity(0))), program, str(size)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        self.touch(how, rounds)

    def touch(self, how: str, rounds: int) -> Phase:
        """So many rounds of faults."""
        assert self._process.stdin and self._process.stdout
        print(how, rounds, file=self._process.stdin, flush=True)
        numbers = list(map(int, self._process.stdout.readline().split()))
        touched, populated = numbers[::2], numbers[1::2]
        ratios = [one / other for one, other in zip(touched, populated, strict=True)]
        return Phase(median(touched), median(ratios))

    def end(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()


def measure() -> list[Row]:
    """CPU time of a first touch of anonymous memory under each tracer, against untraced.

    One process touches pages all the time, and is timed untraced and under a tracer in turn; a
    ratio is to the mean of the untraced phases before and after. Goals hold for pages that are
    touched in order, as whoever fills memory does; for other orders they only inform.

    The last rows are the CPU time (user + system) that memtap takes for a million faults.
    """
    with workshop() as folder:
        toucher = Toucher(compiled(folder, "touches"), PAGES, "touch", TOUCHES)
        try:
            rows = [
                slowdown(toucher, folder, f"a page fault under {name}", how, command, goal)
                for name, how, command, goal in tracers(folder)
            ]
            costs = (("touch", GOAL_CPU_S), ("scatter", None))
            return [*rows, *(cost(toucher, folder, *each) for each in costs)]
        finally:
            toucher.end()


def tracers(folder: Path) -> list[tuple[str, str, list[str], float | None]]:
    """What is traced with: its name, how pages are touched, the command, and the goal."""
    report = ["-o", str(folder / "report")]
    record = ["perf", "record", "-a", "-e", "page-faults", "-c", "1", "-o", str(folder / "data")]
    return [
        ("memtap faults", "touch", [MEMTAP, "faults", *report], GOAL),
        ("memtap faults, in random order", "scatter", [MEMTAP, "faults", *report], None),
        ("memtap faults --stacks", "touch", [MEMTAP, "faults", "--stacks", *report], None),
        ("bpftrace, counting by pid", "touch", ["bpftrace", "-e", ONE_LINER], None),
        ("perf record -e page-faults -c 1", "touch", record, None),
        ("BCC, a callback for each", "touch", [PYTHON, "-c", CALLBACK], None),
    ]


def slowdown(
    toucher: Toucher,
    folder: Path,
    what: str,
    how: str,
    command: list[str],
    goal: float | None,
    rounds: int = TOUCHES,
) -> Row:
    """The row of one tracer."""
    if shutil.which(command[0]) is None:
        return Row(what, "untraced", [], goal, note=f"{command[0]} is not installed")
    ratios, untraced = [], [toucher.touch(how, rounds)]
    for _ in range(ROUNDS):
        with running(command, folder / "report"):
            traced = toucher.touch(how, rounds)
        untraced.append(toucher.touch(how, rounds))
        ratios.append(2 * traced.ratio / (untraced[-2].ratio + untraced[-1].ratio))
    note = f"untraced {show(median(phase.ns for phase in untraced))} ns"
    return Row(what, "untraced", ratios, goal, note=note)


@contextmanager
def running(command: list[str], report: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A tracer, from when it traces."""
    report.unlink(missing_ok=True)
    environment = os.environ | {"BCC_KERNEL_SOURCE": str(OUR_HEADERS)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        if Path(command[0]).name == "memtap":
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


def cost(toucher: Toucher, folder: Path, how: str, goal: float | None) -> Row:
    """CPU seconds that memtap takes for a million faults."""
    report = folder / "report"
    samples = []
    for _ in range(3):
        with running([MEMTAP, "faults", "-o", str(report)], report) as process:
            before = cpu_s(process.pid)
            toucher.touch(how, STORM_TOUCHES)
            time.sleep(1.5)
            samples.append((cpu_s(process.pid) - before) / (STORM_TOUCHES * PAGES / 1e6))
    what = "CPU of memtap for a million faults" + ", in random order" * (how == "scatter")
    return Row(what, "", samples, goal, "s")


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
