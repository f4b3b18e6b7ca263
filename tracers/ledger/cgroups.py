"""What cgroups are charged for, from the files of their memory controller, v1 or v2."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path

from memtap.bpf.errors import MemtapError
from memtap.bpf.filters import CgroupMount, cgroup_mounts
from memtap.tracers.host.counters import Counters
from memtap.tracers.host.hostile import printable
from memtap.tracers.ledger.memory import Memory
from memtap.tracers.model.report import Row, percentage

# Without a limit, v1 shows the largest number of pages that it can count: about this or more.
_NO_LIMIT = (1 << 63) - (1 << 20)

# Before 5.18, v2's memory.stat has no `kernel`; these are its parts.
_KERNEL = ("kernel_stack", "pagetables", "sec_pagetables", "percpu", "vmalloc", "slab")

# How container engines and systemd name their cgroups: patterns for the end of the path.
_ID = "([0-9a-f]{12})[0-9a-f]{52}"
_POD = re.compile(
    r"(?:^|[-/])pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})\b"
)
_NAMES = (
    (re.compile(rf"(?:^|/)docker[-/]{_ID}(?:\.scope)?$"), "docker"),
    (re.compile(rf"(?:^|/)(?:cri-containerd-|.*:cri-containerd:){_ID}(?:\.scope)?$"), "containerd"),
    (re.compile(rf"(?:^|/)crio-{_ID}(?:\.scope)?$"), "cri-o"),
    (re.compile(rf"(?:^|/)libpod-{_ID}(?:\.scope)?$"), "podman"),
    (re.compile(rf"pod[^/]*/{_ID}$"), "container"),
    (re.compile(r"(?:^|/)lxc(?:\.payload\.|/)([^/]+)$"), "lxc"),
    (re.compile(r"(?:^|/)([^/]+)\.(?:service|scope)$"), "unit"),
)

Stat = Callable[[Path, Memory], Row]


@dataclass(frozen=True)
class Hierarchy:
    """The hierarchy of the memory controller.

    Attributes:
        folder: the folder of its topmost visible cgroup.
        version: the version of cgroups, 1 or 2.
        is_whole: whether that cgroup is the root, which has no limit and is charged for nothing.
        gone: how many cgroups were removed and are still charged; None if each cgroup has this
            itself.
    """

    folder: Path
    version: int
    is_whole: bool
    gone: int | None


def hierarchy(root: Path = Path("/")) -> Hierarchy:
    """The hierarchy that has the memory controller. Raises MemtapError if none has."""
    for mount in cgroup_mounts((root / "proc/self/mountinfo").read_text(errors="replace")):
        folder = root / mount.path.relative_to("/")
        if _has_memory(mount, folder):
            version = 1 if mount.controllers else 2
            own = "cgroup.sane_behavior" if version == 1 else "memory.current"
            is_whole = (folder / own).exists() == (version == 1)
            gone = _gone(root, folder) if version == 1 and is_whole else None
            return Hierarchy(folder, version, is_whole, gone)
    hint = "boot without cgroup_disable=memory, or mount it: mount -t cgroup2 none /sys/fs/cgroup"
    raise MemtapError("no cgroup hierarchy that is mounted has the memory controller", hint)


def _has_memory(mount: CgroupMount, folder: Path) -> bool:
    return "memory" in (mount.controllers or _text(folder / "cgroup.controllers").split())


def _gone(root: Path, folder: Path) -> int | None:
    """With v1, the removed cgroups that /proc/cgroups still counts."""
    found = re.search(r"^memory\t\d+\t(\d+)", _text(root / "proc/cgroups"), re.MULTILINE)
    return max(0, int(found[1]) - sum(1 for _ in os.walk(folder))) if found else None


def rows(memory: Memory, where: Hierarchy, root: Path = Path("/")) -> list[Row]:
    """A row for each cgroup, followed by its children, the largest first; see columns.py."""
    return list(_below(where.folder, memory, where, root, depth=0))


def untold(where: Hierarchy) -> list[str]:
    """The parts of KERNEL that this kernel does not show; none where it shows their sum."""
    if where.version == 1:
        return []
    folders = (Path(folder) for folder, *_ in os.walk(where.folder))
    stats = (_numbers(_text(folder / "memory.stat")) for folder in folders)
    stat = next(filter(None, stats), {"kernel": 0})
    return [] if "kernel" in stat else [name for name in _KERNEL if name not in stat]


def _below(folder: Path, memory: Memory, where: Hierarchy, root: Path, depth: int) -> Iterator[Row]:
    """A cgroup and all below it; children are read first, so that their sum is not larger."""
    names = [entry.name for entry in _entries(folder) if entry.is_dir(follow_symlinks=False)]
    below = [
        found
        for name in names
        if (found := list(_below(folder / name, memory, where, root, depth + 1)))
    ]
    below.sort(key=lambda found: -(found[0]["size_bytes"] or 0))
    if depth == 0 and where.is_whole:
        row = _host(memory, where, root)
    else:
        row = (_of_v1 if where.version == 1 else _of_v2)(folder)
    if row["size_bytes"] is None:  # the cgroup is gone
        return
    inside = sum(found[0]["size_bytes"] for found in below)
    yield (
        _named(folder, where, depth)
        | row
        | {
            "own_bytes": row["size_bytes"] - inside,
            "share_pct": percentage(row["size_bytes"], memory.total),
        }
    )
    for found in below:
        yield from found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return []


def _named(folder: Path, where: Hierarchy, depth: int) -> Row:
    path = "/" + folder.relative_to(where.folder).as_posix().removeprefix(".")
    name = folder.name if depth else "/"
    return {
        "cgroup": printable(os.fsencode(path)),
        "name": printable(os.fsencode(name)),
        "called": printable(os.fsencode(called(path))) or None,
        "depth": depth,
    }


def called(path: str) -> str:
    """The container, pod or unit that a cgroup's path names; "" if it names none."""
    pod = _POD.search(path)
    name = f"pod {pod[1].replace('_', '-')}" if pod else ""
    for pattern, kind in _NAMES:
        if found := pattern.search(path):
            return f"{name} {kind} {found[1]}".strip()
    return name if pod and re.search(r"pod[^/]*$", path) else ""


