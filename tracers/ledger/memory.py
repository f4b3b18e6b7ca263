"""What the kernel counts of its memory, from /proc and /sys, as nearly at one moment as it goes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from mmap import PAGESIZE
from pathlib import Path

from memtap.bpf.errors import MemtapError
from memtap.tracers.host.counters import Counters, all_vmstat, meminfo

# Pages go from the free lists of all to those of a CPU by hundreds of MiB, and the two are told by
# one file, and everything else by another. So often they are read, until both tell the same.
_TRIES = 8
_NEAR_PAGES = 256

# In /proc/zoneinfo: those of a node stand in its first zone; `count` is what a CPU keeps free.
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

# Kernels that have their stacks in what vmalloc takes have this function.
_STACKS_IN_VMALLOC = b" free_vm_stack_cache"


@dataclass(frozen=True)
class Zones:
    """The sums of /proc/zoneinfo over all zones, in pages.

    Attributes:
        free: in the free lists of all.
        on_cpus: free, in a list of one CPU's own.
        listed: on the lists of what can be reclaimed, and of what cannot.
        present: all that there is, but holes.
        managed: what of that the kernel did not keep for itself when it started.
    """

    free: int
    on_cpus: int
    listed: int
    present: int
    managed: int


@dataclass(frozen=True)
class Pool:
    """Swap in memory. `stored` and `taken` in bytes: what it is, and what it takes compressed."""

    stored: int
    taken: int


@dataclass(frozen=True)
class Memory:
    """What the kernel counts.

    Attributes:
        kib: /proc/meminfo, in KiB.
        pages: /proc/vmstat.
        zones: /proc/zoneinfo.
        sockets: what sockets hold, in bytes.
        zram: all of its devices.
        huge_free: free huge pages of all sizes, in bytes.
        stacks_in_vmalloc: whether kernel stacks are in what vmalloc takes as well.
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
        """The sum of fields of /proc/meminfo; one that this kernel lacks is nothing."""
        return sum(self.kib.get(name, 0) for name in names) << 10

    def page_bytes(self, name: str) -> int:
        """The same of a counter of /proc/vmstat in pages."""
        return self.pages.get(name, 0) * PAGESIZE


def look(root: Path = Path("/")) -> Memory:
    """What is counted now; of several looks, the one whose files agree most on what is free.

    Raises MemtapError where a host does not show the files that all kernels have.
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
    """Of mm_stat the first is what is stored, and the third what it takes."""
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
    """CONFIG_VMAP_STACK; where nobody tells, they are there if they find room in it."""
    try:
        return _has_function(root)
    except OSError:
        return kib["VmallocUsed"] >= kib["KernelStack"]


@cache
def _has_function(root: Path) -> bool:
    """Functions are many, and stay as they are."""
    return _STACKS_IN_VMALLOC in (root / "proc/kallsyms").read_bytes()


def _text(path: Path) -> str:
    """All of a file; nothing if this kernel has no such, or keeps it from us."""
    try:
        return path.read_text()
    except OSError:
        return ""
