"""Files: their numbers in rows, and their names."""

from __future__ import annotations

import os
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from memtap.bpf.stream import NameRecord
from memtap.tracers.host.hostile import DELETED, printable

# As in the C program: the kernel side hashes files to buckets, in which it counts folios that enter
# the page cache. A file's bucket is its number modulo this.
BUCKETS = 4096

# This many files are remembered, besides those that are in use. The kernel side sends a name again
# if it was not among the last 32768 that were used (`named` in memtap/names.h), so a name that is
# forgotten here comes again when it is needed.
FILES = 1 << 16

T = TypeVar("T")


def serial(files: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The numbers of files without their buckets; these are close together."""
    return files // np.uint64(BUCKETS)


def bucket_of(files: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """The bucket of each file."""
    return (files % np.uint64(BUCKETS)).astype(np.intp)


class NameFlag(IntEnum):
    """`enum name_flag` of memtap/names.h; plain numbers, which cost less where files are many."""

    DELETED = 1
    GONE = 2
    ALONE = 4


_Told = tuple[str, int, str]


class FileName:
    """The name of a file. It is worked out when it is first needed, as most are never shown.

    Attributes:
        dev: its device as stat(2) has it, major:minor.
        ino: its inode number.
        path: safe to print; `?` if it is unknown.
    """

    __slots__ = ("_told",)

    def __init__(self, dev: str, ino: int, path: str) -> None:
        self._told: _Told | Callable[[], _Told] = (dev, ino, path)

    @classmethod
    def lazy(cls, tell: Callable[[], _Told]) -> FileName:
        """What `tell` gives: dev, ino and path."""
        name = cls.__new__(cls)
        name._told = tell
        return name

    def __iter__(self) -> Iterator[str | int]:
        return iter(self._all)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FileName) and self._all == other._all

    def __hash__(self) -> int:
        return hash(self._all)

    def __repr__(self) -> str:
        return f"FileName{self._all}"

    @property
    def _all(self) -> _Told:
        if callable(self._told):
            self._told = self._told()
        return self._told

    @property
    def dev(self) -> str:
        """See above."""
        return self._all[0]

    @property
    def ino(self) -> int:
        """See above."""
        return self._all[1]

    @property
    def path(self) -> str:
        """See above."""
        return self._all[2]


UNKNOWN = FileName("?", 0, "?")


def dev_text(dev: int) -> str:
    """The kernel's dev_t as mountinfo writes it, major:minor."""
    return f"{dev >> 20}:{dev & 0xFFFFF}"


@dataclass(frozen=True)
class Mount:
    """A line of /proc/PID/mountinfo: directory `root` of a file system stands at `point`.

    `fstype` is the type of that file system; comparisons of mounts leave it out.
    """

    root: bytes
    point: bytes
    fstype: bytes = field(default=b"", compare=False)


@dataclass
class Mounts:
    """What is mounted where.

    Attributes:
        of: the mounts of each device (as dev_text() has it), those of whole file systems first.
        by: each mount by its number.
    """

    of: dict[str, list[Mount]]
    by: dict[int, Mount]

    def has(self, dev: str, number: int) -> bool:
        """Whether both the device and the mount are known; number 0 is no mount."""
        return dev in self.of and (number == 0 or number in self.by)

    def place(self, path: bytes, dev: str, number: int) -> bytes:
        """The full path of a path inside a file system: through that mount, else through any."""
        through = self.by.get(number)
        return place(path, dev, [*([through] if through else []), *self.of.get(dev, [])])


# What a path is made from: the mounts at that time, the device, the mount, and the names.
_Where = tuple[Mounts, int, int, bytes]


@dataclass(slots=True)
class _File:
    number: int
    key: tuple[int, ...] = ()
    where: _Where | None = None
    name: FileName | None = None


def parse_mounts(mountinfo: bytes) -> Mounts:
    """What /proc/PID/mountinfo says."""
    of: dict[str, list[Mount]] = defaultdict(list)
    by: dict[int, Mount] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(b" - ")
        number, _, dev, root, point, *_ = before.split(b" ")
        mount = Mount(_unescape(root), _unescape(point), after.partition(b" ")[0])
        of[dev.decode()].append(mount)
        by[int(number)] = mount
    for found in of.values():
        found.sort(key=lambda mount: mount.root != b"/")
    return Mounts(dict(of), by)


def _unescape(field: bytes) -> bytes:
    r"""Mountinfo writes a space in a path as \040, and so on."""
    first, *rest = field.split(b"\\")
    return first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)


