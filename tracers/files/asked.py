"""files PATH...: what is cached of the named files, by cachestat(2) or mincore(2).

It traces nothing, so it needs no root; but it sees only files that it may open.
"""

from __future__ import annotations

import ctypes as ct
import errno
import heapq
import mmap
import os
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from memtap.bpf.errors import MemtapError
from memtap.tracers.files.columns import KEYS, SUMMED
from memtap.tracers.files.gather import MOST_FILES
from memtap.tracers.files.report import compared
from memtap.tracers.host import procfs
from memtap.tracers.host.files import Mount, Mounts, parse_mounts
from memtap.tracers.host.hostile import one_line, printable
from memtap.tracers.model.report import Column, Report, Row, key_columns, now
from memtap.tracers.model.tracer import Inspection, Query

# The same number on all architectures, as for all new system calls.
_CACHESTAT = 451
_PAGE = mmap.PAGESIZE
_WINDOW = 1 << 30  # mapped at a time, for mincore(2)

# Opening reads nothing, waits for nothing, and takes no controlling terminal.
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

# The members of struct cachestat, in order.
_STAT = ("resident", "dirty", "writeback", "evicted", "recently_evicted")
_NOTHING: Row = {f"{name}_bytes": None for name in _STAT}


class AskedInspection(Inspection):
    """Inspects the named files; see Inspection."""

    def __init__(self, query: Query, columns: tuple[Column, ...]) -> None:
        self._query, self._columns = query, columns
        self._unread = 0

    def report(self) -> Report:
        """The present state. Raises MemtapError if a path leads nowhere or nothing is ours."""
        totals, rows = Sums(), Rows(self._query)
        for path, status in found(self._query.paths):
            stats = self._ask(path, status)
            if stats is not None:
                totals.add(stats)
                rows.add(os.fsencode(path), status, stats)
        if self._unread and not totals.row["files"]:
            raise MemtapError(
                f"{_files(self._unread)} not ours to ask about",
                "run it with sudo; without, it answers for files that you own or may write to",
            )
        shown = rows.made()
        last = key_columns(KEYS, self._query.by)[-1].name
        notes = [*self._notes(totals), *rows.notes()]
        return Report(
            name="files",
            time=now(),
            interval_s=0.0,
            columns=self._columns,
            rows=shown,
            audit=procfs.audit(totals.row["files"], self._unread, compared(), notes)
            | {"probes": ["cachestat(2)" if has_cachestat() else "mincore(2)"]},
            totals={**totals.row, last: f"total of {totals.row['files']} files"}
            if len(shown) > 1
            else None,
        )

    def _ask(self, path: str, status: os.stat_result) -> Row | None:
        try:
            return ask(path, status)
        except FileNotFoundError:
            return None
        except OSError:
            self._unread += 1
            return None

    def _notes(self, totals: Sums) -> Iterator[str]:
        if self._unread:
            yield f"{_files(self._unread)} not ours to ask about, so totals are lower bounds"
        if totals.row["files"] and not has_cachestat():
            yield "this kernel has no cachestat(2): what is dirty or was evicted is not known"
        if totals.row["files"] > 1:
            yield "each file was asked about at a moment of its own"


def _files(count: int) -> str:
    return "1 file is" if count == 1 else f"{count} files are"


class Sums:
    """Sums over files, of the values that are known.

    Attributes:
        row: the sums, as columns.
    """

    def __init__(self) -> None:
        self.row: Row = dict.fromkeys(SUMMED[:1], 0) | _NOTHING

    def add(self, stats: Row) -> None:
        """Adds one file."""
        self.row["files"] += 1
        for name, value in stats.items():
            if value is not None:
                self.row[name] = (self.row[name] or 0) + value


class Rows:
    """Rows by the user's keys; if by file, only the files with the most."""

    def __init__(self, query: Query) -> None:
        self._by = query.by
        self._groups: dict[tuple[object, ...], tuple[Row, Sums]] = {}
        self._most: list[tuple[int, int, Row]] = []
        self._files = 0

    def add(self, path: bytes, status: os.stat_result, stats: Row) -> None:
        """Adds one file."""
        if "file" in self._by:
            self._files += 1
            keep = heapq.heappush if len(self._most) < MOST_FILES else heapq.heappushpop
            keys = _keys(self._by, path, status)
            keep(self._most, (stats["resident_bytes"], -self._files, keys | stats))
            return
        keys = _keys(self._by, path, status)
        _, sums = self._groups.setdefault(tuple(keys.values()), (keys, Sums()))
        sums.add(stats)

    def made(self) -> list[Row]:
        """All rows, those with the most first."""
        if "file" in self._by:
            return [row for *_, row in sorted(self._most, key=lambda each: (-each[0], -each[1]))]
        return [keys | sums.row for keys, sums in self._groups.values()]

    def notes(self) -> Iterator[str]:
        """The note on files without a row."""
        if self._files > len(self._most):
            yield (
                f"{self._files - len(self._most)} files have no row, only a part in the totals: "
                f"the {MOST_FILES} with the most in memory have"
            )


