"""Which pages of a mapping have an entry in the page tables, from /proc/PID/pagemap.

A kernel with the ioctl PAGEMAP_SCAN walks through the tables that there are, so that a mapping of
terabytes in which little was touched costs little. With others each page's entry is read.
"""

from __future__ import annotations

import ctypes as ct
import errno
import fcntl
import os
from collections.abc import Iterator
from mmap import PAGESIZE

import numpy as np
import numpy.typing as npt

# From uapi/linux/fs.h: the ioctl, and what a page can be.
_PAGEMAP_SCAN = 0xC0606610
_PRESENT, _SWAPPED = 1 << 3, 1 << 4

# Of an entry of pagemap: present, swapped out, a guard, write-protected by userfaultfd.
_ENTRY = np.uint64(1 << 63 | 1 << 62 | 1 << 58 | 1 << 57)
_ENTRY_BYTES = 8

# How many regions one ioctl finds at most, and how many entries one read.
_REGIONS, _ENTRIES = 4096, 1 << 17

Bounds = npt.NDArray[np.uint64]


class _Scan(ct.Structure):
    """struct pm_scan_arg."""

    _fields_ = tuple(
        (name, ct.c_uint64)
        for name in (
            *("size", "flags", "start", "end", "walk_end", "vec", "vec_len", "max_pages"),
            *("category_inverted", "category_mask", "category_anyof_mask", "return_mask"),
        )
    )


class Touched:
    """Reads a process.

    Attributes:
        scans: whether the kernel has the ioctl.
    """

    def __init__(self, pagemap: int) -> None:
        self._pagemap = pagemap
        self._regions = np.zeros((_REGIONS, 3), np.uint64)  # struct page_region: start, end, what
        self.scans = True

    def ranges(self, start: int, end: int) -> Bounds:
        """A row for each range of pages with entries in [start, end): its start and end."""
        if self.scans:
            try:
                return np.concatenate([*self._scanned(start, end)])
            except OSError as error:
                if error.errno != errno.ENOTTY:
                    raise
                self.scans = False
        return np.concatenate([*self._read(start, end)])

    def _scanned(self, start: int, end: int) -> Iterator[Bounds]:
        while start < end:
            vec, wanted = self._regions.ctypes.data, _PRESENT | _SWAPPED
            scan = _Scan(ct.sizeof(_Scan), 0, start, end, 0, vec, _REGIONS, 0, 0, 0, wanted, 0)
            count = fcntl.ioctl(self._pagemap, _PAGEMAP_SCAN, scan)
            yield self._regions[:count, :2].copy()
            start = scan.walk_end

    def _read(self, start: int, end: int) -> Iterator[Bounds]:
        while start < end:
            most = min(_ENTRIES, (end - start) // PAGESIZE) * _ENTRY_BYTES
            text = os.pread(self._pagemap, most, start // PAGESIZE * _ENTRY_BYTES)
            if not text:
                break
            yield start + runs(np.frombuffer(text, np.uint64) & _ENTRY != 0) * np.uint64(PAGESIZE)
            start += len(text) // _ENTRY_BYTES * PAGESIZE
        yield np.zeros((0, 2), np.uint64)


def runs(are: npt.NDArray[np.bool_]) -> Bounds:
    """A row for each run of true values: where it begins, and where it ends."""
    edges = np.flatnonzero(np.diff(are, prepend=False, append=False))
    return edges.astype(np.uint64).reshape(-1, 2)
