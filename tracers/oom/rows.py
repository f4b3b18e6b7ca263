"""The rows that reports of the OOM killer are made of: victims and other candidates."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers.model.labels import Label
from memtap.tracers.model.tracer import RowType


class Kind(IntEnum):
    """What a row is about."""

    VICTIM = 1
    CANDIDATE = 2  # a process that was alive when another was killed


class Constraint(Label):
    """What was short of memory: the kernel's enum oom_constraint."""

    UNKNOWN = 0
    GLOBAL = 1
    CPUSET = 2
    MEMPOLICY = 3
    MEMCG = 4


# Sizes are bytes. For a candidate, `trigger` is the victim; `scope` is the total size of the memory
# that was short, swap included (0: not known); `known` is whether the sizes are known.
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
    """Whether all numbers that stand for labels are valid."""
    return bool((rows["constraint"] <= max(Constraint)).all())


ROW_TYPE = RowType(
    ROW,
    counts=("total_vm", "anon", "shmem", "swap", "pgtables", "scope"),
    are_possible=are_possible,
)
