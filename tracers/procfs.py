"""Reports that are read from /proc, without tracing anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from memtap.tracers.host import Counters

# More than any file that is read here has; those of a single record come whole with one read.
_BYTES = 1 << 16

# What reading a process says that has ended meanwhile.
Gone = (FileNotFoundError, ProcessLookupError)


def read(path: str) -> bytes:
    """A small file of /proc, at the cost of its three system calls."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _BYTES)
    finally:
        os.close(fd)


def audit(read: int, unread: int, kernel: Counters, notes: Sequence[str]) -> dict[str, Any]:
    """The `audit` object of a report that is read.

    Args:
        read: how many processes or mappings the report is made of.
        unread: how many are missing in its sums, which are lower bounds then.
        kernel: what the kernel counts of the same, named as in its files.
        notes: what else to say.
    """
    return {
        "accuracy": "bounded" if unread else "exact",
        "events": read,
        "lost": 0,
        "missed": 0,
        "map_full": 0,
        "probes": [],
        "kernel": kernel,
        "notes": list(notes),
    }
