"""The names of files, directories, mounts, cgroups and processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from memtap.bpf.filters import CgroupMount, memory_mounts
from memtap.bpf.stream import Events
from memtap.tracers.files.probes import FileFlag
from memtap.tracers.files.walk import BDEV, TMPFS, Super, Trail, Walker
from memtap.tracers.host import procfs
from memtap.tracers.host.files import Mounts, dev_text, device_path, parse_mounts
from memtap.tracers.host.hostile import DELETED, printable
from memtap.tracers.model.report import Row

NO_PROCESS, UNKNOWN = "(no process)", "?"


class Namer:
    """Turns groups of files into the values of their key columns.

    Attributes:
        nameless: how many rows have no name in memory.
    """

    def __init__(
        self,
        walker: Walker,
        supers: Sequence[Super],
        by: Sequence[str],
        comms: Mapping[int, str],
    ) -> None:
        """`comms` are the names of the processes that hold files, by their numbers."""
        self._walker, self._by, self._comms = walker, by, comms
        self._supers = {each.number: each for each in supers}
        self._mounts = parse_mounts(Path("/proc/self/mountinfo").read_bytes())
        self._cgroups = cgroup_paths() if "cgroup" in by else {}
        self._said = {
            "file": self._file,
            "directory": self._directory,
            "mount": self._mount,
            "cgroup": self._cgroup,
            "process": self._process,
        }
        self.nameless = 0

    def rows(self, groups: Events) -> Iterator[Row]:
        """The key columns of each group."""
        trails = self._trails(groups)
        for group, trail in zip(groups, trails, strict=True):
            row: Row = {"dev": dev_text(int(group["volume"]))}
            for key in self._by:
                row |= self._said[key](group, trail)
            yield row

    def _trails(self, groups: Events) -> Sequence[Trail]:
        if not {"file", "directory"} & {*self._by}:
            return [Trail(b"", 0, 0)] * len(groups)
        return self._walker.names(groups[["super", "inode", "ino"]].tolist())

    def _file(self, group: np.void, trail: Trail) -> Row:
        magic = self._supers[int(group["super"])].magic
        return {
            "kind": "device" if magic == BDEV else "shm" if magic == TMPFS else "file",
            "ino": int(group["ino"]),
            "size_bytes": int(group["bytes"]),
            "path": self._path(group, trail),
        }

    def _path(self, group: np.void, trail: Trail) -> str:
        if group["rdev"]:
            return device_path(int(group["rdev"]))
        if not trail.names:
            self.nameless += 1
            return UNKNOWN
        if trail.flags & FileFlag.TITLED:
            path = printable(trail.names[:-1])
        else:
            path = self._placed(group, trail.names)
        return path + DELETED if trail.flags & FileFlag.DELETED else path

    def _placed(self, group: np.void, names: bytes) -> str:
        return placed(self._mounts, self._supers[int(group["super"])].dev, names)

    def _directory(self, group: np.void, trail: Trail) -> Row:
        if self._supers[int(group["super"])].magic == BDEV:
            return {"directory": "(block devices)"}
        if trail.flags & FileFlag.TITLED:
            return {"directory": "(no directory)"}
        if not trail.names or trail.parent != group["parent"]:
            self.nameless += 1
            return {"directory": UNKNOWN}
        return {"directory": self._placed(group, trail.names.partition(b"\0")[2])}

    def _mount(self, group: np.void, _trail: Trail) -> Row:
        of = self._supers[int(group["super"])]
        where = "(block devices)" if of.magic == BDEV else placed(self._mounts, of.dev, b"")
        return {"fstype": of.fstype, "mount": where, "dev": dev_text(of.dev)}

    def _cgroup(self, group: np.void, _trail: Trail) -> Row:
        number = int(group["cgroup"])
        removed = f"(removed cgroup {number})" if number else "(none)"
        return {"cgroup": self._cgroups.get(number, removed)}

    def _process(self, group: np.void, _trail: Trail) -> Row:
        pid = int(group["tgid"])
        return {"pid": pid or None, "comm": self._comms.get(pid, NO_PROCESS)}


def placed(mounts: Mounts, dev: int, names: bytes) -> str:
    """The full path of a file, from its names inside its file system, innermost first."""
    inside = b"/" + b"/".join(reversed(names.split(b"\0")[:-1]))
    return printable(mounts.place(inside, dev_text(dev), 0).rstrip(b"/") or b"/")


def comm_of(pid: int) -> str:
    """The name of a process; ? if it is gone."""
    try:
        return printable(procfs.read(f"/proc/{pid}/comm").removesuffix(b"\n"))
    except OSError:
        return UNKNOWN


def cgroup_paths() -> dict[int, str]:
    """The paths of all cgroups that memory is charged to, by their numbers."""
    return {ino: path for mount in memory_mounts()[:1] for ino, path in _below(mount)}


def _below(mount: CgroupMount) -> Iterator[tuple[int, str]]:
    for name, _, _ in os.walk(mount.path):
        folder = Path(name)
        with suppress(OSError):  # it was removed meanwhile
            path = Path(mount.root) / folder.relative_to(mount.path)
            yield folder.stat().st_ino, printable(os.fsencode(path))
