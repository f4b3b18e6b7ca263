"""The rows that reports of the buddy allocator are counted from."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers.model.tracer import RowType


class Kind(IntEnum):
    """What a row says."""

    COUNTED = 1  # allocs, frees and fallbacks of a process, an order and a migrate type
    FREE = 2  # `allocs` blocks of an order are free just now
    FREE_OF_TYPE = 3  # `allocs` pages of a migrate type are
    UNTOLD_PAGES = 4  # at most `allocs` pages were handed out without an event


# The migrate type of frees, which no tracepoint has (also in the C program).
UNTOLD = 0xFFFF

ROW = np.dtype(
    [
        ("ns", "u8"),
        ("tgid", "u4"),
        ("order", "u2"),
        ("migratetype", "u2"),
        ("kind", "u1"),
        ("allocs", "u8"),
        ("frees", "u8"),
        ("fallbacks", "u8"),
    ]
)

_MOST_ORDERS = 64


def are_possible(rows: Events) -> bool:
    """Whether all orders are possible in a kernel."""
    return bool((rows["order"] < _MOST_ORDERS).all())


ROW_TYPE = RowType(ROW, counts=("allocs", "frees", "fallbacks"), are_possible=are_possible)
