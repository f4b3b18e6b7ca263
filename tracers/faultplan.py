"""Page faults: where the kernel is asked, and the words of its answers."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from memtap.bpf.plan import Plan, Probe, Way


class Kind(IntEnum):
    """`enum kind` of the C program."""

    MINOR = 1
    MAJOR = 2
    BAD = 3


class Mark(IntFlag):
    """`enum mark` of the C program."""

    TIMED = 1
    KERNEL = 2
    HUGE = 4
    SWAPPED = 8
    SLOW = 16
    STACK = 32
    NUMA = 64


class Error(IntFlag):
    """The error code of the exception, enum x86_pf_error_code of the kernel."""

    PRESENT = 1
    WRITE = 2


_COUNTS = (
    Probe("on_minor", "software", ("minor-faults",)),
    Probe("on_major", "software", ("major-faults",)),
    Probe("on_alloc", "tp_btf", ("mm_page_alloc",)),
    Probe("on_rss", "tp_btf", ("rss_stat",)),
    Probe("on_signal", "tp_btf", ("signal_generate",)),
    Probe("on_thread", "tp_btf", ("task_newtask",)),
)

PLAN = Plan(
    "faults",
    (
        # Only some architectures have tracepoints where a fault is raised; arm64 has none.
        Way(
            "exceptions",
            "exact",
            (
                Probe("on_user_fault", "tp_btf", ("page_fault_user",)),
                Probe("on_kernel_fault", "tp_btf", ("page_fault_kernel",)),
                *_COUNTS,
            ),
        ),
        Way(
            "counts",
            "exact",
            _COUNTS,
            notes=(
                "this kernel has no tracepoint where a fault is raised: no times, and a read of "
                "untouched memory cannot be told from a write",
            ),
        ),
    ),
    mappings=True,
)
