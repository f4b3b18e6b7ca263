"""The programs that walk through the page cache."""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum

from memtap.bpf.plan import Plan, Probe, Variant


class Step(IntEnum):
    """How a step of the walk ended, also in the C program."""

    GOING = 0  # there is more
    ENDED = 1
    LOST = 2  # the inode where it stopped is no longer on its list


class FileFlag(IntEnum):
    """Flags of a file, also in the C program."""

    DELETED = 1
    NAMELESS = 2  # no dentry of it is in memory
    TITLED = 4  # it is in no directory, but has a name


# The functions that user space runs.
SUPERS, WALK, NAMES = "on_supers", "on_walk", "on_names"
OPEN, MAPPED = "on_open", "on_mapped"

# A macro: look at every folio, for its LRU list and the cgroup that it is charged to.
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
            notes=("by process: files that a process has mapped, but not open, are missing",),
        ),
    ),
    words=(Step, FileFlag),
)
