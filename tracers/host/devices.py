"""Which devices are file systems in memory: tmpfs, and those of huge pages.

A mapping tells the device of its file, and /proc/PID/mountinfo what is mounted where that process
is. The file systems of memfd_create(2) and shmget(2) are mounted nowhere.
"""

from __future__ import annotations

import os
from pathlib import Path

from memtap.tracers.host.mounts import MountTable

# Bits of memfd_create(2) that say how large its huge pages are begin here.
_HUGE_SHIFT = 26

# Devices of others are forgotten when there are so many.
_MANY = 4096


class Devices:
    """The types of file systems without storage (of major number 0), as far as processes tell."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._table = MountTable(root / "proc/self/mountinfo")
        self._huge = dict.fromkeys(_of_huge_pages(root), "hugetlbfs")
        self._kinds: dict[int, str] = {}
        self._begin_anew()

    def look(self) -> None:
        """Takes in what is mounted here, if that has changed."""
        if self._table.look() or len(self._kinds) > _MANY:
            self._begin_anew()

    def kind(self, dev: int, tgid: int) -> str:
        """The type of the file system that a process has something of mapped; "" is any other.

        One that is mounted only where that process is must be asked for while it is there.
        """
        if dev >> 20 or not dev:
            return ""
        if dev not in self._kinds:
            try:
                text = (self._root / f"proc/{tgid}/mountinfo").read_text(errors="replace")
            except OSError:
                return ""
            self._kinds |= {dev: ""} | kinds_by_device(text)
        return self._kinds[dev]

    def _begin_anew(self) -> None:
        self._kinds = kinds_by_device(self._table.text) | self._huge


def kinds_by_device(mountinfo: str) -> dict[int, str]:
    """The types of mounted file systems without storage, from the text of /proc/PID/mountinfo."""
    kinds = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        major, _, minor = before.split()[2].partition(":")
        if major == "0":
            kinds[int(minor)] = after.split()[0]
    return kinds


def _of_huge_pages(root: Path) -> set[int]:
    """The devices of huge pages that no path leads to: one for each size."""
    found = set()
    for size in (root / "sys/kernel/mm/hugepages").glob("hugepages-*kB"):
        shift = (int(size.name[len("hugepages-") : -len("kB")]) << 10).bit_length() - 1
        try:
            fd = os.memfd_create("memtap", os.MFD_HUGETLB | shift << _HUGE_SHIFT)
        except OSError:
            continue
        found.add(os.minor(os.fstat(fd).st_dev))
        os.close(fd)
    return found
