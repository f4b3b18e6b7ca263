"""Opens files of code that traced processes have mapped, with care, and keeps what was read."""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Generic, Protocol, TypeVar

from memtap.tracers.host.hostile import DELETED, one_line

# Raised for paths that lead nowhere, and for texts that are no paths: with a NUL, say.
_NO_FILE = (OSError, ValueError)

# How much is kept: files, and bytes of what was read from them.
_MOST_FILES = 256
_MOST_KEPT_BYTES = 96 << 20


@dataclass(frozen=True)
class Code:
    """A mapping of code, as in /proc/PID/maps or PERF_RECORD_MMAP2.

    Attributes:
        start, end: addresses [start, end).
        offset: of `start` in the file, in bytes.
        dev: the kernel's dev_t (major << 20 | minor) of the file.
        ino: its inode; 0 if none is known.
        path: as the process sees it; `[vdso]`, `//anon` and the like where there is no file.
    """

    start: int
    end: int
    offset: int
    dev: int
    ino: int
    path: str

    @property
    def has_file(self) -> bool:
        """Whether it is of a file, which can have symbols."""
        return self.path.startswith("/") and not self.path.startswith(("//anon", "/anon_hugepage"))

    @property
    def may_be_jitted(self) -> bool:
        """Whether its bytes may have been written by the process itself."""
        return not self.has_file or self.path.startswith(("/memfd:", "/dev/zero", "/SYSV"))

    @property
    def object(self) -> str:
        """The base name of its file, or what stands for it."""
        if self.has_file:
            return one_line(self.path.removesuffix(DELETED).rpartition("/")[2])
        named = self.path.startswith("[") and not self.path.startswith("[anon")
        return one_line(self.path) if named else "[anon]"


def open_code(root: Path, tgid: int, code: Code) -> IO[bytes] | None:
    """Opens the file of a mapping that a process has or had; None if it cannot be found now."""
    for path in _candidates(root, tgid, code):
        with suppress(*_NO_FILE):
            return open_regular(path, lambda status: is_of(status, code))
    return None


def _candidates(root: Path, tgid: int, code: Code) -> Iterator[Path]:
    path = code.path.removesuffix(DELETED).lstrip("/")
    process = root / f"proc/{tgid}"
    yield process / "root" / path
    yield root / path
    yield process / f"map_files/{code.start:x}-{code.end:x}"


def open_regular(
    path: Path, is_right: Callable[[os.stat_result], bool], flags: int = 0
) -> IO[bytes]:
    """Opens a regular file if it is the right one; to open another kind could have effects."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC | flags)
    try:
        status = os.fstat(place)
        if not (stat.S_ISREG(status.st_mode) and is_right(status)):
            raise FileNotFoundError(path)
        # O_NONBLOCK, so as not to wait for a process that has a lease on it.
        opened = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return os.fdopen(opened, "rb")
    finally:
        os.close(place)


def is_of(status: os.stat_result, code: Code) -> bool:
    """Whether this is the file that was mapped.

    File systems that have no block device (major 0) may show another device in stat(2) than in
    mappings: btrfs has one for each subvolume, overlay's mappings are of the layer below. Then the
    path and the inode decide.
    """
    if not code.ino:
        return True
    major, minor = os.major(status.st_dev), os.minor(status.st_dev)
    same = major << 20 | minor == code.dev or not major or not code.dev >> 20
    return same and status.st_ino == code.ino


class Weighed(Protocol):
    """What can be kept.

    Attributes:
        weight: its size in memory, in bytes.
    """

    @property
    def weight(self) -> int:
        """Its size in memory, in bytes."""


_Read = TypeVar("_Read", bound=Weighed)


class Recent(Generic[_Read]):
    """What was read from the files that were used last; read again when a file has changed."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, int], tuple[tuple[int, int], _Read]] = OrderedDict()

    def get(self, file: IO[bytes], read: Callable[[IO[bytes]], _Read]) -> _Read:
        """What `read` returns for a file, or returned before."""
        status = os.fstat(file.fileno())
        key, stamp = (status.st_dev, status.st_ino), (status.st_mtime_ns, status.st_size)
        before = self._kept.get(key)
        if before is None or before[0] != stamp:
            self._kept[key] = stamp, read(file)
            self._shrink()
        self._kept.move_to_end(key)
        return self._kept[key][1]

    def _shrink(self) -> None:
        """Drops the oldest, but never the last, which was just asked for."""
        weight = sum(kept.weight for _, kept in self._kept.values())
        while len(self._kept) > 1 and (len(self._kept) > _MOST_FILES or weight > _MOST_KEPT_BYTES):
            weight -= self._kept.popitem(last=False)[1][1].weight
