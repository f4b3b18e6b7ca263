"""How much slower a program gets that has to reclaim, or that faults, while reclaim is traced."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.bench.faults import PAGES, TOUCHES, Toucher, running, slowdown
from tests.bench.harness import MEMTAP, Row, compiled, make_file, pinned, show, workshop
from tests.live.limits import Limited, limited
from tests.live.tracing import evict

ROUNDS = 8
LIMIT = 8 << 20
FILE_PAGES = 8192
READS = 20_000
GOAL = 1.05
WORKLOADS = Path(__file__).resolve().parent.parent / "workloads"
_NAMES = ("direct_reclaim_begin", "direct_reclaim_end", "memcg_reclaim_begin", "memcg_reclaim_end")
ONE_LINER = (
    ",".join(f"tracepoint:vmscan:mm_vmscan_{name}" for name in _NAMES)
    + ",tracepoint:vmscan:mm_vmscan_lru_shrink_inactive { @[probe, pid] = count(); }"
)


def measure() -> list[Row]:
    """CPU time under each tracer against untraced, which is measured before and after."""
    with workshop() as folder:
        report = folder / "report"
        tracers = {
            "memtap reclaim": [MEMTAP, "reclaim", "-o", str(report)],
            "bpftrace, counting by pid": ["bpftrace", "-e", ONE_LINER],
        }
        toucher = Toucher(compiled(folder, "touches"), PAGES, "touch", TOUCHES)
        try:
            return [
                row
                for name, command in tracers.items()
                for row in (
                    reading(name, command, folder),
                    slowdown(
                        toucher,
                        folder,
                        f"a page fault under {name}",
                        "touch",
                        command,
                        goal(command),
                    ),
                )
            ]
        finally:
            toucher.end()


def reading(name: str, command: list[str], folder: Path) -> Row:
    """A reader of random pages in a cgroup that holds a quarter of them."""
    what = f"a reader that reclaims under {name}"
    if shutil.which(command[0]) is None:
        return Row(what, "untraced", [], note=f"{command[0]} is not installed")
    program, file = folder / "random_reader", folder / "read"
    if not file.exists():
        source = WORKLOADS / "random_reader.c"
        subprocess.check_call(["gcc", "-O2", "-o", program, source])
        make_file(file, FILE_PAGES)
    evict(file)  # or its pages are charged to whoever wrote them, and the reader reclaims none
    with limited(LIMIT) as cgroup:
        one_read(cgroup, program, file)
        untraced, ratios = [one_read(cgroup, program, file)], []
        for _ in range(ROUNDS):
            with running(command, folder / "report"):
                traced = one_read(cgroup, program, file)
            untraced.append(one_read(cgroup, program, file))
            ratios.append(2 * traced / (untraced[-2] + untraced[-1]))
    note = f"untraced {show(min(untraced))} s of CPU"
    return Row(what, "untraced", ratios, goal(command), note=note)


def goal(command: list[str]) -> float | None:
    """Peers have none."""
    return GOAL if command[0] == MEMTAP else None


def one_read(cgroup: Limited, program: Path, file: Path) -> float:
    """CPU seconds of all its reads; the file's pages of the last time are in the cgroup."""
    before = refaults(cgroup)
    words = [*pinned(max(os.sched_getaffinity(0))), program, file, READS]
    process = cgroup.start(*words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{program} ended with status {process.returncode}")
    if before and refaults(cgroup) - before < READS // 4:  # the first time, all of it is new
        raise RuntimeError(f"{program} hardly reclaimed anything")
    return usage.ru_utime + usage.ru_stime


def refaults(cgroup: Limited) -> int:
    """How many pages came back that had been taken."""
    return cgroup.stat()["workingset_refault_file"]
