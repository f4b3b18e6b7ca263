"""Page faults: where the kernel is asked, and the words of its answers."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from memtap.bpf.plan import Plan, Probe, Variant


class Kind(IntEnum):
    """`enum kind` of the C program."""

    RAISED = 1
    MINOR = 2
    MAJOR = 3
    BAD = 4
    SWAPPED = 5
    THREAD = 6
    WAITED = 7
    MOVED = 8
    SHARES = 9


# From here on a kind is a system call; see allocations.Call.
FIRST_CALL = 16


class Mark(IntFlag):
    """`enum mark` of the C program."""

    PRESENT = 1
    WRITE = 2
    KERNEL = 4
    STACK = 8
    HEAP = 16
    UNMAPPED = 32
    UNTIMED = 64


# Of a thread that begins: the kernel tells its process of its end (JOINABLE of the C program).
JOINABLE = Mark.PRESENT

# The probe that tells how long minor faults take. It costs more than all others together, so in a
# storm of faults it rests; see enrich.py.
TIMING = "on_minor"

# A macro of the C program: take the user stack of each exception, and keep so many.
STACKS = "STACKS 16384"

# Tells what comes out of swap; attached only where there is any.
SWAP = "on_rss"

# Tells that a task has waited for I/O; in a fault that is what `file-wait` is known by.
WAITING = "on_switch"

# Tells of what userfaultfd(2) watches, when it is asked; see userfault.py.
WATCHED = "on_vma"

# Exceptions are raised with interrupts off, signals, rss_stat and sched_switch told of with a
# spinlock held, and perf events with preemption off: there no other task can take its turn, and no
# standby is needed.
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

# The variant in which only completed faults are told.
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
    mappings=True,
    wakeup=16,
    least_mib=72,
)
