"""This tree beside another commit of it: start, memory, and what tracing costs programs.

    sudo ./bootstrap python -m tests.bench.beside COMMIT [ROUNDS]

The other commit is checked out into a folder of its own, made ready by its own bootstrap, and gone
afterwards. Everything is measured in pairs that alternate; the table gives the medians of the
pairs' ratios. Ends with status 1 if anything takes more than it did.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from tests.bench.faults import Toucher, running
from tests.bench.harness import MEMTAP, Row, compiled, pairs, show, table, timed, workshop
from tests.bench.memory import taken

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 7
GOAL = 1.05
MIB = 1 << 20

STARTED = ("cachetop", "faults", "malloc", "slab")
# A program, how it works, how often, and what traces it.
WORKS = (
    ("touches", 1000, "touch", 400, "faults"),
    ("mallocs", 200, "large", 200, "malloc"),
    ("eventfds", 500, "eventfd", 200, "slab"),
)

Measured = Callable[[str], float]


@contextmanager
def other(commit: str) -> Iterator[str]:
    """The command memtap of another commit, ready to run."""
    with tempfile.TemporaryDirectory(prefix="memtap-beside-", dir="/var/tmp") as folder:
        tree = Path(folder) / "tree"
        subprocess.check_call(["git", "worktree", "add", "-q", "--detach", tree, commit], cwd=ROOT)
        try:
            ready = [str(tree / "bootstrap"), "memtap", "--version"]
            subprocess.run(ready, check=True, capture_output=True)
            yield str(tree / ".venv/bin/memtap")
        finally:
            subprocess.check_call(["git", "worktree", "remove", "--force", tree], cwd=ROOT)


def measure(theirs: str, rounds: int) -> list[Row]:
    """All rows: ours against the other memtap."""
    rows = []
    for name in STARTED:
        rows += [
            compare(f"start of {name}, wall", partial(wall_s, name), theirs, rounds, "s"),
            compare(f"start of {name}, CPU", partial(start_cpu_s, name), theirs, rounds, "s"),
            compare(f"RSS of {name}", partial(rss_mib, name), theirs, rounds, "MiB"),
        ]
    with workshop() as folder:
        for program, size, how, times, report in WORKS:
            toucher = Toucher(compiled(folder, program), size, how, times)
            cost = partial(slowed, toucher, folder, how, times, report)
            rows.append(compare(f"{program} under {report}", cost, theirs, rounds, ""))
            toucher.end()
    return rows


def compare(what: str, measured: Measured, theirs: str, rounds: int, unit: str) -> Row:
    """The row of one measure, of this tree and of the other in turn."""
    both = pairs(rounds, lambda: measured(MEMTAP), lambda: measured(theirs))
    note = ", ".join(show(median(side), unit) for side in zip(*both, strict=True))
    return Row(what, "the other commit", [one / other for one, other in both], GOAL, note=note)


def wall_s(name: str, memtap: str) -> float:
    """Seconds until all is attached."""
    return timed([memtap, name, "--dry-run"]).ready_s


def start_cpu_s(name: str, memtap: str) -> float:
    """CPU seconds of a run that ends when all is attached."""
    return timed([memtap, name, "--dry-run"]).cpu_s


def rss_mib(name: str, memtap: str) -> float:
    """RSS after the first report."""
    return taken([memtap, name, "0.5"]).rss / MIB


def slowed(toucher: Toucher, folder: Path, how: str, times: int, report: str, memtap: str) -> float:
    """What a step of a program takes while it is traced, in terms of what no tracer sees."""
    out = folder / "report"
    with running([memtap, report, "-o", str(out)], out):
        return toucher.touch(how, times).ratio


def main(arguments: list[str]) -> int:
    """Prints the table; the exit status."""
    if not arguments or os.geteuid():
        print(__doc__, file=sys.stderr)
        return 2
    commit, rounds = arguments[0], int(arguments[1]) if arguments[1:] else ROUNDS
    with other(commit) as theirs:
        rows = measure(theirs, rounds)
    print(table(rows))
    return int(not all(row.met for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
