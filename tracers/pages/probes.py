"""The buddy allocator: the probes."""

from __future__ import annotations

from memtap.bpf.plan import Plan, Probe, Variant

# A macro of the C program: count for each process.
BY_PROCESS = "BY_PROCESS 1"

# In /proc/vmstat: pages handed out, by zone, and pages that came back.
HANDED_OUT = ("pgalloc_dma", "pgalloc_dma32", "pgalloc_normal", "pgalloc_movable")
VMSTAT = (*HANDED_OUT, "pgfree")

PLAN = Plan(
    "pages",
    (
        Variant(
            "counters",
            "exact",
            (
                Probe("on_alloc", "tp_btf", ("mm_page_alloc",), standby="preempted"),
                Probe("on_free_pages", "tp_btf", ("mm_page_free",), standby="preempted"),
                Probe("on_fallback", "tp_btf", ("mm_page_alloc_extfrag",), standby="preempted"),
            ),
        ),
    ),
    least_mib=52,
)
