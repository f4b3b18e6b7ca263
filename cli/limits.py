"""What this process may have: whether that is enough, said before libraries fail for want of it."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

from memtap.bpf.errors import MemtapError


@dataclass(frozen=True)
class _Need:
    """A limit of getrlimit(2), and how high it has to be."""

    limit: int
    least: int
    what: str
    hint: str


def _needs(cpus: int) -> list[_Need]:
    """Measured on two CPUs: 72 files, 690 MB of addresses, 170 MB of data, 128 KB of stack."""
    return [
        _Need(resource.RLIMIT_NOFILE, 72 + 8 * cpus, "open files", "ulimit -n 1024"),
        _Need(resource.RLIMIT_AS, 1 << 30, "bytes of addresses", "ulimit -v unlimited"),
        _Need(resource.RLIMIT_DATA, 384 << 20, "bytes of data", "ulimit -d unlimited"),
        _Need(resource.RLIMIT_STACK, 256 << 10, "bytes of stack", "ulimit -s 8192"),
    ]


def require_room() -> None:
    """MemtapError if a limit of this process leaves too little to trace or to read a recording."""
    for need in _needs(os.cpu_count() or 1):
        allowed = resource.getrlimit(need.limit)[0]
        if allowed != resource.RLIM_INFINITY and allowed < need.least:
            what = f"this process may have {allowed:,} {need.what} and needs {need.least:,}"
            raise MemtapError(what, f"raise that limit first: {need.hint}")