def _keys(by: tuple[str, ...], path: bytes, status: os.stat_result) -> Row:
    dev = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    keys: Row = {"dev": dev}
    if "file" in by:
        keys |= {
            "kind": _kind(status),
            "ino": status.st_ino,
            "size_bytes": status.st_size,
            "path": printable(path),
        }
    if "directory" in by:
        keys["directory"] = printable(os.fsencode(Path(os.fsdecode(path)).parent))
    if "mount" in by:
        keys["mount"], keys["fstype"] = _mount_of(
            os.fsencode(Path(os.fsdecode(path)).resolve().parent)
        )
    return keys


def _kind(status: os.stat_result) -> str:
    if stat.S_ISBLK(status.st_mode):
        return "device"
    return "shm" if _is_in_memory(status.st_dev) else "file"


@cache
def _is_in_memory(dev: int) -> bool:
    """Is it the device of a tmpfs, whose files are in memory alone?"""
    mounts = _mounts().of.get(f"{os.major(dev)}:{os.minor(dev)}", [])
    return any(mount.fstype in (b"tmpfs", b"devtmpfs") for mount in mounts)


@cache
def _mount_of(folder: bytes) -> tuple[str, str]:
    """Where the file system of a directory is mounted, and its type."""
    above = [mount for mount in _mounts().by.values() if _is_below(folder, mount.point)]
    # Of two mounts at one place the later hides the other.
    mount = max(reversed(above), key=lambda each: len(each.point), default=Mount(b"/", b"/"))
    return printable(mount.point), printable(mount.fstype)


@cache
def _mounts() -> Mounts:
    return parse_mounts(Path("/proc/self/mountinfo").read_bytes())


def _is_below(folder: bytes, point: bytes) -> bool:
    return folder == point or folder.startswith(point.rstrip(b"/") + b"/")


def found(paths: tuple[str, ...]) -> Iterator[tuple[str, os.stat_result]]:
    """Regular files and block devices at these paths, and regular ones below them, each once.

    Links are followed only if they are named themselves. Raises MemtapError if a path leads
    nowhere.
    """
    seen = set[tuple[int, int]]()
    for path in paths:
        try:
            status = Path(path).stat()
        except OSError as error:
            what = one_line(f"{path}: {error.strerror}")
            raise MemtapError(what, "name files or directories that there are") from error
        each = _below(path) if stat.S_ISDIR(status.st_mode) else iter([(path, status)])
        for where, found_there in each:
            key = found_there.st_dev, found_there.st_ino
            is_named = where == path and stat.S_ISBLK(found_there.st_mode)
            if key not in seen and (stat.S_ISREG(found_there.st_mode) or is_named):
                seen.add(key)
                yield where, found_there


def _below(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """All files below a directory that can be read, without links."""
    folders = [path]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        yield entry.path, entry.stat(follow_symlinks=False)
        except OSError:
            continue


def ask(path: str, status: os.stat_result) -> Row:
    """What is cached of a file, by column; None for what is unknown. Raises OSError."""
    fd = os.open(path, _OPEN)
    try:
        now_there = os.fstat(fd)
        if (now_there.st_dev, now_there.st_ino) != (status.st_dev, status.st_ino):
            raise FileNotFoundError(path)  # another file has its name by now
        if has_cachestat():
            counts = cachestat(fd)
            return {f"{n}_bytes": c * _PAGE for n, c in zip(_STAT, counts, strict=True)}
        return _NOTHING | {"resident_bytes": mincore(fd, now_there.st_size) * _PAGE}
    finally:
        os.close(fd)


def cachestat(fd: int) -> list[int]:
    """What the system call of this name counts for an open file, in the order of its struct."""
    whole, counts = (ct.c_uint64 * 2)(0, 0), (ct.c_uint64 * len(_STAT))()
    if _libc().syscall(_CACHESTAT, fd, whole, counts, 0):
        number = ct.get_errno()
        raise OSError(number, os.strerror(number))
    return list(counts)


@cache
def has_cachestat() -> bool:
    """Whether this kernel has cachestat(2), which came with cf264e1329fb."""
    try:
        cachestat(-1)
    except OSError as error:
        return error.errno != errno.ENOSYS
    return True


def mincore(fd: int, size: int) -> int:
    """How many pages of a file are in memory. Raises OSError.

    Raises PermissionError for a file that we may not write: mincore(2) says that all of it is in
    memory.
    """
    status = os.fstat(fd)
    if os.geteuid() not in (0, status.st_uid) and not os.access(f"/proc/self/fd/{fd}", os.W_OK):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    return sum(
        _resident(fd, start, min(_WINDOW, size - start)) for start in range(0, size, _WINDOW)
    )


def _resident(fd: int, start: int, size: int) -> int:
    with mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=start) as m:
        found = (ct.c_uint8 * (-(-size // _PAGE)))()
        place = ct.c_char.from_buffer(m)
        try:
            failed = _libc().mincore(ct.byref(place), ct.c_size_t(size), found)
        finally:
            del place
        if failed:
            number = ct.get_errno()
            raise OSError(number, os.strerror(number))
    return sum(each & 1 for each in found)


@cache
def _libc() -> ct.CDLL:
    return ct.CDLL(None, use_errno=True)
