"""The account of the host: lines that add up to MemTotal, and others beside it.

The kernel's counters overlap, but here each page is in one line. Cached includes shared memory,
which we subtract; we subtract mapped pages from both. Pages in the swap cache are also in AnonPages
while a process maps them. Kernel stacks are also in vmalloc. The buffers of perf events are in no
counter of the kernel, so we add what is mapped of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from mmap import PAGESIZE

from memtap.tracers.ledger.memory import Memory
from memtap.tracers.ledger.spaces import Sums

UNEXPLAINED = "unexplained"
BESIDE = "beside"


@dataclass(frozen=True)
class Facts:
    """The input of an account."""

    memory: Memory
    sums: Sums


@dataclass(frozen=True)
class Line:
    """A line of the account.

    Attributes:
        group: its group: processes, cache, kernel, pools, free; `beside` if it is not part of
            MemTotal, or is in other lines already.
        name: of the line.
        source: the files and fields that it comes from.
        more: the command that shows more of it; "" if there is none.
        size: in bytes.
        since: a field of /proc/meminfo or /proc/vmstat without which it is not known; "" if every
            kernel has it.
    """

    group: str
    name: str
    source: str
    more: str
    size: Callable[[Facts], int]
    since: str = ""

    def is_known(self, memory: Memory) -> bool:
        """Whether this kernel reports it."""
        return not self.since or self.since in memory.kib or self.since in memory.pages


def _field(*names: str) -> Callable[[Facts], int]:
    return lambda facts: facts.memory.bytes(*names)


def _shmem_mapped(facts: Facts) -> int:
    """Mapped shared memory. Processes are read after the counters, so it may exceed Shmem."""
    return min(facts.sums.shmem, *(facts.memory.bytes(name) for name in ("Shmem", "Mapped")))


def _file_mapped(facts: Facts) -> int:
    """Mapped file pages, without those of block devices themselves, which are in Buffers."""
    files = facts.memory.bytes("Mapped") - _shmem_mapped(facts)
    return min(files, _files(facts))


def _files(facts: Facts) -> int:
    return facts.memory.bytes("Cached") - facts.memory.bytes("Shmem")


def _unmapped_anon(facts: Facts) -> int:
    """Anonymous pages on an LRU list that are neither in a file nor mapped by a process."""
    memory = facts.memory
    others = memory.bytes("AnonPages", "Cached", "Buffers")
    return max(0, memory.zones.listed * PAGESIZE - others)


def _swap_cache(facts: Facts) -> int:
    return min(facts.memory.bytes("SwapCached"), _unmapped_anon(facts))


def _vmalloc(facts: Facts) -> int:
    memory = facts.memory
    stacks = memory.bytes("KernelStack") if memory.stacks_in_vmalloc else 0
    return max(0, memory.bytes("VmallocUsed") - stacks)


_MEMINFO, _VMSTAT, _ZONES = "/proc/meminfo", "/proc/vmstat", "/proc/zoneinfo"

LINES = (
    Line("processes", "anon", f"{_MEMINFO} AnonPages", "ps", _field("AnonPages")),
    Line(
        "processes",
        "file-mapped",
        f"{_MEMINFO} Mapped, less shmem-mapped",
        "pmap PID",
        _file_mapped,
    ),
    Line("processes", "shmem-mapped", "/proc/PID/smaps_rollup Pss_Shmem", "shm", _shmem_mapped),
    Line(
        "cache",
        "file-unmapped",
        f"{_MEMINFO} Cached - Shmem, less file-mapped",
        "files",
        lambda facts: _files(facts) - _file_mapped(facts),
    ),
    Line(
        "cache",
        "shmem-unmapped",
        f"{_MEMINFO} Shmem, less shmem-mapped",
        "files -b mount",
        lambda facts: facts.memory.bytes("Shmem") - _shmem_mapped(facts),
    ),
    Line("cache", "buffers", f"{_MEMINFO} Buffers", "cachestat", _field("Buffers")),
    Line(
        "cache",
        "swap-cache",
        f"{_MEMINFO} SwapCached, as far as not mapped",
        "reclaim",
        _swap_cache,
    ),
    Line(
        "cache",
        "anon-unmapped",
        f"{_ZONES} LRU lists, less AnonPages, Cached, Buffers, swap-cache",
        "",
        lambda facts: _unmapped_anon(facts) - _swap_cache(facts),
    ),
    Line(
        "kernel",
        "slab-reclaimable",
        f"{_MEMINFO} SReclaimable",
        "slab",
        _field("SReclaimable"),
    ),
    Line("kernel", "slab-unreclaimable", f"{_MEMINFO} SUnreclaim", "slab", _field("SUnreclaim")),
    Line(
        "kernel",
        "other-reclaimable",
        f"{_MEMINFO} KReclaimable - SReclaimable",
        "",
        lambda facts: facts.memory.bytes("KReclaimable") - facts.memory.bytes("SReclaimable"),
    ),
    Line("kernel", "page-tables", f"{_MEMINFO} PageTables", "ps --wide", _field("PageTables")),
    Line(
        "kernel",
        "sec-page-tables",
        f"{_MEMINFO} SecPageTables",
        "",
        _field("SecPageTables"),
        since="SecPageTables",
    ),
    Line("kernel", "stacks", f"{_MEMINFO} KernelStack", "", _field("KernelStack")),
    Line("kernel", "vmalloc", f"{_MEMINFO} VmallocUsed, less stacks in it", "", _vmalloc),
    Line("kernel", "percpu", f"{_MEMINFO} Percpu", "", _field("Percpu")),
    Line(
        "kernel",
        "sockets",
        "/proc/net/sockstat, sockstat6: mem, memory",
        "",
        lambda facts: facts.memory.sockets,
    ),
    Line(
        "kernel",
        "rings",
        "/proc/PID/maps perf_event, io_uring, socket",
        "pmap PID",
        lambda facts: facts.sums.rings,
    ),
    Line(
        "kernel", "bounce", f"{_MEMINFO} Bounce, WritebackTmp", "", _field("Bounce", "WritebackTmp")
    ),
    Line(
        "kernel",
        "gpu",
        f"{_MEMINFO} GPUActive, GPUReclaim",
        "",
        _field("GPUActive", "GPUReclaim"),
        since="GPUActive",
    ),
    Line(
        "kernel",
        "memmap",
        f"{_VMSTAT} nr_memmap_pages",
        "",
        lambda facts: facts.memory.page_bytes("nr_memmap_pages"),
        since="nr_memmap_pages",
    ),
    Line(
        "pools",
        "hugetlb-used",
        f"{_MEMINFO} Hugetlb, less hugetlb-free",
        "ps --wide",
        lambda facts: facts.memory.bytes("Hugetlb") - facts.memory.huge_free,
    ),
    Line(
        "pools",
        "hugetlb-free",
        "/sys/kernel/mm/hugepages free_hugepages",
        "",
        lambda facts: facts.memory.huge_free,
    ),
    Line("pools", "zswap", f"{_MEMINFO} Zswap", "reclaim", _field("Zswap"), since="Zswap"),
    Line(
        "pools",
        "zram",
        "/sys/block/zram*/mm_stat mem_used_total",
        "reclaim",
        lambda facts: facts.memory.zram.taken,
    ),
    Line("free", "free", f"{_MEMINFO} MemFree", "pages", _field("MemFree")),
    Line(
        "free",
        "free-on-cpus",
        f"{_ZONES} pagesets: count",
        "pages",
        lambda facts: facts.memory.zones.on_cpus * PAGESIZE,
    ),
    Line("free", "unaccepted", f"{_MEMINFO} Unaccepted", "", _field("Unaccepted"), "Unaccepted"),
)

# Lines that explain the account, but are not part of it.
BESIDES = (
    Line(
        BESIDE,
        "kernel-reserved",
        f"{_ZONES} present - managed",
        "",
        lambda facts: (facts.memory.zones.present - facts.memory.zones.managed) * PAGESIZE,
    ),
    Line(
        BESIDE,
        "memmap-at-boot",
        f"{_VMSTAT} nr_memmap_boot_pages",
        "",
        lambda facts: facts.memory.page_bytes("nr_memmap_boot_pages"),
        since="nr_memmap_boot_pages",
    ),
    Line(BESIDE, "balloon", f"{_MEMINFO} Balloon", "", _field("Balloon"), since="Balloon"),
    Line(BESIDE, "available", f"{_MEMINFO} MemAvailable", "", _field("MemAvailable")),
    Line(
        BESIDE, "dirty", f"{_MEMINFO} Dirty, Writeback", "cachestat", _field("Dirty", "Writeback")
    ),
    Line(BESIDE, "unevictable", f"{_MEMINFO} Unevictable", "", _field("Unevictable")),
    Line(
        BESIDE,
        "swap-used",
        f"{_MEMINFO} SwapTotal - SwapFree",
        "ps --wide",
        lambda facts: facts.memory.bytes("SwapTotal") - facts.memory.bytes("SwapFree"),
    ),
    Line(BESIDE, "zswap-stored", f"{_MEMINFO} Zswapped", "", _field("Zswapped"), since="Zswapped"),
    Line(
        BESIDE,
        "zram-stored",
        "/sys/block/zram*/mm_stat orig_data_size",
        "",
        lambda facts: facts.memory.zram.stored,
    ),
)

_REST = Line(UNEXPLAINED, UNEXPLAINED, f"{_MEMINFO} MemTotal, less all above", "", lambda _: 0)


def untold(memory: Memory) -> list[str]:
    """The lines that this kernel does not report."""
    return [line.name for line in (*LINES, *BESIDES) if not line.is_known(memory)]


def account(facts: Facts) -> list[tuple[Line, int]]:
    """The lines with their sizes: those that add up to MemTotal, the rest, and those beside."""
    memory = facts.memory
    parts = [(line, line.size(facts)) for line in LINES if line.is_known(memory)]
    rest = memory.total - sum(size for _, size in parts)
    besides = [(line, line.size(facts)) for line in BESIDES if line.is_known(memory)]
    return [*parts, (_REST, rest), *besides]
