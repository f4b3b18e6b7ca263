"""The files of /proc that tell of the address space of one process, and its report."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from memtap.bpf.errors import MemtapError
from memtap.tracers.host import procfs
from memtap.tracers.host.patience import StuckError, patiently
from memtap.tracers.model.report import Column, Report, Row, now

T = TypeVar("T")


def report_of(
    columns: tuple[Column, ...], rows: list[Row], totals: Row, audit: dict[str, Any]
) -> Report:
    """The report of pmap on one process, as it is now."""
    return Report("pmap", now(), 0.0, columns, rows, audit, totals=totals)


def address_space(pid: int, root: Path, name: str = "smaps") -> tuple[Path, bytes]:
    """The folder of /proc that has a process's memory, and the text of its smaps, or maps.

    Raises MemtapError if it has none, or cannot be read.
    """
    process = root / f"proc/{pid}"
    text = read_space(process, pid, name)
    if text:
        return process, text
    thread = procfs.survivor(pid, root)
    if thread and (text := read_space(thread, pid, name)):
        return thread, text
    what = f"process {pid} has no address space: it is a kernel thread, or has ended"
    raise MemtapError(what, "memtap ps lists the processes that have one")


def read_space(space: Path, pid: int, name: str) -> bytes:
    """The text of a file in such a folder. Raises MemtapError."""
    return asked(pid, (space / name).read_bytes)


def asked(pid: int, read: Callable[[], T]) -> T:
    """What `read` finds in /proc of a process. Raises MemtapError."""
    try:
        return patiently(pid, read)
    except procfs.Gone as error:
        hint = "memtap ps lists those that there are"
        raise MemtapError(f"there is no process {pid}", hint) from error
    except StuckError as error:
        hint = "it holds on to its address space, as by a file system that does not answer"
        raise MemtapError(f"process {pid} did not let itself be read", hint) from error
    except PermissionError as error:
        what = f"the address space of process {pid} is not ours to read"
        hint = "run it with sudo, or as the user of that process"
        if os.geteuid() == 0:
            hint = "the host lets nobody look at it here, as a container or a security module can"
        raise MemtapError(what, hint) from error
