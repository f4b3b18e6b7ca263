"""The rows that reports of malloc are counted from: faults, and calls that get or give memory."""

from __future__ import annotations

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers.faults import rows as faultrows
from memtap.tracers.faults.probes import Kind
from memtap.tracers.malloc.allocator import Call
from memtap.tracers.model.tracer import RowType

# Of `marks` of a call: a 32-bit program made it; `threshold` was read; not malloc did; the dynamic
# loader did; the kernel refused it (the first two and the last also in the C program).
IS_32_BIT, TELLS_THRESHOLD, FOREIGN, LOADER, FAILED = 1, 2, 32, 64, 128

# A fault (faultrows.ROW, kind below Call.BRK), or a call: `kind` is a Call, `address` and `length`
# are what it was about, `flags` its prot, flags or advice. See Allocator.call(). `request` is the
# last number of bytes that the thread had asked malloc for, and `request_number` the how manieth
# time that was, from 1 on; 0 if nobody looked. `threshold` is
# what the C library had as its threshold by then, in bytes; allocations.NEVER if it maps no blocks.
ROW = np.dtype(
    [
        *((name, faultrows.ROW[name]) for name in faultrows.ROW.names or ()),
        ("length", "u8"),
        ("flags", "u4"),
        ("request", "u8"),
        ("request_number", "u4"),
        ("threshold", "u8"),
    ]
)

_KINDS = np.array([*Kind, *Call])

# Addresses of processes, and lengths of what they map, stay below this.
_MOST = 1 << 62


def are_possible(rows: Events) -> bool:
    """Whether the numbers of words and of powers of two are such, and addresses those of memory."""
    sizes = rows["kind"] == Call.REQUESTED
    refused = (rows["kind"] >= Call.BRK) & (rows["marks"] & FAILED > 0)  # what returned an error
    return bool(
        faultrows.are_possible(rows)
        and np.isin(rows["kind"], _KINDS).all()
        and (rows["address"][sizes] <= 64).all()
        and all((rows[name][~refused] < _MOST).all() for name in ("address", "length"))
    )


ROW_TYPE = RowType(ROW, counts=("time_ns",), are_possible=are_possible)
