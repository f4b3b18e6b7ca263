"""Reclaim, compaction and swap: the probes, and the kinds of their events."""

from __future__ import annotations

from enum import IntEnum

from memtap.bpf.plan import Plan, Probe, Variant


class Kind(IntEnum):
    """What happens when memory is short."""

    DIRECT = 1  # reclaim of the host's memory by a task that needs some; begins and ends
    MEMCG = 2  # the same for a cgroup's memory, as its limit is reached
    NODE = 3  # the same for one node's (vm.zone_reclaim_mode)
    COMPACTION = 4  # of one zone
    KSWAPD = 5  # it is awake
    SHRINK = 6  # pages were looked at
    SLAB = 7  # objects of a kernel cache were freed
    THROTTLED = 8  # a reclaimer was throttled
    SWAP_IN = 9  # pages are read from swap
    SWAP_OUT = 10  # pages are written to it


class Edge(IntEnum):
    """The member `edge` of an event: whether it begins or ends a span."""

    BEGINS = 1
    ENDS = 2


# Spans in which a task that needs memory reclaims some itself.
STALLS = (Kind.DIRECT, Kind.MEMCG, Kind.NODE)


def _where_there_is(function: str, tracepoint: str) -> Probe:
    """A probe that not every kernel has."""
    return Probe(
        function,
        "tp_btf",
        (tracepoint,),
        standby="preempted",
        wanted=lambda kernel: kernel.btf.has_raw_tracepoint(tracepoint),
    )


_PROBES = (
    Probe("on_direct_begin", "tp_btf", ("mm_vmscan_direct_reclaim_begin",), standby="preempted"),
    Probe("on_direct_end", "tp_btf", ("mm_vmscan_direct_reclaim_end",), standby="preempted"),
    _where_there_is("on_memcg_begin", "mm_vmscan_memcg_reclaim_begin"),
    _where_there_is("on_memcg_end", "mm_vmscan_memcg_reclaim_end"),
    _where_there_is("on_node_begin", "mm_vmscan_node_reclaim_begin"),
    _where_there_is("on_node_end", "mm_vmscan_node_reclaim_end"),
    _where_there_is("on_compaction_begin", "mm_compaction_begin"),
    _where_there_is("on_compaction_end", "mm_compaction_end"),
    Probe("on_kswapd_wake", "tp_btf", ("mm_vmscan_kswapd_wake",), standby="preempted"),
    Probe("on_kswapd_sleep", "tp_btf", ("mm_vmscan_kswapd_sleep",), standby="preempted"),
    Probe("on_shrink", "tp_btf", ("mm_vmscan_lru_shrink_inactive",), standby="preempted"),
    _where_there_is("on_reclaim", "mm_vmscan_reclaim_pages"),
    Probe("on_slab", "tp_btf", ("mm_shrink_slab_end",), standby="preempted"),
    _where_there_is("on_throttled", "mm_vmscan_throttled"),
    _where_there_is("on_bio", "block_bio_queue"),
)


def _where_pages_go_without_bio(function: str, target: str) -> Probe:
    """A probe for swap that block_bio_queue does not see."""
    return Probe(
        function,
        "fexit",
        (target,),
        standby="preempted",
        wanted=lambda kernel: kernel.btf.has_function(target),
    )


_WITHOUT_BIO = (
    _where_pages_go_without_bio("on_page_read", "bdev_read_page"),
    _where_pages_go_without_bio("on_page_written", "bdev_write_page"),
)

PLAN = Plan(
    "reclaim",
    (
        Variant("vmscan", "exact", (*_PROBES, *_WITHOUT_BIO)),
        Variant("bios", "exact", _PROBES, notes=("swap in memory (zram) may not be seen",)),
    ),
    words=(Kind, Edge),
    least_mib=68,
)
