"""The slab allocator: the probes."""

from __future__ import annotations

from dataclasses import replace

from memtap.bpf.kernel import Kernel
from memtap.bpf.plan import Kind, Plan, Probe, Variant

# Macros of the C program: count by the code that allocated, by process.
BY_SITE = "BY_SITE 1"
BY_PROCESS = "BY_PROCESS 1"

# Remember when, by which process and by which stack each object was allocated.
LEAKS = "LEAKS 1"
STACKS = "STACKS 16384"

# How many objects are remembered at a time, each with some 100 bytes.
OBJECTS = 1 << 18

# In /proc/vmstat: pages of slabs, in caches that can be shrunk and in others.
VMSTAT = ("nr_slab_reclaimable", "nr_slab_unreclaimable")

# Since 2c1d697fb8ba the tracepoints of caches have the cache.
_CACHE = (2, "kmem_cache")
_PROBES = (
    Probe("on_kmalloc", "tp_btf", ("kmalloc",), standby="always"),
    Probe("on_cache_alloc", "tp_btf", ("kmem_cache_alloc",), standby="always", takes=_CACHE),
    Probe("on_kfree", "tp_btf", ("kfree",), standby="always"),
    Probe("on_cache_free", "tp_btf", ("kmem_cache_free",), standby="always", takes=_CACHE),
)
# Typed programs may not read the address of an object on older kernels.
_RAW_PROBES = tuple(replace(probe, kind="raw_tp") for probe in _PROBES)

# Before 2c1d697fb8ba there were more tracepoints.
_OLD_PROBES = (
    *(replace(probe, takes=None) for probe in _RAW_PROBES),
    Probe("on_kmalloc_node", "raw_tp", ("kmalloc_node",)),
    Probe("on_cache_alloc_node", "raw_tp", ("kmem_cache_alloc_node",)),
)


def _loops(kernel: Kernel) -> bool:
    """Whether programs can have long loops (memtap/loops.h)."""
    return bool(kernel.btf.member("bpf_verifier_state", "may_goto_depth"))


def _drain(function: str, kind: Kind) -> Probe:
    """A probe where kfree_rcu() frees, one by one, objects that were counted before."""
    return Probe(
        function,
        kind,
        ("kfree_rcu_work",),
        is_event=False,
        wanted=lambda kernel: not _loops(kernel) and kernel.btf.has_function("kfree_rcu_work"),
    )


# Bulk allocations and frees have no tracepoint, only functions, which were renamed in 7bd230a26648.
# Where kfree_rcu() frees too many objects at once for a loop, each object is counted when it is
# passed to kfree_rcu(). Since ec66e0d59952 kfree_rcu() uses sheaves.
_FUNCTIONS = (
    Probe(
        "on_bulk_alloc",
        "fexit",
        ("kmem_cache_alloc_bulk", "kmem_cache_alloc_bulk_noprof"),
        standby="always",
    ),
    Probe("on_bulk_free", "fentry", ("kmem_cache_free_bulk",), standby="always"),
    Probe(
        "on_rcu_free",
        "fentry",
        ("kvfree_call_rcu",),
        standby="always",
        wanted=lambda kernel: not _loops(kernel),
    ),
    _drain("on_drain", "fentry"),
    _drain("on_drain_end", "fexit"),
    Probe(
        "on_sheaf_free",
        "fexit",
        ("__kfree_rcu_sheaf",),
        standby="always",
        wanted=lambda kernel: kernel.btf.has_function("__kfree_rcu_sheaf"),
    ),
)
# Where functions cannot be traced, the objects that kfree_rcu() frees can be read as its work
# begins.
_BATCHES = (
    Probe("on_work", "tp_btf", ("workqueue_execute_start",)),
    Probe("on_work_end", "tp_btf", ("workqueue_execute_end",)),
)
_OF_BATCHES = (
    ("bpf_verifier_state", "may_goto_depth"),
    ("kfree_rcu_cpu_work", "bulk_head_free"),
    ("kvfree_rcu_bulk_data", "records"),
)

# Caches that the kernel uses in bulk, besides kfree_rcu(): networks, io_uring, maple trees.
TREES = frozenset(("maple_node",))
IN_BULK = TREES | {"skbuff_head_cache", "io_kiocb"}

# The endings of the names of variants that do not see all bulk calls.
BATCHES, ALONE = "-batches", "-alone"


def _variants(best: Variant) -> tuple[Variant, ...]:
    """Variants of `best` that see bulk frees: first all of them, then kfree_rcu()'s, then none."""
    functions = replace(
        best, probes=(*best.probes, *_FUNCTIONS), defines=(*best.defines, "BULK_FUNCTIONS")
    )
    batches = replace(
        best,
        name=best.name + BATCHES,
        probes=(*best.probes, *_BATCHES),
        defines=(*best.defines, "RCU_BATCHES"),
        members=_OF_BATCHES,
        of_host="bounded",  # some process always uses maple trees
    )
    return functions, batches, replace(best, name=best.name + ALONE, accuracy="bounded")


PLAN = Plan(
    "slab",
    (
        *_variants(Variant("counters", "exact", _PROBES, calls=("bpf_get_kmem_cache",))),
        *_variants(
            Variant(
                "by-size",
                "exact",
                _RAW_PROBES,
                ("KMALLOC_BY_SIZE", "UNTYPED_POINTERS"),
                notes=(
                    "this kernel does not tell which cache kmalloc() takes: told apart by size; "
                    "and of what was there before, kfree() tells neither cache nor size",
                ),
            )
        ),
        *_variants(
            Variant(
                "all-by-size",
                "exact",
                _OLD_PROBES,
                ("KMALLOC_BY_SIZE", "UNTYPED_POINTERS", "CACHES_BY_SIZE"),
                notes=(
                    "this kernel does not tell of which cache an object is: told apart by size; "
                    "and of what was there before, it tells neither cache nor size",
                ),
            )
        ),
    ),
    own="rows",  # the task that frees an object is mostly not the one that allocated it
    least_mib=88,
)


def objects(most: int = OBJECTS) -> str:
    """The macro of the C program that sets how many objects are remembered."""
    return f"OBJECTS {most}"
