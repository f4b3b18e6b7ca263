"""Which devices are file systems in memory: tmpfs, and those of huge pages.

A mapping names the device of its file, and /proc/PID/mountinfo says what is mounted in the mount
namespace of that process. The file systems of memfd_create(2) and shmget(2) are mounted nowhere.
"""

from __future__ import annotations

import os
from pathlib import Path

from memtap.tracers.host.mounts import MountTable

# The flags of memfd_create(2) hold the size of its huge pages from this bit on.
_HUGE_SHIFT = 26

# With this many devices of other mount namespaces, those are forgotten.
_MANY = 4096


class Devices:
    """The types of file systems without storage (of major number 0), as far as /proc shows them."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._table = MountTable(root / "proc/self/mountinfo")
        self._huge = dict.fromkeys(_of_huge_pages(root), "hugetlbfs")
        self._kinds: dict[int, str] = {}
        self._begin_anew()

    def look(self) -> None:
        """Reads what is mounted here, if that has changed."""
        if self._table.look() or len(self._kinds) > _MANY:
            self._begin_anew()

    def kind(self, dev: int, tgid: int) -> str:
        """The type of a file system of which a process has mapped a file; "" for any with storage.

        If it is mounted only in that process's namespace, ask while the process is alive.
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
    """The devices of huge pages that are mounted nowhere: one for each size."""
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
