"""The rows that reports of reclaim are counted from."""

from __future__ import annotations

import numpy as np

from memtap.tracers.model.tracer import RowType

# An event of the C program, with its time; see there.
ROW = np.dtype(
    [
        ("ns", "u8"),
        ("tgid", "u4"),
        ("tid", "u4"),
        ("amount", "u4"),
        ("reclaimed", "u4"),
        ("node", "u2"),
        ("kind", "u1"),
        ("edge", "u1"),
    ]
)

ROW_TYPE = RowType(ROW)
