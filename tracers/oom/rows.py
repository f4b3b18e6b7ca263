"""The rows that reports of the OOM killer are made of: victims, and who else it could have been."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers.model.labels import Word
from memtap.tracers.model.tracer import RowType


class Kind(IntEnum):
    """What a row is about."""

    VICTIM = 1
    CANDIDATE = 2  # a process that lived when somebody else was killed


class Constraint(Word):
    """Why memory was short: enum oom_constraint of the kernel, by what it limits."""

    UNKNOWN = 0
    GLOBAL = 1
    CPUSET = 2
    MEMPOLICY = 3
    MEMCG = 4


# Sizes are bytes. Of a candidate, `trigger` is the victim; `scope` is what the memory that was
# short has in all (0: not known), swap included; `known` tells whether the sizes are.
ROW = np.dtype(
    [
        ("ns", "u8"),
        ("tgid", "u4"),
        ("trigger", "u4"),
        ("uid", "u4"),
        ("adj", "i4"),
        ("kind", "u1"),
        ("constraint", "u1"),
        ("known", "u1"),
        ("total_vm", "u8"),
        ("anon", "u8"),
        ("file", "u8"),
        ("shmem", "u8"),
        ("swap", "u8"),
        ("pgtables", "u8"),
        ("scope", "u8"),
    ]
)


def are_possible(rows: Events) -> bool:
    """Whether the numbers of words are such."""
    return bool((rows["constraint"] <= max(Constraint)).all())


ROW_TYPE = RowType(
    ROW,
    counts=("total_vm", "anon", "shmem", "swap", "pgtables", "scope"),
    are_possible=are_possible,
)
