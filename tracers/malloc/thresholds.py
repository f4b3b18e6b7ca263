"""Finds where glibc keeps the threshold of its malloc, so that the BPF program can read it.

glibc has it in a variable without a symbol (mp_ of malloc.c). But the variable begins with numbers
that occur nowhere else in the file. The BPF program recognises glibc's code, which makes a system
call, by the return address and the build id of the file.
"""

from __future__ import annotations

import os
import platform
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from memtap.tracers.code.intervals import PAGE_BYTES
from memtap.tracers.code.objects import open_regular
from memtap.tracers.host.patience import patiently
from memtap.tracers.malloc.files import of_process
from memtap.tracers.malloc.libraries import allocator_of
from memtap.tracers.malloc.parameters import (
    MMAP_THRESHOLD_AT,
    bytes_at,
    is_small,
    only,
    place_in,
    segments_of,
)
from memtap.tracers.model.enricher import Source

# A map of the C program: a struct known_call for each place in a page.
KNOWN_CALLS, _WORDS = "known_calls", 5

# The instructions that call brk, mmap, munmap and mremap: the number goes into a register.
_CALL = {
    "x86_64": re.compile(rb"\xb8[\x09\x0b\x0c\x19]\0\0\0\x0f\x05"),
    "aarch64": re.compile(rb"(?:[\xc8\xe8]\x1a|[\x08\xc8]\x1b)\x80\xd2\x01\0\0\xd4"),
}.get(platform.machine(), re.compile(rb"(?!)"))

_BUILD_ID = struct.pack("<III4s", 4, 20, 3, b"GNU\0")


class Thresholds:
    """Tells the BPF program about our own C library, and those of given processes."""

    def __init__(self, session: Source) -> None:
        self._known = session.shared(KNOWN_CALLS, PAGE_BYTES, _WORDS)
        self._looked: set[tuple[int, int]] = set()
        self.follow(os.getpid())  # most programs use the same glibc as we do

    def follow(self, tgid: int) -> None:
        """Looks at the library that a process has malloc from, if that is glibc."""
        with suppress(OSError):
            for path in of_process(tgid):
                if allocator_of([str(path)]) == "glibc":
                    self._look(tgid, path)

    def _look(self, tgid: int, path: Path) -> None:
        for at, words in known_calls(patiently(tgid, partial(self._read, path))):
            self._known[at] = words

    def _read(self, path: Path) -> bytes:
        """The content of a file; empty if it was read before."""
        with open_regular(path, is_small) as file:
            status = os.fstat(file.fileno())
            which = status.st_dev, status.st_ino
            if which in self._looked:
                return b""
            self._looked.add(which)
            return file.read()


def known_calls(elf: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    """For each system call in a C library its place in a page, and its struct known_call.

    None for a file that is not a 64-bit glibc.
    """
    with suppress(struct.error):
        segments = list(segments_of(elf))
        place = place_in(segments)
        build_id = only(segments, _BUILD_ID)
        if place is None or build_id is None:
            return
        id_at = build_id + len(_BUILD_ID)
        (name,) = struct.unpack("<Q", bytes_at(segments, id_at, 8))
        parameters = place.address
        known = id_at, name, parameters + MMAP_THRESHOLD_AT, parameters + place.most
        for segment in segments:
            for call in _CALL.finditer(segment.data):
                offset = segment.address + call.end()
                yield offset % PAGE_BYTES, (offset, *known)