def _host(memory: Memory, where: Hierarchy, root: Path) -> Row:
    """The root's row: all memory in use, charged to a cgroup or not."""
    free = memory.bytes("MemFree") + memory.zones.on_cpus * PAGESIZE
    slab, tables = memory.bytes("SReclaimable", "SUnreclaim"), memory.bytes("PageTables")
    stacks = 0 if memory.stacks_in_vmalloc else memory.bytes("KernelStack")
    return {
        "size_bytes": memory.total - free,
        "limit_bytes": None,
        "high_bytes": None,
        "anon_bytes": memory.bytes("AnonPages"),
        "file_bytes": memory.bytes("Cached", "Buffers") - memory.bytes("Shmem"),
        "shmem_bytes": memory.bytes("Shmem"),
        "kernel_bytes": slab + tables + stacks + memory.bytes("VmallocUsed", "Percpu"),
        "slab_bytes": slab,
        "sockets_bytes": memory.sockets,
        "pgtables_bytes": tables,
        "swap_bytes": memory.bytes("SwapTotal") - memory.bytes("SwapFree"),
        "refaults": _refaults(memory.pages, ""),
        "max_events": None,
        "high_events": None,
        "oom_kills": memory.pages.get("oom_kill"),
        "stalled_pct": _stalled(_text(root / "proc/pressure/memory")),
        "dying": where.gone if where.version == 1 else _dying(where.folder),
    }


def _of_v2(folder: Path) -> Row:
    stat = _numbers(_text(folder / "memory.stat"))
    events = _numbers(_text(folder / "memory.events"))
    shmem = stat.get("shmem", 0)
    return {
        "size_bytes": _number(folder / "memory.current"),
        "limit_bytes": _number(folder / "memory.max"),
        "high_bytes": _number(folder / "memory.high"),
        "anon_bytes": stat.get("anon"),
        "file_bytes": stat["file"] - shmem if "file" in stat else None,
        "shmem_bytes": stat.get("shmem"),
        "kernel_bytes": stat.get("kernel", sum(stat.get(name, 0) for name in _KERNEL)),
        "slab_bytes": stat.get("slab"),
        "sockets_bytes": stat.get("sock"),
        "pgtables_bytes": stat.get("pagetables"),
        "swap_bytes": _number(folder / "memory.swap.current"),
        "refaults": _refaults(stat, ""),
        "max_events": events.get("max"),
        "high_events": events.get("high"),
        "oom_kills": events.get("oom_kill"),
        "stalled_pct": _stalled(_text(folder / "memory.pressure")),
        "dying": _dying(folder),
    }


def _of_v1(folder: Path) -> Row:
    """A row for v1, which does not say what kernel memory consists of; its sums begin `total_`."""
    stat = _numbers(_text(folder / "memory.stat"))
    limit, shmem = _number(folder / "memory.limit_in_bytes"), stat.get("total_shmem", 0)
    cache = stat.get("total_cache")
    return {
        "size_bytes": _number(folder / "memory.usage_in_bytes"),
        "limit_bytes": None if limit is None or limit > _NO_LIMIT else limit,
        "high_bytes": None,
        "anon_bytes": stat.get("total_rss"),
        "file_bytes": None if cache is None else cache - shmem,
        "shmem_bytes": stat.get("total_shmem"),
        "kernel_bytes": _number(folder / "memory.kmem.usage_in_bytes"),
        "slab_bytes": None,
        "sockets_bytes": _number(folder / "memory.kmem.tcp.usage_in_bytes"),
        "pgtables_bytes": None,
        "swap_bytes": stat.get("total_swap"),
        "refaults": _refaults(stat, "total_"),
        "max_events": _number(folder / "memory.failcnt"),
        "high_events": None,
        "oom_kills": _numbers(_text(folder / "memory.oom_control")).get("oom_kill"),
        "stalled_pct": None,
        "dying": None,
    }


def _refaults(stat: Counters, prefix: str) -> int | None:
    """Pages that were read again soon after their eviction; before 5.9 it is one number."""
    names = ("workingset_refault_anon", "workingset_refault_file", "workingset_refault")
    found = [stat[prefix + name] for name in names if prefix + name in stat]
    return sum(found) if found else None


def _stalled(pressure: str) -> float | None:
    """How much of the last 10 s some task waited for memory, in per cent."""
    found = re.search(r"^some avg10=([\d.]+)", pressure)
    return float(found[1]) if found else None


def _dying(folder: Path) -> int | None:
    """Removed and still charged cgroups; where known, only those of the memory controller."""
    stat = _numbers(_text(folder / "cgroup.stat"))
    return stat.get("nr_dying_subsys_memory", stat.get("nr_dying_descendants"))


def _numbers(text: str) -> Counters:
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _number(path: Path) -> int | None:
    """The number in a file; None if it says `max`, or does not exist."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
