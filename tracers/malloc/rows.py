"""The rows that reports of malloc are counted from: faults, and calls that get or give memory."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers.faults import rows as faultrows
from memtap.tracers.faults.probes import Kind
from memtap.tracers.malloc.probes import Call, CallMark
from memtap.tracers.model.tracer import RowType


class Fact(IntEnum):
    """What a row tells of a process that is neither a fault nor a call."""

    FORK = 23  # it was born, as a copy of `parent`
    EXEC = 24  # it began another program
    EXIT = 25
    HEAP = 26  # where its heap was when it was first looked at: `address` and `length`
    REQUESTED = 27  # it asked malloc `requests` times for blocks of a `size_class` (sizes.py)
    WALKED = 28  # `part` of its heap (heapwalk.py) had `length` bytes
    SHARE = 29  # it was born, in the memory of `parent`


# A fault (faultrows.ROW), a call or a fact, by `kind`. Of a call:
#   address, length  what it was about, in bytes; of brk(2), the break by then, and 0. An address
#                    that no process has is 0, and where the kernel refused, any length was asked.
#   prot, flags, advice
#                    as they were given: to mmap and mprotect; mmap and mremap; madvise
#   call_marks       see CallMark
#   request          bytes that the thread had last asked malloc for
#   request_number   the how manieth time that was, from 1 on; 0 if nobody looked
#   threshold        of the C library by then, in bytes; allocator.NEVER if it maps no blocks
ROW = np.dtype(
    [
        *((name, faultrows.ROW[name]) for name in faultrows.ROW.names or ()),
        ("length", "u8"),
        ("request", "u8"),
        ("threshold", "u8"),
        ("requests", "u8"),
        ("request_number", "u4"),
        ("parent", "u4"),
        ("prot", "u4"),
        ("flags", "u4"),
        ("advice", "u2"),
        ("call_marks", "u2"),
        ("size_class", "u1"),
        ("part", "u1"),
    ]
)

_KINDS = np.array([*Kind, *Call, *Fact])

# Addresses of processes, and lengths of what they map, stay below this.
BEYOND = 1 << 62

# Powers of two of requests.
_SIZE_CLASSES = 66


def are_possible(rows: Events) -> bool:
    """Whether the numbers of words and of powers of two are such, and addresses those of memory."""
    refused = rows["call_marks"] & CallMark.REFUSED > 0
    return bool(
        faultrows.are_possible(rows)
        and np.isin(rows["kind"], _KINDS).all()
        and (rows["size_class"] < _SIZE_CLASSES).all()
        and (rows["address"] < BEYOND).all()
        and (rows["length"][~refused] < BEYOND).all()
    )


ROW_TYPE = RowType(ROW, counts=("time_ns",), are_possible=are_possible)
