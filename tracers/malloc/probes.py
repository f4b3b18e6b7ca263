"""malloc: the variants of page faults, and the system calls that map and unmap memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import IntEnum, IntFlag

from memtap.bpf.plan import Plan, Probe
from memtap.tracers.faults import probes as faultplan


class Call(IntEnum):
    """System calls that map and unmap memory.

    They are kinds of events and rows, numbered after those of faults. An mremap(2) is two events.
    """

    BRK = 16
    MMAP = 17
    MUNMAP = 18
    MOVED_FROM = 19
    MOVED_TO = 20
    MPROTECT = 21
    MADVISE = 22


class CallMark(IntFlag):
    """What else is known of a call."""

    IS_32_BIT = 1  # a 32-bit program made it
    TELLS_THRESHOLD = 2  # the C library's threshold was read at the call
    REFUSED = 4  # it failed; for brk(2), the break is not the one wanted
    ASKS = 8  # brk(0): where is the break?
    BY_LOADER = 16  # set in user space: the dynamic loader made it
    BY_OTHERS = 32  # likewise: neither did malloc


_CALLS = Probe("on_call", "tp_btf", ("sys_exit",), standby="preempted")

# Functions of a library, and the BPF functions that count their calls. All but malloc and free may
# call others of these.
REQUESTS = {
    "malloc": "on_malloc",
    "calloc": "on_calloc",
    "realloc": "on_realloc",
    "reallocarray": "on_reallocarray",
    "aligned_alloc": "on_aligned_alloc",
    "memalign": "on_aligned_alloc",
    "posix_memalign": "on_posix_memalign",
    "valloc": "on_valloc",
    "pvalloc": "on_valloc",
    "free": "on_free_block",
}
CALLS_NONE = ("on_malloc", "on_free_block")

# C++'s operators new, where an allocator has its own; elsewhere they call malloc.
NEW = ("_Znwm", "_Znam", "_ZnwmRKSt9nothrow_t", "_ZnamRKSt9nothrow_t")
NEW_ALIGNED = tuple(name.replace("m", "mSt11align_val_t", 1) for name in NEW)

# The BPF function that sees such a function return.
RETURNED = "on_returned"

# A macro of the C program: send the stacks of calls, for their sites.
FRAMES = "FRAMES 1"


def huge_pages(meminfo: Mapping[str, int]) -> str:
    """A macro of the C program: the default size of huge pages.

    `meminfo` is /proc/meminfo, in KiB; if it does not have the size, there are no huge pages.
    """
    return f"HUGE_SHIFT {meminfo.get('Hugepagesize', 2048).bit_length() + 9}"


PLAN = Plan(
    "malloc",
    tuple(
        replace(variant, probes=(*variant.probes, _CALLS)) for variant in faultplan.PLAN.variants
    ),
    words=(*faultplan.PLAN.words, Call, CallMark),
    mappings=True,
    wakeup=faultplan.PLAN.wakeup,
    least_mib=84,
)


def with_requests(plan: Plan) -> Plan:
    """The plan that also counts requests to malloc, at breakpoints in one process."""
    functions = dict.fromkeys([*REQUESTS.values(), RETURNED])
    at = tuple(Probe(each, "uprobe", (each.removeprefix("on_"),)) for each in functions)
    variants = tuple(
        replace(variant, probes=(*variant.probes, *at), defines=(*variant.defines, "REQUESTS"))
        for variant in plan.variants
    )
    return replace(plan, variants=variants)
