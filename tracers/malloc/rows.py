"""The rows that reports of malloc are counted from: faults, and calls that map or unmap memory."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers.faults import rows as faultrows
from memtap.tracers.faults.probes import Kind
from memtap.tracers.malloc.probes import Call, CallMark
from memtap.tracers.model.tracer import RowType


class Fact(IntEnum):
    """What a row says about a process if it is neither a fault nor a call."""

    FORK = 23  # it was forked from `parent`
    EXEC = 24  # it executed another program
    EXIT = 25
    HEAP = 26  # its heap when tracing began: `address` and `length`
    REQUESTED = 27  # it asked malloc `requests` times for blocks of a `size_class` (sizes.py)
    WALKED = 28  # `part` of its heap (heapwalk.py) had `length` bytes
    SHARE = 29  # it was forked with CLONE_VM from `parent`


# A fault (faults.rows.ROW), a call or a fact, by `kind`. Of a call:
#   address, length  its range, in bytes; for brk(2), the break after it, and 0. An address that no
#                    process can have is 0; if the kernel refused, length is whatever was asked for.
#   prot, flags, advice
#                    the arguments: of mmap and mprotect; of mmap and mremap; of madvise
#   call_marks       see CallMark
#   request          the size of the thread's last request to malloc, in bytes
#   request_number   the number of that request, from 1 on; 0 if requests were not counted
#   threshold        the C library's at the call, in bytes; allocator.NEVER if it maps no blocks
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

# Addresses of processes, and lengths of mappings, are below this.
BEYOND = 1 << 62

# Powers of two of requests.
_SIZE_CLASSES = 66


def are_possible(rows: Events) -> bool:
    """Whether labels, powers of two and addresses are possible."""
    refused = rows["call_marks"] & CallMark.REFUSED > 0
    return bool(
        faultrows.are_possible(rows)
        and np.isin(rows["kind"], _KINDS).all()
        and (rows["size_class"] < _SIZE_CLASSES).all()
        and (rows["address"] < BEYOND).all()
        and (rows["length"][~refused] < BEYOND).all()
    )


ROW_TYPE = RowType(ROW, counts=("time_ns",), are_possible=are_possible)
