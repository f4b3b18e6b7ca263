"""The columns of the reports of malloc."""

from __future__ import annotations

from dataclasses import replace

from memtap.tracers.model.keys import COMM, PID, PROCESS
from memtap.tracers.model.report import Column, key_columns

# What identifies a row, by what the user groups by.
MALLOC_KEYS: dict[str, tuple[Column, ...]] = {
    "process": (
        *PROCESS,
        Column(
            "allocator",
            "ALLOCATOR",
            "text",
            table=False,
            help="which malloc it has: glibc, jemalloc, ...",
        ),
    ),
    "path": (
        Column(
            "path",
            "PATH",
            "text",
            help="brk (the heap), mmap (large blocks), arena (heaps of threads, grown by "
            "mprotect), other (files, stacks, the loader)",
        ),
    ),
    "site": (
        Column("site", "SITE", "path", help="the code that called malloc: function+offset object"),
    ),
    "comm": COMM,
}
_COUNTS = (
    Column("calls", "CALLS", help="system calls that went this way"),
    Column("requested_bytes", "REQ_KB", "kib", help="what the process got by them"),
    Column("returned_bytes", "RET_KB", "kib", help="what it gave back"),
    Column(
        "live_bytes",
        "LIVE_KB",
        "kib",
        help="what it holds, or held as it ended; a child begins with its parent's",
    ),
    Column("faults", "FAULTS", help="page faults on that memory"),
    Column("fault_time_ns", "FAULT_MS", "ms", unknown=True, help="the time they took"),
    Column("timed", "TIMED", table=False, help="of how many faults that time is"),
    Column(
        "threshold_bytes",
        "THRESHOLD",
        unknown=True,
        help="the smallest request that glibc would map on its own now",
    ),
)
_LIFE = Column(
    "life_ns",
    "LIFE_MS",
    "ms",
    unknown=True,
    help="how long it kept what was mapped, on average (by site)",
)

# Of the table that --heap adds, or is, where it has a name of its own; see heaps.py.
HEAPS_REPORT = "malloc-heaps"
HEAPS = (
    PID,
    *COMM,
    Column(
        "arena",
        "ARENA",
        "text",
        help="main, the number of a thread's as malloc_info(3) has it, or mmap: what is mapped on "
        "its own",
    ),
    Column("heap_bytes", "HEAP_KB", "kib", unknown=True, help="what it has got from the kernel"),
    Column("resident_bytes", "RSS_KB", "kib", unknown=True, help="what of it is in memory"),
    Column("used_bytes", "USED_KB", "kib", unknown=True, help="blocks that are in use"),
    Column(
        "stuck_bytes",
        "STUCK_KB",
        "kib",
        unknown=True,
        help="free, and yet stuck below a block that is used",
    ),
    Column(
        "top_bytes",
        "TOP_KB",
        "kib",
        unknown=True,
        help="free at its end, which malloc can give back",
    ),
    Column(
        "trim_bytes",
        "TRIM_KB",
        "kib",
        unknown=True,
        help="what malloc_trim(0) would give back of what is in memory",
    ),
    Column(
        "bound_bytes",
        "BOUND_KB",
        "kib",
        table=False,
        unknown=True,
        help="how far USED and STUCK may be off, as it changed while it was read",
    ),
    *(
        Column(f"{name}_bytes", f"{name.upper()}_KB", "kib", table=False, unknown=True, help=text)
        for name, text in (
            ("tcache", "what threads keep of it for themselves; neither in USED nor in STUCK"),
            ("fast", "of what is stuck: in fastbins"),
            ("unsorted", "... freed, and not sorted yet"),
            ("small", "... in lists of chunks below 1 KiB"),
            ("large", "... in lists of larger chunks"),
        )
    ),
    Column(
        "chunks", "CHUNKS", table=False, unknown=True, help="how many are free; of mmap, mapped"
    ),
    Column("threads", "THREADS", table=False, unknown=True, help="how many threads use it"),
    Column(
        "tunable",
        "TUNABLE",
        "text",
        table=False,
        unknown=True,
        help="the setting by which it keeps most of what is free",
    ),
    Column(
        "trim_threshold_bytes",
        "TRIM_THR",
        table=False,
        unknown=True,
        help="how large the end of the main heap gets before it is given back",
    ),
    Column(
        "mmap_threshold_bytes",
        "MMAP_THR",
        table=False,
        unknown=True,
        help="the smallest chunk that is mapped on its own",
    ),
    Column(
        "arena_max",
        "ARENA_MAX",
        table=False,
        unknown=True,
        help="how many arenas there may be; 0 for eight for each CPU",
    ),
    Column(
        "address", "ADDRESS", "hex", table=False, unknown=True, help="where it begins in memory"
    ),
)

TIMELINE = (
    Column("time_ns", "TIME_MS", "ms", help="since the first call"),
    replace(PID, table=False),
    Column("tid", "TID", help="the thread"),
    Column("path", "PATH", "text", help="which way it went"),
    Column("change_bytes", "BYTES", help="what the call got, or gave back"),
    Column("why", "WHY", "text", help="why malloc did that"),
)


def malloc_columns(by: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of a report grouped by these keys; a table of 80 has no room for all of two."""
    keys = key_columns(MALLOC_KEYS, by)
    if len(by) > 1:
        keys = tuple(replace(key, table=key.table and key.name != "user") for key in keys)
    if "site" not in by:
        return (*keys, *_COUNTS)
    # By site the table shows how long mappings are kept, instead of the process's threshold.
    counts = (replace(c, table=c.table and c.name != "threshold_bytes") for c in _COUNTS)
    return (*keys, *counts, _LIFE)
