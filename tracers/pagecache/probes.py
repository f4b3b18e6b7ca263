"""The page cache: the probes, and the kinds and flags of their events."""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum, IntFlag

from memtap.bpf.plan import Kind as ProbeKind
from memtap.bpf.plan import Plan, Probe, Variant


class Kind(IntEnum):
    """What happened to pages of files."""

    READ = 1  # pages asked for by a read-family call
    MAP = 2  # fault-around mapped cached pages in this window
    FAULT = 3  # a fault on this page
    ADD = 4  # a folio entered the cache
    DELETE = 5  # a folio left the cache
    DIRTY = 6  # a folio became dirty; writes reached these of its pages
    HITS = 7  # `pages` accesses, all hits, to any pages of the file
    WRITE = 8  # these pages were written to; it matters for those in dirty folios


class Flag(IntFlag):
    """What else is known of an event."""

    AGAIN = 1  # the same read or fault as an earlier event: no new accesses
    WANTED = 2  # ADD, MAP: a fault waits for the page at index + `call`
    DEVICE = 4  # a block device's own cache: metadata and buffers
    SPILLED = 8  # set in user space: a sum of events, their number in `index`
    # ADD: a write fills `whole` pages from index + `call` on; with UNSURE it is not known which, if
    # any.
    WRITTEN = 16
    REMOVED = 32  # DELETE: the file no longer has these pages
    SHORT = 32  # WRITE: these pages were announced as reached, but were not
    # DIRTY: other writes to the folio are not seen; READ, MAP: it may have begun with an earlier
    # page; HITS: pages are asked for, but it is not known which.
    UNSURE = 64
    OVER = 128  # READ: the call is done, no more events of it follow


def _probe(function: str, *targets: str, kind: ProbeKind = "tp_btf") -> Probe:
    return Probe(function, kind, targets, standby="preempted")


def _write(function: str, tracepoint: str) -> Probe:
    """A probe where a file system says what it writes; not all have one, nor do modules."""
    return replace(
        _probe(function, tracepoint),
        wanted=lambda kernel: kernel.btf.has_raw_tracepoint(tracepoint),
    )


_WRITES = (
    _write("on_write", "ext4_write_end"),
    _write("on_delayed_write", "ext4_da_write_end"),
    _write("on_iterate", "iomap_iter"),
)

_COMINGS_AND_GOINGS = (
    _probe("on_add", "mm_filemap_add_to_page_cache"),
    _probe("on_delete", "mm_filemap_delete_from_page_cache"),
    _probe("on_dirty", "writeback_dirty_folio", "writeback_dirty_page"),
)

# Probes for reads that are reported when they are done, where the kernel describes them.
_REQUESTS = (
    replace(
        _probe("on_ring_end", "io_uring_complete"),
        wanted=lambda kernel: kernel.btf.has_raw_tracepoint("io_uring_complete"),
    ),
    Probe(
        "on_ring_begin",
        "tp_btf",
        ("io_uring_submit_req",),
        wanted=lambda kernel: kernel.btf.has_raw_tracepoint("io_uring_submit_req"),
    ),
    replace(
        _probe("on_device_end", "block_rq_complete"),
        wanted=lambda kernel: kernel.btf.has_function("loop_process_work"),
    ),
)

# Since 2cb1e08985e3 splice looks pages up itself.
_SPLICE = "filemap_splice_read"

# For squashfs; see docs/pagecache.md. It cannot be known how many they are.
PAST_END_NOTE = (
    "squashfs is mounted: reads of its files beyond their end are not counted once the pages are "
    "cached, as the kernel tells nothing of them"
)

_MARKED = ("folio_mark_accessed", "mark_page_accessed")
_MARKED_NOTES = (
    "accesses are estimated: the kernel marks a folio as accessed once for several small reads",
    "page faults on file mappings are not seen",
)

PLAN = Plan(
    "pagecache",
    (
        # Since 6.12 the kernel has tracepoints where pages are looked up.
        Variant(
            "filemap",
            "exact",
            (
                _probe("on_read", "mm_filemap_get_pages"),
                _probe("on_map", "mm_filemap_map_pages"),
                _probe("on_fault", "mm_filemap_fault"),
                *_COMINGS_AND_GOINGS,
                *_WRITES,
                *_REQUESTS,
            ),
            ("ACCESS_BY_TRACEPOINTS",),
        ),
        # Before that, the functions that do the same.
        Variant(
            "functions",
            "exact",
            (
                _probe("on_read_end", "filemap_read", "generic_file_buffered_read", kind="fexit"),
                replace(
                    _probe("on_splice_end", _SPLICE, kind="fexit"),
                    wanted=lambda kernel: kernel.btf.has_function(_SPLICE),
                ),
                _probe("on_map_begin", "filemap_map_pages", kind="fentry"),
                _probe("on_fault_begin", "filemap_fault", kind="fentry"),
                *_COMINGS_AND_GOINGS,
                *_WRITES,
            ),
            ("ACCESS_BY_FUNCTIONS",),
        ),
        Variant(
            "kprobe",
            "estimated",
            (_probe("on_marked", *_MARKED, kind="kprobe"), *_COMINGS_AND_GOINGS),
            ("ACCESS_BY_KPROBE", "UNTYPED_POINTERS"),
            notes=_MARKED_NOTES,
        ),
    ),
    words=(Kind, Flag),
    own="report",
    least_mib=72,
)

# A macro of the C program: send the path of each file when it is first seen.
NAME_FILES = "NAME_FILES 1"
