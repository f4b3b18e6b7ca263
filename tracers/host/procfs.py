"""Reports that are read from /proc, without tracing anything."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from memtap.tracers.host.counters import Counters

# Larger than any file that is read here; a file of a single record comes whole with one read.
_BYTES = 1 << 16

# What a read raises if the process has ended meanwhile.
Gone = (FileNotFoundError, ProcessLookupError)

# Of the states in /proc/PID/stat.
_ENDED = (b"Z", b"X")


def read(path: str) -> bytes:
    """The content of a small file of /proc, read with three system calls."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _BYTES)
    finally:
        os.close(fd)


def stat_fields(stat: bytes) -> list[bytes]:
    """The fields of /proc/PID/stat after the name, which can hold any bytes; the state is first."""
    return stat.rpartition(b")")[2].split()


def user_of(tgid: int) -> int:
    """The real user of a process; -1 if it is gone."""
    try:
        status = read(f"/proc/{tgid}/status")
    except OSError:
        return -1
    return int(status.partition(b"\nUid:")[2].split()[0])


@cache
def user_name(uid: int) -> str:
    """The user's name, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def survivor(pid: int, root: Path = Path("/")) -> Path | None:
    """/proc/TID of a thread that still runs though the main thread has ended; None if none does.

    Such a process looks like a zombie, and its own files show no memory. The files of its other
    threads do, and the kernel looks there, too (find_lock_task_mm() in mm/oom_kill.c).
    """
    proc = root / "proc"
    if not has_ended(proc / str(pid)):
        return None
    try:
        threads = os.listdir(proc / str(pid) / "task")
    except Gone:
        return None
    return next((proc / tid for tid in threads if not has_ended(proc / tid)), None)


def has_ended(process: Path) -> bool:
    """Whether a process or a thread is gone, or is a zombie; by its /proc/PID."""
    try:
        return stat_fields(read(f"{process}/stat"))[0] in _ENDED
    except Gone:
        return True


def audit(read: int, unread: int, kernel: Counters, notes: Sequence[str]) -> dict[str, Any]:
    """The `audit` object of a report that is read from /proc.

    Args:
        read: how many processes or mappings the report is made of.
        unread: how many are missing from its sums, which then are lower bounds.
        kernel: the kernel's own counters of the same, named as in its files.
        notes: what else to say.
    """
    return {
        "accuracy": "bounded" if unread else "exact",
        "events": read,
        "lost": 0,
        "missed": 0,
        "map_full": 0,
        "probes": [],
        "kernel": kernel,
        "notes": list(notes),
    }
