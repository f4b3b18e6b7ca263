"""The rows that reports of the slab allocator are counted from."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from memtap.tracers.model.tracer import RowType


class Kind(IntEnum):
    """What a row says."""

    COUNTED = 1  # allocs and frees of an owner
    KEPT = 2  # `allocs` objects that a stack allocated are still there; since `ns`


# An owner is a process, the code that allocated, and a cache; those that the query does not need
# are 0. `cache`, `site` and `stack` are numbers of texts. Bytes: asked for, allocated for that,
# freed.
ROW = np.dtype(
    [
        ("ns", "u8"),
        ("allocs", "u8"),
        ("frees", "u8"),
        ("requested", "u8"),
        ("allocated", "u8"),
        ("freed", "u8"),
        ("tgid", "u4"),
        ("cache", "u4"),
        ("site", "u4"),
        ("stack", "u4"),
        ("kind", "u1"),
    ]
)

ROW_TYPE = RowType(ROW, counts=("allocs", "frees", "requested", "allocated", "freed"))
