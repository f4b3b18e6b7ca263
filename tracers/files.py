"""Paths of files that the kernel names by device and inode."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from memtap.bpf.stream import NameRecord
from memtap.tracers.hostile import printable

FileId = tuple[int, int]  # the kernel's dev_t, and the inode


def dev_text(dev: int) -> str:
    """The kernel's dev_t as mountinfo writes it, major:minor."""
    return f"{dev >> 20}:{dev & 0xFFFFF}"


@dataclass(frozen=True)
class Mount:
    """A line of /proc/PID/mountinfo: directory `root` of a file system stands at `point`."""

    root: bytes
    point: bytes


def parse_mounts(mountinfo: bytes) -> dict[str, list[Mount]]:
    """The mounts of each device (as dev_text), those of whole file systems first."""
    mounts: dict[str, list[Mount]] = defaultdict(list)
    for line in mountinfo.splitlines():
        _, _, dev, root, point, *_ = line.split(b" ")
        mounts[dev.decode()].append(Mount(_unescape(root), _unescape(point)))
    for found in mounts.values():
        found.sort(key=lambda mount: mount.root != b"/")
    return mounts


def _unescape(field: bytes) -> bytes:
    r"""Mountinfo writes a space in a path as \040, and so on."""
    first, *rest = field.split(b"\\")
    return first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)


def place(path: bytes, dev: str, mounts: Iterable[Mount]) -> bytes:
    """Where a path inside a file system is found from outside, or [dev]/path if it is nowhere."""
    for mount in mounts:
        root = mount.root.rstrip(b"/")
        if path == mount.root or path.startswith(root + b"/"):
            return (mount.point.rstrip(b"/") + path[len(root) :]) or b"/"
    return f"[{dev}]".encode() + path


class Files:
    """Turns name records into paths."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._mounts: dict[str, list[Mount]] = {}

    def resolve(self, records: Iterable[NameRecord]) -> dict[FileId, str]:
        """The path of each file that was named, safe to print."""
        return {(record.dev, record.ino): self._path(record) for record in records}

    def _path(self, record: NameRecord) -> str:
        if not record.names:
            return self._device(record.rdev)
        dev = dev_text(record.dev)
        if dev not in self._mounts:
            self._mounts = parse_mounts((self._root / "proc/self/mountinfo").read_bytes())
        inside = b"/" + b"/".join(reversed(record.names))
        return printable(place(inside, dev, self._mounts.get(dev, [])))

    def _device(self, rdev: int) -> str:
        """The block device whose own cache this is: its metadata and buffers."""
        link = self._root / "sys/dev/block" / dev_text(rdev)
        try:
            return "/dev/" + printable(os.fsencode(link.readlink().name))
        except OSError:
            return f"[{dev_text(rdev)}]"
