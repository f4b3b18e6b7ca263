"""How much slower malloc and free get while they are traced."""

from __future__ import annotations

from tests.bench.faults import Toucher, slowdown
from tests.bench.harness import MEMTAP, Row, compiled, workshop

BLOCKS = 200
ROUNDS = 200  # of all blocks, in a phase
ONE_LINER = (
    "tracepoint:syscalls:sys_exit_mmap, tracepoint:syscalls:sys_exit_munmap, "
    "tracepoint:syscalls:sys_exit_brk { @[pid] = count(); } "
    "software:page-faults:1 { @faults[pid] = count(); }"
)
SMALL, LARGE = "malloc(100) and free under ", "malloc(300000), a touch and free under "


def measure() -> list[Row]:
    """CPU time of malloc and free under each tracer, against untraced.

    Of large blocks each takes two system calls and a page fault; of small ones the kernel hears
    nothing, so that only --uprobes can cost them anything.
    """
    with workshop() as folder:
        toucher = Toucher(compiled(folder, "mallocs"), BLOCKS, "large", ROUNDS)
        report = ["-o", str(folder / "report")]
        one = ["-p", str(toucher.pid)]
        cases = [
            (LARGE + "memtap malloc", "large", [MEMTAP, "malloc", *report]),
            (LARGE + "memtap malloc -b site", "large", [MEMTAP, "malloc", "-b", "site", *report]),
            (LARGE + "bpftrace, counting by pid", "large", ["bpftrace", "-e", ONE_LINER]),
            (SMALL + "memtap malloc", "small", [MEMTAP, "malloc", *report]),
            (
                SMALL + "memtap malloc --uprobes",
                "small",
                [MEMTAP, "malloc", "--uprobes", *one, *report],
            ),
        ]
        try:
            return [
                slowdown(toucher, folder, what, how, command, None, rounds=ROUNDS)
                for what, how, command in cases
            ]
        finally:
            toucher.end()
