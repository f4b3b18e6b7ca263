"""malloc: the variants of page faults, and the system calls by which memory comes and goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import IntEnum, IntFlag

from memtap.bpf.plan import Plan, Probe
from memtap.tracers.faults import probes as faultplan


class Call(IntEnum):
    """System calls by which memory comes and goes.

    They are kinds of events and rows, behind those of faults. An mremap(2) is two of them.
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
    TELLS_THRESHOLD = 2  # the C library's threshold by then was read
    REFUSED = 4  # it failed; of brk(2), the break is not what was wanted
    ASKS = 8  # brk(0): where is the break?
    BY_LOADER = 16  # set in user space: the dynamic loader made it
    BY_OTHERS = 32  # likewise: neither did malloc


_CALLS = Probe("on_call", "tp_btf", ("sys_exit",), standby="preempted")

# Functions of a library, and those of the C program that count them. All but malloc and free may
# call others of them.
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

# C++'s operators new, where an allocator has its own: others call malloc.
NEW = ("_Znwm", "_Znam", "_ZnwmRKSt9nothrow_t", "_ZnamRKSt9nothrow_t")
NEW_ALIGNED = tuple(name.replace("m", "mSt11align_val_t", 1) for name in NEW)

# What sees that such a function returns.
RETURNED = "on_returned"

# A macro of the C program: send the stacks of calls, for their sites.
FRAMES = "FRAMES 1"


def huge_pages(meminfo: Mapping[str, int]) -> str:
    """A macro of the C program: the size of huge pages of which no size is asked for.

    `meminfo` is /proc/meminfo, in KiB; where nothing is told of them there are none.
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
    """The plan that also counts what is asked of malloc, at breakpoints in one process."""
    functions = dict.fromkeys([*REQUESTS.values(), RETURNED])
    at = tuple(Probe(each, "uprobe", (each.removeprefix("on_"),)) for each in functions)
    variants = tuple(
        replace(variant, probes=(*variant.probes, *at), defines=(*variant.defines, "REQUESTS"))
        for variant in plan.variants
    )
    return replace(plan, variants=variants)
