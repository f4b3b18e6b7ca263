"""In-kernel filters: what the user asked for, as macros of memtap/filter.h."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from memtap.bpf.btf import Btf
from memtap.bpf.errors import MemtapError

COMM_BYTES = 16  # TASK_COMM_LEN, the NUL included
TGIDS_PER_BLOCK = 64
CGROUP_PATH = 256  # of memtap/cgroups.h, the NUL included

# PROC_PID_INIT_INO: in another namespace, processes have other numbers than in the kernel.
_FIRST_PID_NAMESPACE = 0xEFFFFFFC


@dataclass(frozen=True)
class Filter:
    """The processes whose events are kept; filters of different kinds must all agree.

    Attributes:
        tgids: only these processes, if `by_tgid`.
        by_tgid: also true with no tgid yet, when a program is about to be started.
        starts: a program is about to be started; it counts from its first instruction on.
        own: the number of this process, if its own events are left out; else 0.
        follow: children of traced processes are traced, too.
        comms: only processes of one of these names.
        cgroups: only processes in one of these cgroups or below; they may be made later.
    """

    tgids: tuple[int, ...] = ()
    by_tgid: bool = False
    starts: bool = False
    own: int = 0
    follow: bool = True
    comms: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.by_tgid or self.comms or self.cgroups)

    @cached_property
    def places(self) -> list[CgroupPlace]:
        """Where the cgroups are, or can be made. Raises MemtapError if there is no such place."""
        mounts = cgroup_mounts(Path("/proc/self/mountinfo").read_text())
        return [place for wanted in self.cgroups for place in find_or_await(wanted, mounts)]

    @property
    def awaited(self) -> list[str]:
        """The cgroups that do not exist yet."""
        return [str(place.folder) for place in self.places if not place.id()]

    def defines(self, btf: Btf) -> list[str]:
        """The macros that memtap/filter.h looks at, without `#define`."""
        lines = []
        if self.by_tgid:
            lines += ["FOLLOW_TGIDS 1", f"TGID_BLOCKS {tgid_blocks()}"]
            if self.follow:
                lines.append("FOLLOW_CHILDREN 1")
        if self.comms:
            lines.append("FOLLOW_COMM(comm) (" + " || ".join(map(_same_comm, self.comms)) + ")")
        if self.cgroups:
            tests = [_under_cgroup(place, n, btf) for n, place in enumerate(self.places)]
            lines.append(f"WANTED_CGROUPS {len(self.places)}")
            lines.append("FOLLOW_CGROUP(task) (" + " || ".join(tests) + ")")
        return lines


def own_tgid() -> int:
    """The number of this process as the kernel has it; 0 where that is not known."""
    inode = Path("/proc/self/ns/pid").stat().st_ino
    return os.getpid() if inode == _FIRST_PID_NAMESPACE else 0


def cgroup_defines(btf: Btf, own: str | None = None) -> list[str]:
    """The macro that memtap/cgroups.h looks at, where a v1 hierarchy accounts memory.

    `own` is the text of /proc/self/cgroup.
    """
    text = Path("/proc/self/cgroup").read_text() if own is None else own
    controllers = [line.split(":")[1].split(",") for line in text.splitlines()]
    number = btf.enumerator("cgroup_subsys_id", "memory_cgrp_id")
    if number is None or not any("memory" in names for names in controllers):
        return []
    return [f"MEMORY_SUBSYS {number}"]


def tgid_blocks() -> int:
    """How many blocks of 64 process numbers there can be (kernel.pid_max)."""
    return int(Path("/proc/sys/kernel/pid_max").read_text()) // TGIDS_PER_BLOCK + 1


def _same_comm(name: str) -> str:
    """C that compares the two words of a struct comm with a name."""
    data = os.fsencode(name)[: COMM_BYTES - 1].ljust(COMM_BYTES, b"\0")
    words = [int.from_bytes(data[at : at + 8], "little") for at in (0, 8)]
    return (
        "(" + " && ".join(f"comm.words[{i}] == {word:#x}ULL" for i, word in enumerate(words)) + ")"
    )


@dataclass(frozen=True)
class CgroupMount:
    """A mounted cgroup hierarchy: v2 if `controllers` is empty, else v1.

    Attributes:
        root: the directory of the hierarchy that is mounted there.
    """

    path: Path
    controllers: tuple[str, ...]
    root: str = "/"

    def number(self) -> int:
        """The number of the hierarchy; v2 has 0."""
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, _ = line.split(":", 2)
            if self.controllers and set(controllers.split(",")) <= {*self.controllers}:
                return int(number)
        return 0


@dataclass(frozen=True)
class CgroupPlace:
    """A cgroup that exists, or can be made: its hierarchy, and its directory."""

    mount: CgroupMount
    folder: Path

    @property
    def can_be_made(self) -> bool:
        """Whether it can be made, in the hierarchy that accounts memory or in v2."""
        accounts = not self.mount.controllers or "memory" in self.mount.controllers
        is_free = b"\0" not in self._path and not os.path.lexists(self.folder)
        is_free &= len(self._path) < CGROUP_PATH
        return accounts and is_free and self.folder.parent.is_dir()

    @property
    def _path(self) -> bytes:
        inside = self.folder.relative_to(self.mount.path)
        return os.fsencode(os.path.normpath(Path(self.mount.root) / inside))

    def words(self) -> list[int]:
        """A struct wanted_cgroup of memtap/cgroups.h, without the id."""
        path = self._path if len(self._path) < CGROUP_PATH else b""
        padded = path.ljust(CGROUP_PATH, b"\0")
        parts = (padded[at : at + 8] for at in range(0, CGROUP_PATH, 8))
        return [0, self.mount.number(), *(int.from_bytes(part, sys.byteorder) for part in parts)]

    def id(self) -> int:
        """The inode of its directory, by which the kernel knows it; 0 if it does not exist."""
        try:
            return self.folder.stat().st_ino  # kernfs gives a directory the id of its node
        except OSError:
            return 0


def cgroup_mounts(mountinfo: str) -> list[CgroupMount]:
    """The cgroup hierarchies in the text of /proc/self/mountinfo, v2 first."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ")[:3]
        root, path = before.split(" ")[3], Path(before.split(" ")[4])
        if kind == "cgroup2":
            found.append(CgroupMount(path, (), root))
        elif kind == "cgroup":
            names = options.split(",")
            kept = tuple(name for name in names if name not in ("rw", "ro"))
            found.append(CgroupMount(path, kept, root))
    return sorted(found, key=lambda mount: bool(mount.controllers))


