"""Running memtap on this kernel, and files whose place in the page cache is known."""

from __future__ import annotations

import ctypes
import errno
import io
import json
import mmap
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memtap.bpf.kernel import Kernel
from memtap.bpf.plan import Variant

WORKLOADS = Path(__file__).resolve().parent.parent / "workloads"
PAGE = os.sysconf("SC_PAGESIZE")
# MEMTAP_COMMAND names another way to start it.
MEMTAP = shlex.split(os.environ.get("MEMTAP_COMMAND", "")) or [sys.executable, "-m", "memtap"]
# MEMTAP_LONGEST_S is how long a run of it may take.
LONGEST_S = int(os.environ.get("MEMTAP_LONGEST_S", "60"))

# MEMTAP_SCALE makes the large workloads smaller where a machine is slow.
_SCALE = float(os.environ.get("MEMTAP_SCALE", "1"))

_LIBC = ctypes.CDLL(None, use_errno=True)

Row = dict[str, Any]


class Preempting(Kernel):
    """A kernel of which memtap believes that tasks can be preempted anywhere."""

    def preempts(self, kind: str) -> bool:
        return kind in ("tp_btf", "fentry", "fexit")


def with_standbys(variants: list[Variant]) -> list[Any]:
    """Each variant and this kernel, and the best with all standbys that a kernel can ask for."""
    alone = [pytest.param((variant, Kernel()), id=variant.name) for variant in variants]
    return [*alone, pytest.param((variants[0], Preempting()), id=f"{variants[0].name}-standbys")]


def scaled(count: int) -> int:
    """So many, or fewer where the machine is slow."""
    return round(count * _SCALE)


def slower(ns: float) -> float:
    """So long, or longer where the machine is slow."""
    return ns / _SCALE


def memtap(*arguments: str | Path, **how: Any) -> subprocess.CompletedProcess[str]:
    """Runs memtap to its end; its status is for the caller to look at."""
    how = {"capture_output": True, "text": True, "timeout": LONGEST_S} | how
    return subprocess.run([*MEMTAP, *map(str, arguments)], **how)


