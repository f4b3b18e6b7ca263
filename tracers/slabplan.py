"""The slab allocator: where the kernel is asked."""

from __future__ import annotations

from dataclasses import replace

from memtap.bpf.plan import Plan, Probe, Way

# Macros of the C program: tell objects apart by the code that allocated them, by process.
BY_SITE = "BY_SITE 1"
BY_PROCESS = "BY_PROCESS 1"

# Remember when, by whom and by which stack each object was allocated.
LEAKS = "LEAKS 1"
STACKS = "STACKS 16384"

# So many objects are remembered at a time, each with some 100 bytes.
OBJECTS = 1 << 18

# Of /proc/vmstat: pages of slabs, those of caches that can be shrunk and others.
VMSTAT = ("nr_slab_reclaimable", "nr_slab_unreclaimable")

# Since 2c1d697fb8ba the tracepoints of caches tell which cache it is.
_CACHE = (2, "kmem_cache")
_PROBES = (
    Probe("on_kmalloc", "tp_btf", ("kmalloc",), spared="always"),
    Probe("on_cache_alloc", "tp_btf", ("kmem_cache_alloc",), spared="always", takes=_CACHE),
    Probe("on_kfree", "tp_btf", ("kfree",), spared="always"),
    Probe("on_cache_free", "tp_btf", ("kmem_cache_free",), spared="always", takes=_CACHE),
)
# Typed programs may not read the address of an object on older kernels.
_RAW_PROBES = tuple(replace(probe, kind="raw_tp") for probe in _PROBES)

# Before 2c1d697fb8ba there were more of them.
_OLD_PROBES = (
    *(replace(probe, takes=None) for probe in _RAW_PROBES),
    Probe("on_kmalloc_node", "raw_tp", ("kmalloc_node",)),
    Probe("on_cache_alloc_node", "raw_tp", ("kmem_cache_alloc_node",)),
)
_BULK = "what is allocated and freed in bulk is not seen: it has no tracepoint"

PLAN = Plan(
    "slab",
    (
        Way("counters", "exact", _PROBES, notes=(_BULK,), calls=("bpf_get_kmem_cache",)),
        Way(
            "by-size",
            "exact",
            _RAW_PROBES,
            ("KMALLOC_BY_SIZE", "UNTYPED_POINTERS"),
            notes=(
                _BULK,
                "this kernel does not tell which cache kmalloc() takes: told apart by size; and of "
                "what was there before, kfree() tells neither cache nor size",
            ),
        ),
        Way(
            "all-by-size",
            "exact",
            _OLD_PROBES,
            ("KMALLOC_BY_SIZE", "UNTYPED_POINTERS", "CACHES_BY_SIZE"),
            notes=(
                _BULK,
                "this kernel does not tell of which cache an object is: told apart by size; and of "
                "what was there before, it tells neither cache nor size",
            ),
        ),
    ),
)


def objects(most: int = OBJECTS) -> str:
    """The macro of the C program that tells how many objects are remembered."""
    return f"OBJECTS {most}"
