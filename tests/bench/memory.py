"""How much memory a running memtap takes, next to a process that keeps BCC and LLVM."""

from __future__ import annotations

import os
import re
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench.harness import HERE, MEMTAP, OUR_HEADERS, PYTHON, Row, apart, show, workshop

ROUNDS = 5
MIB = 1 << 20

PEERS = ("BCC and nothing else", "memtap with BCC in it")

# What `memtap cachetop` has imported when it prints.
MODULES = (
    "memtap.cli.main",
    "memtap.cli.tracing",
    "memtap.cli.screen",
    "memtap.cli.output",
    "memtap.tracers.live.live",
    "memtap.tracers.pagecache.cachetop",
    "pyroute2.netlink.connector.cn_proc",
    "pyroute2.netlink.taskstats",
)


def measure() -> list[Row]:
    """Memory of `memtap cachetop` after its first report.

    The peers compile and load the same text and stay: a Python with nothing but BCC, and one that
    has imported what memtap imports as well, which is memtap without its child process. Then the
    peak RSS of that child (ru_maxrss), which is gone when tracing begins.
    """
    with workshop() as folder:
        text = folder / "text.c"
        text.write_bytes(subprocess.check_output([MEMTAP, "cachetop", "--dump-c"]))
        peer = [str(HERE / "stock_bcc.py"), str(text)]
        commands = (
            [MEMTAP, "cachetop"],
            ["/usr/bin/python3", *peer],
            [PYTHON, *peer, "--modules", *MODULES],
        )
        rounds = [[taken(command) for command in commands] for _ in range(ROUNDS)]
    peak = [apart(peak_of_child) / MIB for _ in range(ROUNDS)]
    return [
        *compared("memory, private", [[size.private for size in sizes] for sizes in rounds]),
        *compared("memory, RSS", [[size.rss for size in sizes] for sizes in rounds]),
        Row("memory, child's peak RSS", "", peak, unit="MiB", note="while it compiles"),
    ]


@dataclass
class Size:
    """What a process takes, in bytes: its own pages, and all that it has mapped."""

    private: int
    rss: int


def compared(what: str, rounds: list[list[int]]) -> list[Row]:
    """What memtap saves against each peer; `rounds` has memtap first, then the peers."""
    medians = [show(median(sizes) / MIB) for sizes in zip(*rounds, strict=True)]
    return [
        Row(
            f"{what} saved",
            name,
            [(sizes[at] - sizes[0]) / MIB for sizes in rounds],
            unit="MiB",
            note=f"{medians[0]} MiB, {medians[at]} MiB",
        )
        for at, name in enumerate(PEERS, 1)
    ]


def taken(command: list[str]) -> Size:
    """What a program takes when it has said its first line (/proc/PID/smaps_rollup)."""
    with started(command) as process:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    kib = {name: int(size) for name, size in re.findall(r"^(\w+): +(\d+) kB", rollup, re.MULTILINE)}
    return Size((kib["Private_Clean"] + kib["Private_Dirty"]) << 10, kib["Rss"] << 10)


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has said its first line, and is ended afterwards."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"BCC_KERNEL_SOURCE": str(OUR_HEADERS)},
    )
    try:
        assert process.stdout
        process.stdout.readline()
        yield process
    finally:
        process.terminate()
        process.communicate()


def peak_of_child() -> int:
    """The most that the process which compiles cachetop's program ever had, in bytes."""
    from memtap.bpf.kernel import Kernel
    from memtap.bpf.loading import Attempts, Request
    from memtap.tracers.pagecache.probes import NAME_FILES, PLAN

    kernel = Kernel()
    loaded = Attempts(Request(PLAN, settings=(NAME_FILES,)), kernel, cache=None).wait()
    loaded.attach(kernel.online_cpus)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