def memory_mounts() -> list[CgroupMount]:
    """Where the cgroups that limit memory are mounted: v1's memory hierarchy, else v2."""
    mounts = cgroup_mounts(Path("/proc/self/mountinfo").read_text())
    return [m for m in mounts if "memory" in m.controllers] or [
        m for m in mounts if not m.controllers
    ]


def find_cgroup(wanted: str, mounts: list[CgroupMount]) -> tuple[CgroupMount, Path]:
    """The hierarchy and directory of a cgroup given by its directory or its path in the hierarchy.

    A path such as /system.slice is looked for in v2 first, then in v1's memory hierarchy.
    """
    path = Path(os.path.normpath(Path("/", wanted)))  # no .. leads out of a hierarchy
    for mount in mounts:
        if path.is_relative_to(mount.path) and path.is_dir():
            return mount, path
    for mount in mounts:
        inside = mount.path / str(path).lstrip("/")
        if (not mount.controllers or "memory" in mount.controllers) and inside.is_dir():
            return mount, inside
    raise MemtapError(f"no cgroup {wanted}", "name a directory below /sys/fs/cgroup")


def find_or_await(wanted: str, mounts: list[CgroupMount]) -> list[CgroupPlace]:
    """Where a cgroup is; if it does not exist yet, where it can be made.

    It can be made wherever its parent exists. Raises MemtapError if there is no such place.
    """
    with suppress(MemtapError):
        return [CgroupPlace(*find_cgroup(wanted, mounts))]
    path = Path(os.path.normpath(Path("/", wanted)))
    inside = [CgroupPlace(mount, mount.path / str(path).lstrip("/")) for mount in mounts]
    named = [CgroupPlace(mount, path) for mount in mounts if path.is_relative_to(mount.path)]
    can_be = [each for each in named or inside if each.can_be_made]
    if not can_be:
        find_cgroup(wanted, mounts)
    return can_be


def _under_cgroup(place: CgroupPlace, number: int, btf: Btf) -> str:
    """C that tests whether `task` is in or below a cgroup, by its number in wanted_cgroups."""
    mount = place.mount
    if not mount.controllers:
        return f"is_under_v2(task, wanted_id({number}))"
    for controller in mount.controllers:
        name = "io" if controller == "blkio" else controller  # v1 kept the older name
        subsys = btf.enumerator("cgroup_subsys_id", f"{name}_cgrp_id")
        if subsys is not None:
            return f"is_under_v1(task, {subsys}, wanted_id({number}))"
    raise MemtapError(
        f"the cgroup hierarchy at {mount.path} has no controller to find processes by",
        "name the cgroup in the memory hierarchy or in cgroup v2",
    )