def place(path: bytes, dev: str, mounts: Iterable[Mount]) -> bytes:
    """The full path of a path inside a file system, or [dev]/path if that is mounted nowhere."""
    for mount in mounts:
        root = mount.root.rstrip(b"/")
        if path == mount.root or path.startswith(root + b"/"):
            return (mount.point.rstrip(b"/") + path[len(root) :]) or b"/"
    return f"[{dev}]".encode() + path


def forget(
    known: OrderedDict[int, T], used: int, let_go: Callable[[T], object] = lambda _: None
) -> None:
    """Bounds what is known of files: those that were not used for longest are forgotten.

    Args:
        known: files in order of use, the latest last.
        used: how many of them are in use now.
        let_go: is called for each that is forgotten.
    """
    while len(known) > FILES + used:
        let_go(known.popitem(last=False)[1])


class Files:
    """Numbers files, so that no kernel address leaves memtap, and turns name records into names.

    A file keeps its number for as long as it is known, even if its inode left memory and was read
    again, because device, inode number and generation are the same then.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._mounts = Mounts({}, {})
        self._sought: set[tuple[str, int]] = set()
        self._known: OrderedDict[int, _File] = OrderedDict()
        self._lasting: dict[tuple[int, ...], _File] = {}
        self._count = 0

    def resolve(self, records: Iterable[NameRecord]) -> dict[int, FileName]:
        """The name of each file in these records, by the file's number."""
        self._sought.clear()  # what was mounted nowhere may be mounted by now
        records = list(records)
        for dev, mount in {(record.dev, record.mount) for record in records if record.names}:
            if not self._mounts.has(dev_text(dev), mount):
                self._look(dev_text(dev), mount)
        return {file.number: file.name for file in map(self._learn, records) if file.name}

    def number(self, files: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """The number of each file; files without a name record have one, too."""
        distinct, place = np.unique(files, return_inverse=True)
        numbers = [self._find(identity).number for identity in distinct.tolist()]
        forget(self._known, len(distinct), self._let_go)
        return np.array(numbers, np.uint64)[place]

    def _learn(self, record: NameRecord) -> _File:
        key: tuple[int, ...] = (record.volume, record.ino, record.generation)
        if record.flags & NameFlag.ALONE:
            key = (*key, record.file)
        file = self._find(record.file, key)
        if record.flags & NameFlag.GONE:  # the next file with this inode number is another file
            self._lasting.pop(key, None)
        if record.rdev:
            device = device_path(record.rdev, self._root)
            file.name = FileName(dev_text(record.volume), record.ino, device)
            return file
        if record.names:
            file.where = (self._mounts, record.dev, record.mount, record.names)
        deleted = bool(record.flags & NameFlag.DELETED)
        tell = partial(_called, file.where, record.volume, record.ino, deleted)
        file.name = FileName.lazy(tell)
        return file

    def _find(self, identity: int, key: tuple[int, ...] | None = None) -> _File:
        """A known file by the kernel's identity, else by its lasting key; else a new one."""
        file = self._known.get(identity)
        if file is None:
            file = (self._lasting.get(key) if key else None) or self._new(identity)
            self._known[identity] = file
        self._known.move_to_end(identity)
        if key and not file.key:
            file.key = key
            self._lasting.setdefault(key, file)
        return file

    def _new(self, identity: int) -> _File:
        self._count += 1
        return _File(self._count * BUCKETS + identity % BUCKETS)

    def _let_go(self, file: _File) -> None:
        if self._lasting.get(file.key) is file:
            del self._lasting[file.key]

    def _look(self, dev: str, mount: int) -> None:
        """Reads what is mounted now, but not again and again for mounts of other namespaces."""
        if (dev, mount) not in self._sought:
            self._sought.add((dev, mount))
            self._mounts = parse_mounts((self._root / "proc/self/mountinfo").read_bytes())


def device_path(rdev: int, root: Path = Path("/")) -> str:
    """The path of a block device; its own page cache holds metadata and buffers."""
    link = root / "sys/dev/block" / dev_text(rdev)
    try:
        return "/dev/" + printable(os.fsencode(link.readlink().name))
    except OSError:
        return f"[{dev_text(rdev)}]"


def _called(where: _Where | None, volume: int, ino: int, deleted: bool) -> _Told:
    """Device, inode and path for a FileName."""
    path = _path(*where) if where else "?"
    return dev_text(volume), ino, path + DELETED if deleted else path


def _path(mounts: Mounts, dev: int, mount: int, names: bytes) -> str:
    inside = b"/".join([b"", *reversed(names.split(b"\0")[:-1])])
    return printable(mounts.place(inside, dev_text(dev), mount))
