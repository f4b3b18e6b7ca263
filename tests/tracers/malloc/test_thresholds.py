"""Where a C library keeps its threshold: out of this host's own, and out of files that are none."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from memtap.tracers.code.intervals import PAGE_BYTES
from memtap.tracers.malloc.files import of_process
from memtap.tracers.malloc.libraries import allocator_of
from memtap.tracers.malloc.thresholds import known_calls

THRESHOLD_MAX, USUAL = 32 << 20, 128 << 10


@pytest.fixture
def libc() -> Path:
    found = [path for path in of_process(os.getpid()) if allocator_of([str(path)]) == "glibc"]
    if not found:
        pytest.skip("this Python has another C library")
    return found[0]


def base_of(name: str) -> int:
    """Where a library begins in our own memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return min(int(line.split("-")[0], 16) for line in lines if line.endswith(f"/{name}"))


def test_what_stands_there_in_our_own_memory_is_the_threshold(libc: Path) -> None:
    known = dict(known_calls(libc.read_bytes()))
    assert len(known) >= 3
    base = base_of(libc.resolve().name)
    for place, (offset, id_at, build_id, threshold_at, most_at) in known.items():
        assert place == offset % PAGE_BYTES
        assert ctypes.c_uint64.from_address(base + id_at).value == build_id
        threshold = ctypes.c_uint64.from_address(base + threshold_at).value
        assert USUAL <= threshold <= THRESHOLD_MAX
        assert ctypes.c_uint32.from_address(base + most_at).value == 65536


def test_other_files_tell_nothing(libc: Path) -> None:
    whole = libc.read_bytes()
    others = [b"", b"\x7fELF", b"\x7fELF\1" + whole[5:], Path("/usr/bin/true").read_bytes()]
    cut = [whole[:size] for size in (10, 63, 64, 100, 5000, len(whole) // 2)]
    for each in (*others, *cut):
        assert list(known_calls(each)) == []
