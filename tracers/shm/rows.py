"""The rows that reports of shared memory are counted from."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from memtap.tracers.model.tracer import RowType

# The state of a segment now; the other kinds are those of the C program.
NOW = 16


class Sort(IntEnum):
    """What a segment is."""

    TMPFS = 0
    POSIX = 1
    SYSV = 2
    MEMFD = 3
    ANONYMOUS = 4
    KERNEL = 5


def shown(sort: int) -> str:
    """Its label in reports."""
    return Sort(sort).name.lower() if sort in {*Sort} else "?"


# Pages: `count` of what was done, or how often; for NOW, pages in memory, in swap, and both.
ROW = np.dtype(
    [
        ("ns", "u8"),
        ("segment", "u8"),  # its number, see enrich.py
        ("count", "u8"),
        ("bytes", "u8"),  # of NOW: its size
        ("swapped", "u8"),
        ("alloced", "u8"),
        ("tgid", "u4"),
        ("tid", "u4"),
        ("kind", "u1"),
        ("sort", "u1"),
        ("is_huge", "u1"),
    ]
)

ROW_TYPE = RowType(ROW, counts=("count", "bytes", "swapped", "alloced"))
