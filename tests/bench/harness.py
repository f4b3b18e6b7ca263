"""What the benchmarks share: rows of the table, running and timing programs, a storm of reads."""

from __future__ import annotations

import multiprocessing
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = 4096
PYTHON = sys.executable
MEMTAP = str(Path(sys.executable).with_name("memtap"))
OUR_HEADERS = HERE.parent.parent / "bpf"


class NotMeasuredError(Exception):
    """A peer is not installed; the text says what to install."""


@dataclass
class Row:
    """One line of the table.

    Attributes:
        what, against: what was measured, and what it is compared with.
        samples: one number per round; a ratio of each pair, or what `unit` says.
        goal: the most that the median may be; None if the row only informs.
        unit: of samples and goal; "" for ratios.
        note: what else is worth knowing, such as the medians of both sides.
    """

    what: str
    against: str
    samples: Sequence[float]
    goal: float | None = None
    unit: str = ""
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the goal was reached; a row without a goal has none to miss."""
        return self.goal is None or statistics.median(self.samples) <= self.goal

    def cells(self) -> list[str]:
        """The texts of the row."""
        goal = "" if self.goal is None else f"≤ {show(self.goal, self.unit)}"
        if not self.samples:
            return [self.what, self.against, goal, "", "", "not measured", self.note]
        low, middle, high = quartiles(self.samples)
        spread = f"{show(low)} .. {show(high)}"
        verdict = "" if self.goal is None else "met" if self.met else "NOT MET"
        return [self.what, self.against, goal, show(middle, self.unit), spread, verdict, self.note]


HEADING = ["benchmark", "against", "goal", "median", "quartiles", "verdict", "note"]


def show(number: float, unit: str = "") -> str:
    """Three significant digits, never in exponents."""
    text = f"{number:.0f}" if abs(number) >= 100 or number == int(number) else f"{number:.3g}"
    return f"{text} {unit}".strip()


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median, the upper quartile."""
    if len(samples) < 2:
        return (samples[0],) * 3
    low, middle, high = statistics.quantiles(samples, method="inclusive")
    return low, middle, high


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown, in columns."""
    lines = [HEADING, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, cells, widths)) + " |" for cells in lines)


@dataclass
class Run:
    """What one run of a program took, in seconds: until its first line, and of CPU in all."""

    ready_s: float
    cpu_s: float


def timed(command: list[str]) -> Run:
    """Runs a program to its end. CPU is user + system of it and of its children."""
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout
    process.stdout.readline()
    ready = time.monotonic() - start
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        raise RuntimeError(f"{command} ended with status {process.returncode}")
    return Run(ready, usage.ru_utime + usage.ru_stime)


def pairs(rounds: int, ours: Callable[[], Any], theirs: Callable[[], Any]) -> list[tuple[Any, Any]]:
    """Both in turn, A B A B, after one of each that does not count."""
    ours(), theirs()
    return [(ours(), theirs()) for _ in range(rounds)]


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a fresh process, and gives what it returned."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


@contextmanager
def workshop() -> Iterator[Path]:
    """A folder on disk (no tmpfs, whose pages no tracepoint sees), gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="memtap-bench-", dir="/var/tmp") as folder:
        yield Path(folder)


def make_file(path: Path, pages: int) -> Path:
    """A file on disk, none of it holes, and no page of it dirty."""
    with path.open("wb") as file:
        for _ in range(pages):
            file.write(os.urandom(PAGE))
        file.flush()
        os.fsync(file.fileno())
    return path


def compiled(folder: Path, name: str) -> str:
    """Compiles tests/bench/NAME.c into the folder; the path of the program."""
    program = folder / name
    if not program.exists():
        subprocess.check_call(["gcc", "-O2", "-Wall", "-o", program, HERE / f"{name}.c"])
    return str(program)


@dataclass
class Storm:
    """A running `preads` (preads.c): reads of cached pages, on demand.

    Attributes:
        program: its compiled C.
        path: a file of some thousand pages.
        cpu: where it runs, if not anywhere.
    """

    program: str
    path: Path
    cpu: int | None = None
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        self.process = subprocess.Popen(
            [*pinned(self.cpu), self.program, str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ask("read", 4 * self.path.stat().st_size // PAGE)

    def __enter__(self) -> Storm:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    def begin(self, *words: object) -> None:
        """Sends a command; the answer is for finish() to wait for."""
        assert self.process.stdin
        print(*words, file=self.process.stdin, flush=True)

    def has_answered(self) -> bool:
        """Whether finish() would not have to wait."""
        assert self.process.stdout
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def finish(self) -> list[int]:
        """The numbers of the answer."""
        assert self.process.stdout
        return list(map(int, self.process.stdout.readline().split()))

    def ask(self, *words: object) -> list[int]:
        """begin() and finish()."""
        self.begin(*words)
        return self.finish()


def pinned(cpu: int | None) -> list[str]:
    """What to put before a command so that it stays on a CPU."""
    return [] if cpu is None else ["taskset", "-c", str(cpu)]
