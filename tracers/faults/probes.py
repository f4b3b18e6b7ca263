"""Page faults: the probes, and the kinds and marks of their events."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from memtap.bpf.plan import Plan, Probe, Variant


class Kind(IntEnum):
    """What an event says about an exception, a thread or a process."""

    RAISED = 1  # an exception
    MINOR = 2  # it was completed, as the kernel itself decided
    MAJOR = 3
    BAD = 4  # it cannot be completed: the task gets a SIGSEGV or SIGBUS
    SWAPPED = 5  # it takes an entry out of swap
    THREAD = 6  # not of an exception: a thread begins, with its stack's top at `address`
    WAITED = 7  # it had to wait for I/O, until the event's time
    MOVED = 8  # mremap(2) maps `seen` pages at `address`: what was at `ip` before
    SHARES = 9  # not of an exception: a process begins, in the address space of process `address`
    SLEPT = 10  # it sleeps interruptibly


# Kinds from here on are system calls; see malloc.probes.Call.
FIRST_CALL = 16


class Mark(IntFlag):
    """What else is known of an exception."""

    PRESENT = 1  # of the error code, PF_PROT: the page was there and did not allow it
    JOINABLE = 1  # of THREAD: the kernel reports its end to the process, as C libraries want it
    OF_ONE = 1  # of MOVED: one mapping, and what it maps is known
    WRITE = 2  # of the error code, PF_WRITE
    OF_FILE = 2  # of MOVED, with OF_ONE: it maps a file
    KERNEL = 4  # taken in the kernel: a system call touched memory of the process
    STACK = 8  # near the stack pointer, and above it
    HEAP = 16  # below the program break, and above where it began
    UNMAPPED = 32  # of BAD: nothing is mapped there (SEGV_MAPERR)
    UNTIMED = 64  # set in user space: it was raised later than its event says


# The probe that times minor faults. It costs more than all others together, so in a storm of faults
# it rests; see enrich.py.
TIMING = "on_minor"

# A macro of the C program: take the user stack of each exception, and keep this many stacks.
STACKS = "STACKS 16384"

# The function that reports pages from swap; attached only where there is swap.
SWAP = "on_rss"

# The function that reports that a task waited for I/O, or for a handler of userfaultfd(2). If it
# waited in a fault, the cause is `file-wait` or `userfault`.
WAITING = "on_switch"

# The iterator over the memory that userfaultfd(2) watches; see userfault.py.
WATCHED = "on_vma"

# The tracepoints of exceptions fire with interrupts off; those of signals, rss_stat and
# sched_switch with a spinlock held; perf events with preemption off. No other task can preempt
# these, so they need no standby.
_ENDS = (
    Probe(TIMING, "software", ("minor-faults",)),
    Probe("on_major", "software", ("major-faults",)),
    Probe("on_signal", "tp_btf", ("signal_generate",)),
    Probe("on_thread", "tp_btf", ("task_newtask",), standby="preempted"),
    Probe(WAITING, "tp_btf", ("sched_switch",)),
    Probe("on_mapping", "tp_btf", ("ma_write", "sys_exit"), standby="preempted"),
    Probe(SWAP, "tp_btf", ("rss_stat",), wanted=lambda kernel: kernel.has_swap),
    Probe(WATCHED, "iter", ("task_vma",), wanted=lambda kernel: kernel.iterates_tasks),
)

# The variant that sees only completed faults.
COUNTS = "counts"

# Where the kernel has found the mapping of a fault.
_HANDLED = "handle_mm_fault"
_HANDLED_NOTES = (
    "this kernel has no tracepoint where a fault is raised: times are without what comes before "
    f"{_HANDLED}(), and in anonymous memory a copy cannot be told from a first touch",
)

PLAN = Plan(
    "faults",
    (
        # Only some architectures have tracepoints where a fault is raised; arm64 has none.
        Variant(
            "exceptions",
            "exact",
            (
                Probe("on_user_fault", "tp_btf", ("page_fault_user",)),
                Probe("on_kernel_fault", "tp_btf", ("page_fault_kernel",), reads_user=True),
                *_ENDS,
            ),
        ),
        Variant(
            "function",
            "exact",
            (Probe("on_handled", "fentry", (_HANDLED,), standby="preempted"), *_ENDS),
            notes=_HANDLED_NOTES,
        ),
        Variant(
            "kprobe",
            "exact",
            (Probe("on_handled", "kprobe", (_HANDLED,)), *_ENDS),
            ("HANDLED_BY_KPROBE", "UNTYPED_POINTERS"),
            notes=_HANDLED_NOTES,
        ),
        Variant(
            COUNTS,
            "exact",
            _ENDS,
            ("ENDS_ALONE",),
            notes=(
                "this kernel has no tracepoint where a fault is raised: no times, and in anonymous "
                "memory neither a read nor a copy can be told from a first touch",
            ),
        ),
    ),
    words=(Kind, Mark),
    mappings=True,
    wakeup=16,
    least_mib=72,
)
