"""Whether the limits of this process are high enough, checked before libraries fail for them."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from memtap.bpf.errors import MemtapError
from memtap.bpf.filters import CgroupMount, cgroup_mounts
from memtap.bpf.plan import Plan
from memtap.cli.telling import note
from memtap.tracers.host.hostile import one_line

# With less, the user is warned: to compile took up to 116 MiB, and many processes take more than an
# idle host.
_ENOUGH_MIB = 192


@dataclass(frozen=True)
class _Need:
    """A limit of getrlimit(2), and how high it has to be."""

    limit: int
    least: int
    what: str
    hint: str


def _needs(cpus: int) -> list[_Need]:
    """What memtap needs.

    Measured on two CPUs: 72 files, 690 MB of addresses, 170 MB of data, 128 KB of stack.
    """
    return [
        _Need(resource.RLIMIT_NOFILE, 72 + 8 * cpus, "open files", "ulimit -n 1024"),
        _Need(resource.RLIMIT_AS, 1 << 30, "bytes of addresses", "ulimit -v unlimited"),
        _Need(resource.RLIMIT_DATA, 384 << 20, "bytes of data", "ulimit -d unlimited"),
        _Need(resource.RLIMIT_STACK, 256 << 10, "bytes of stack", "ulimit -s 8192"),
    ]


def require_room(plans: Iterable[Plan]) -> None:
    """Raises MemtapError if a limit leaves too little to trace or to read a recording.

    Where it may be too little a note says so, as the kernel kills without one.
    """
    for need in _needs(os.cpu_count() or 1):
        allowed = resource.getrlimit(need.limit)[0]
        if allowed != resource.RLIM_INFINITY and allowed < need.least:
            what = f"this process may have {allowed:,} {need.what} and needs {need.least:,}"
            raise MemtapError(what, f"raise that limit first: {need.hint}")
    limits = list(_memory_limits())
    if not limits:
        return
    folder, allowed = min(limits, key=lambda limit: limit[1])
    least = max(plan.least_mib for plan in plans) << 20
    if allowed < least:
        what = f"this process may have {allowed:,} bytes of memory and needs {least:,}"
        raise MemtapError(what, f"raise the limit of its cgroup first: {one_line(str(folder))}")
    if allowed < _ENOUGH_MIB << 20:
        note(
            f"this process may have {allowed >> 20} MiB of memory ({folder}): to compile, and for "
            f"many processes, it can need {_ENOUGH_MIB}, and is killed if it has not got them"
        )


def _memory_limits() -> Iterator[tuple[Path, int]]:
    """The memory limits of this process's cgroup and of each above it, as far as they are known."""
    try:
        own, mounts = (Path(f"/proc/self/{name}").read_text() for name in ("cgroup", "mountinfo"))
    except OSError:  # no /proc: the code that needs it says so
        return
    for mount in cgroup_mounts(mounts):
        for line in own.splitlines():
            _, controllers, path = line.split(":", 2)
            if _limits_memory(mount, controllers.split(",")):
                inside = Path(path.lstrip("/"))
                for folder in (inside, *inside.parents):
                    yield from _limit_of(mount.path / folder)


def _limits_memory(mount: CgroupMount, controllers: list[str]) -> bool:
    """Whether a line of /proc/PID/cgroup is for this hierarchy, and this may limit memory."""
    if mount.controllers:
        return "memory" in mount.controllers and "memory" in controllers
    return controllers == [""]


def _limit_of(folder: Path) -> Iterator[tuple[Path, int]]:
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            text = (folder / name).read_text().strip()
        except OSError:
            continue
        if text != "max":
            yield folder, int(text)
