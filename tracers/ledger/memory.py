"""The kernel's counters of memory, from /proc and /sys, as close to one moment as possible."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from mmap import PAGESIZE
from pathlib import Path

from memtap.bpf.errors import MemtapError
from memtap.tracers.host.counters import Counters, all_vmstat, meminfo

# Hundreds of MiB of pages move between the zones' free lists and those of CPUs. One file has both,
# and another file everything else. So both files are read up to this often, until they agree.
_TRIES = 8
_NEAR_PAGES = 256

# In /proc/zoneinfo; the counters of a node are in its first zone; `count` is what a CPU keeps free.
_LISTED = (
    "nr_inactive_anon",
    "nr_active_anon",
    "nr_inactive_file",
    "nr_active_file",
    "nr_unevictable",
    "nr_isolated_anon",
    "nr_isolated_file",
)
_ZONE = re.compile(r"^ +(?:pages )?(count:|\w+) +(\d+)$", re.MULTILINE)

# Kernels with their stacks in vmalloc memory have this function.
_STACKS_IN_VMALLOC = b" free_vm_stack_cache"


@dataclass(frozen=True)
class Zones:
    """The sums of /proc/zoneinfo over all zones, in pages.

    Attributes:
        free: in the free lists of zones.
        on_cpus: free, in a CPU's own list.
        listed: on the LRU lists, the unevictable one included.
        present: all pages, without holes.
        managed: pages that the kernel did not reserve when it booted.
    """

    free: int
    on_cpus: int
    listed: int
    present: int
    managed: int


@dataclass(frozen=True)
class Pool:
    """Swap in memory, in bytes: `stored` is the content, `taken` its compressed size."""

    stored: int
    taken: int


@dataclass(frozen=True)
class Memory:
    """The kernel's counters.

    Attributes:
        kib: /proc/meminfo, in KiB.
        pages: /proc/vmstat.
        zones: /proc/zoneinfo.
        sockets: what sockets hold, in bytes.
        zram: all zram devices together.
        huge_free: free huge pages of all sizes, in bytes.
        stacks_in_vmalloc: whether kernel stacks are also in vmalloc.
    """

    kib: Counters
    pages: Counters
    zones: Zones
    sockets: int
    zram: Pool
    huge_free: int
    stacks_in_vmalloc: bool

    @property
    def total(self) -> int:
        """MemTotal in bytes."""
        return self.bytes("MemTotal")

    def bytes(self, *names: str) -> int:
        """The sum of fields of /proc/meminfo, in bytes; a field that this kernel lacks counts 0."""
        return sum(self.kib.get(name, 0) for name in names) << 10

    def page_bytes(self, name: str) -> int:
        """A counter of /proc/vmstat that is in pages, in bytes."""
        return self.pages.get(name, 0) * PAGESIZE


def look(root: Path = Path("/")) -> Memory:
    """The counters now; of several reads, the one whose files agree most on what is free.

    Raises MemtapError where the files that all kernels have cannot be read.
    """
    try:
        return _look(root)
    except OSError as error:
        what = f"{error.filename} cannot be read: {error.strerror}"
        raise MemtapError(what, "run it on the host itself, not in a sandbox") from error


def _look(root: Path) -> Memory:
    tries = (_try(root) for _ in range(_TRIES))
    kib, zones = min(_until_near(tries), key=_apart)
    return Memory(
        kib=kib,
        pages=all_vmstat(root),
        zones=zones,
        sockets=_sockets(root),
        zram=_zram(root),
        huge_free=_huge_free(root),
        stacks_in_vmalloc=_has_stacks_in_vmalloc(root, kib),
    )


def _try(root: Path) -> tuple[Counters, Zones]:
    kib = meminfo(root)
    return kib, zones_of((root / "proc/zoneinfo").read_text())


def _until_near(tries: Iterable[tuple[Counters, Zones]]) -> Iterable[tuple[Counters, Zones]]:
    for each in tries:
        yield each
        if _apart(each) <= _NEAR_PAGES:
            return


def _apart(look: tuple[Counters, Zones]) -> int:
    kib, zones = look
    return abs((kib["MemFree"] << 10) // PAGESIZE - zones.free)


def zones_of(zoneinfo: str) -> Zones:
    """The sums over the text of /proc/zoneinfo."""
    sums: Counters = {}
    for name, pages in _ZONE.findall(zoneinfo):
        sums[name] = sums.get(name, 0) + int(pages)
    return Zones(
        free=sums["free"],
        on_cpus=sums.get("count:", 0),
        listed=sum(sums.get(name, 0) for name in _LISTED),
        present=sums["present"],
        managed=sums["managed"],
    )


def _sockets(root: Path) -> int:
    """From /proc/net/sockstat: `mem` is in pages, and `memory` (of fragments) in bytes."""
    text = "".join(map(_text, (root / "proc/net/sockstat", root / "proc/net/sockstat6")))
    pages = sum(map(int, re.findall(r" mem (\d+)", text)))
    return pages * PAGESIZE + sum(map(int, re.findall(r" memory (\d+)", text)))


def _zram(root: Path) -> Pool:
    """From mm_stat: the first number is the stored size, the third the memory it takes."""
    found = [_text(path).split() for path in (root / "sys/block").glob("zram*/mm_stat")]
    devices = [stat for stat in found if stat]
    return Pool(sum(int(stat[0]) for stat in devices), sum(int(stat[2]) for stat in devices))


def _huge_free(root: Path) -> int:
    free = 0
    for pool in (root / "sys/kernel/mm/hugepages").glob("hugepages-*kB"):
        kib = int(pool.name.removeprefix("hugepages-").removesuffix("kB"))
        free += int(_text(pool / "free_hugepages") or 0) * kib << 10
    return free


def _has_stacks_in_vmalloc(root: Path, kib: Counters) -> bool:
    """Whether CONFIG_VMAP_STACK is set; if unknown, assumes so if the stacks fit in vmalloc."""
    try:
        return _has_function(root)
    except OSError:
        return kib["VmallocUsed"] >= kib["KernelStack"]


@cache
def _has_function(root: Path) -> bool:
    """Whether /proc/kallsyms has it; cached, as kallsyms is long and this does not change."""
    return _STACKS_IN_VMALLOC in (root / "proc/kallsyms").read_bytes()


def _text(path: Path) -> str:
    """The text of a file; empty if this kernel has no such file, or we may not read it."""
    try:
        return path.read_text()
    except OSError:
        return ""
