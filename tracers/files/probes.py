"""The page cache: where the kernel is asked what it holds."""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum

from memtap.bpf.plan import Plan, Probe, Variant


class Step(IntEnum):
    """How a step of the walk ended, also in the C program."""

    GOING = 0  # there is more
    ENDED = 1
    LOST = 2  # what it stood at is on its list no more


class FileFlag(IntEnum):
    """What is said of a file, also in the C program."""

    DELETED = 1
    NAMELESS = 2  # no dentry of it is in memory
    TITLED = 4  # it is in no directory, and has a name all the same


# What user space has the C program do.
SUPERS, WALK, NAMES = "on_supers", "on_walk", "on_names"
OPEN, MAPPED = "on_open", "on_mapped"

# Has it look at every folio: which list it is on, and whom it is charged to.
FOLIOS = "LOOK_AT_FOLIOS 1"

_INODES = Variant(
    "inodes",
    "bounded",
    (
        Probe(SUPERS, "demand", ("super_blocks",)),
        Probe(WALK, "demand", ("inodes",)),
        Probe(NAMES, "demand", ("dentries",)),
        Probe(OPEN, "iter", ("task_file",)),
    ),
    members=(
        ("super_block", "s_inodes"),
        ("inode", "i_sb_list"),
        ("xa_node", "nr_values"),
        ("mount", "mnt.mnt_sb"),
    ),
)

PLAN = Plan(
    "files",
    (
        replace(_INODES, probes=(*_INODES.probes, Probe(MAPPED, "iter", ("task_vma",)))),
        replace(
            _INODES,
            name="inodes-open",
            notes=("by process: who has a file mapped, and not open, is not told",),
        ),
    ),
    words=(Step, FileFlag),
)
