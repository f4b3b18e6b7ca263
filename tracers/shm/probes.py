"""Shared memory: the probes, and the kinds of their events."""

from __future__ import annotations

from enum import IntEnum

from memtap.bpf.plan import Plan, Probe, Variant


class Kind(IntEnum):
    """What is done to a segment, also in the C program."""

    GREW = 1
    FREED = 2
    CREATED = 3
    ATTACHED = 4


# What user space asks the C program to look at; see on_task().
LOOK = "on_task"

# In /proc/vmstat: pages of shared memory now; pages swapped out, swapped in, and moved.
VMSTAT = ("nr_shmem", "pswpin", "pswpout", "pgmigrate_success")

PLAN = Plan(
    "shm",
    (
        Variant(
            "pages",
            "exact",
            (
                Probe(
                    "on_alloc",
                    "tp_btf",
                    ("mm_page_alloc",),
                    standby="preempted",
                    is_event=False,  # it cannot run in interrupts, which get no such pages
                ),
                Probe("on_listed", "tp_btf", ("mm_lru_insertion",), standby="preempted"),
                Probe(
                    "on_delete",
                    "tp_btf",
                    ("mm_filemap_delete_from_page_cache",),
                    standby="preempted",
                ),
                Probe(
                    "on_mapping",
                    "tp_btf",
                    ("ma_write",),
                    standby="preempted",
                    wanted=lambda kernel: kernel.btf.has_raw_tracepoint("ma_write"),
                ),
                Probe("on_call", "tp_btf", ("sys_exit",), standby="preempted"),
                Probe(LOOK, "iter", ("task",), is_event=False),
            ),
        ),
    ),
    least_mib=72,
    words=(Kind,),
)
