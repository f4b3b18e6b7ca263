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
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from memtap.tracers.code.intervals import PAGE_BYTES
from memtap.tracers.code.objects import open_regular
from memtap.tracers.host.patience import patiently
from memtap.tracers.malloc.files import of_process
from memtap.tracers.malloc.libraries import allocator_of
from memtap.tracers.model.enricher import Source

# A map of the C program: a struct known_call for each place in a page.
KNOWN_CALLS, _WORDS = "known_calls", 5

# trim_threshold, top_pad, mmap_threshold and arena_test of a 64-bit glibc, as its file has them;
# n_mmaps_max follows some bytes later.
_PARAMETERS = struct.pack("<4Q", 128 << 10, 128 << 10, 128 << 10, 8)
_THRESHOLD_AT = 16
_MOST, _NEAR = struct.pack("<I", 1 << 16), 64

# The instructions that call brk, mmap, munmap and mremap: the number goes into a register.
_CALL = {
    "x86_64": re.compile(rb"\xb8[\x09\x0b\x0c\x19]\0\0\0\x0f\x05"),
    "aarch64": re.compile(rb"(?:[\xc8\xe8]\x1a|[\x08\xc8]\x1b)\x80\xd2\x01\0\0\xd4"),
}.get(platform.machine(), re.compile(rb"(?!)"))

# As in elf(5), for 64-bit files: offset, size and count of the program headers; and one of these.
_HEADER = struct.Struct("<5s27xQ14xHH")
_MAGIC = b"\x7fELF\2"
_SEGMENT = struct.Struct("<IIQQQQQQ")
_LOAD = 1
_BUILD_ID = struct.pack("<III4s", 4, 20, 3, b"GNU\0")

_MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class Segment:
    """A loaded part of a file, and its address in memory relative to the file's beginning."""

    address: int
    data: bytes

    def find(self, wanted: bytes) -> int | None:
        """The address of bytes that occur here exactly once; else None."""
        at = self.data.find(wanted)
        return None if at < 0 or self.data.count(wanted) > 1 else self.address + at


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
        with open_regular(path, lambda status: status.st_size <= _MOST_BYTES) as file:
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
        segments = list(_segments(elf))
        parameters = _only(segments, _PARAMETERS)
        build_id = _only(segments, _BUILD_ID)
        if parameters is None or build_id is None:
            return
        most = _bytes(segments, parameters, _NEAR + len(_PARAMETERS)).find(_MOST, len(_PARAMETERS))
        id_at = build_id + len(_BUILD_ID)
        (name,) = struct.unpack("<Q", _bytes(segments, id_at, 8))
        known = id_at, name, parameters + _THRESHOLD_AT, parameters + most
        for segment in segments:
            for call in _CALL.finditer(segment.data):
                offset = segment.address + call.end()
                yield offset % PAGE_BYTES, (offset, *known)


def _segments(elf: bytes) -> Iterator[Segment]:
    """The parts of a file that are loaded into memory."""
    magic, at, size, count = _HEADER.unpack_from(elf)
    if magic != _MAGIC:
        return
    for number in range(count):
        kind, _, offset, address, _, length, *_ = _SEGMENT.unpack_from(elf, at + number * size)
        if kind == _LOAD:
            yield Segment(address, elf[offset : offset + length])


def _only(segments: list[Segment], wanted: bytes) -> int | None:
    """The address of bytes that occur exactly once in all segments."""
    found = [at for each in segments if (at := each.find(wanted)) is not None]
    return found[0] if len(found) == 1 else None


def _bytes(segments: list[Segment], address: int, length: int) -> bytes:
    """The bytes of a file at an address in memory."""
    segment = max((each for each in segments if each.address <= address), key=lambda s: s.address)
    return segment.data[address - segment.address :][:length]