def reports(text: str) -> list[dict[str, Any]]:
    """The reports in the JSON output of a command."""
    return [json.loads(line) for line in text.splitlines()]


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether it comes to hold."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def reporting(out: Path, report: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """memtap, from its first report on; its reports go to a file."""
    command = [*MEMTAP, report, "-o", str(out), *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert eventually(lambda: out.exists() and out.read_text() != "", LONGEST_S)
            yield process
        finally:
            process.kill()


@dataclass
class Trace:
    """One program that ran under `memtap cachetop --by file`, recorded.

    Attributes:
        status: memtap's exit status.
        stdout: what the program printed.
        stderr: what both said.
        report: the one report, JSON.
        recording: the file it was recorded to.
    """

    status: int
    stdout: str
    stderr: str
    report: dict[str, Any]
    recording: Path

    @property
    def audit(self) -> dict[str, Any]:
        audit: dict[str, Any] = self.report["audit"]
        return audit

    def file(self, path: Path) -> Row:
        """The row of a file; all zeros if it has none."""
        for row in self.report["rows"]:
            if row["ino"] == path.stat().st_ino and row["path"] == str(path):
                return {name: value for name, value in row.items() if name not in ("dev", "ino")}
        return {"hits_pages": 0, "misses_pages": 0, "dirties_pages": 0}

    def counts(self, path: Path) -> tuple[int, int, int]:
        """Hits, misses and dirties of a file."""
        row = self.file(path)
        return row["hits_pages"], row["misses_pages"], row["dirties_pages"]

    def replay(self, *arguments: str) -> list[Row]:
        """The rows of another report made of the recording."""
        done = memtap(*arguments, "-f", "json", "--from", self.recording)
        assert done.returncode == 0, done.stderr
        return [row for report in reports(done.stdout) for row in report["rows"]]


def run_under_cachetop(
    folder: Path, *program: str | Path, options: tuple[str, ...] = (), **how: Any
) -> Trace:
    """Runs a program under memtap; what that leaves is put into the folder."""
    number = len(list(folder.glob("*.json")))
    report, recording = folder / f"{number}.json", folder / f"{number}.parquet"
    kept = ("-b", "file", "-f", "json", "-o", report, "--record", recording)
    done = memtap("cachetop", *kept, *options, "--", *program, **how)
    assert report.exists(), done.stderr
    found = reports(report.read_text())
    assert len(found) == 1, done.stderr
    return Trace(done.returncode, done.stdout, done.stderr, found[0], recording)


def build_32_bit(name: str, folder: Path) -> Path:
    """Compiles a program of tests/workloads for 32 bits; skips the test where that cannot be."""
    program, source = folder / name, WORKLOADS / f"{name}.c"
    if subprocess.run(["cc", "-m32", "-O1", "-o", program, source], check=False).returncode:
        pytest.skip("no compiler for 32-bit programs")
    return program


def has_io_uring() -> bool:
    """Whether the kernel knows io_uring_setup(2), which is number 425 everywhere."""
    _LIBC.syscall(425, 0, None)
    return ctypes.get_errno() != errno.ENOSYS


def make_file(path: Path, pages: int, tail: int = 0) -> Path:
    """A file of random pages, on disk, with `tail` bytes more."""
    with path.open("wb") as file:
        for _ in range(pages):
            file.write(os.urandom(PAGE))
        file.write(os.urandom(tail))
        file.flush()
        os.fsync(file.fileno())
    return path


def evict(*paths: Path) -> None:
    """Makes files cold; fails if the kernel keeps a page for long.

    For a moment it may: whoever looks for idle pages holds them (DAMON_RECLAIM).
    """
    for path in paths:
        assert eventually(lambda: is_evicted(path)), f"{path} could not be evicted"  # noqa: B023


def is_evicted(path: Path) -> bool:
    """Asks the kernel to drop the pages of a file; whether it has none of them any more."""
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    return resident(path) == 0


@contextmanager
def mapped(path: Path, pages: int | None = None) -> Iterator[tuple[int, int]]:
    """Maps a file, or its first pages; gives address and length."""
    length, access = (pages or 0) * PAGE, mmap.ACCESS_READ
    with path.open("rb") as file, mmap.mmap(file.fileno(), length, access=access) as view:
        view.madvise(mmap.MADV_RANDOM)
        place = np.frombuffer(view, np.uint8)
        try:
            yield place.ctypes.data, len(view)
        finally:
            del place


def cached_pages(path: Path) -> list[int]:
    """For each page of a file, whether the kernel says that it is cached, by mincore(2)."""
    if path.stat().st_size == 0:
        return []
    with mapped(path) as (address, length):
        pages = (ctypes.c_ubyte * -(-length // PAGE))()
        failed = _LIBC.mincore(ctypes.c_void_p(address), ctypes.c_size_t(length), pages)
        assert not failed, os.strerror(ctypes.get_errno())
        return [page & 1 for page in pages]


def resident(path: Path) -> int:
    """How many pages of a file are cached."""
    return sum(cached_pages(path))


# Of uapi/linux/kernel-page-flags.h, and of Documentation/admin-guide/mm/pagemap.rst.
KPF_DIRTY = 1 << 4
_KPF_COMPOUND = 1 << 15 | 1 << 16
_PFN = (1 << 55) - 1


def page_flags(path: Path) -> list[int]:
    """What /proc/kpageflags says of each page of a file that is cached."""
    with (
        mapped(path) as (address, _),
        Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap,
        Path("/proc/kpageflags").open("rb", buffering=0) as kpageflags,
    ):
        flags = []
        for number in (number for number, cached in enumerate(cached_pages(path)) if cached):
            ctypes.string_at(address + number * PAGE, 1)  # so that it is mapped
            frame = _word(pagemap, address // PAGE + number) & _PFN
            flags.append(_word(kpageflags, frame) if frame else 0)
        return flags


def has_large_folios(path: Path) -> bool:
    """Whether a file comes into the page cache in large folios."""
    evict(path)
    with path.open("rb", buffering=0) as file:
        while file.read(4 * PAGE):
            pass
    return any(flags & _KPF_COMPOUND for flags in page_flags(path))


def _word(file: io.FileIO, number: int) -> int:
    """One of the u64 of which a file is made."""
    return int.from_bytes(os.pread(file.fileno(), 8, 8 * number), sys.byteorder)


@contextmanager
def kept(path: Path, pages: int | None = None, every: int | None = None) -> Iterator[None]:
    """Keeps a file, its first pages, or every so manieth page in the page cache, by mlock(2).

    Some kernels take away pages that were not used for a few seconds (DAMON_RECLAIM).
    """
    with mapped(path, pages) as (address, length):
        part, step = (PAGE, every * PAGE) if every else (length, length)
        for start in range(address, address + length, step):
            failed = _LIBC.mlock(ctypes.c_void_p(start), ctypes.c_size_t(part))
            assert not failed, os.strerror(ctypes.get_errno())
        yield
