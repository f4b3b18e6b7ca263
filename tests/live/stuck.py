"""A file system that never answers a write, as any user may have one, and who is stuck in it.

python stuck.py serve FOLDER    mounts it, and answers until it is killed
python stuck.py hold FILE      holds its address space for writing, for as long as that lives
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
import threading
from pathlib import Path

# Of uapi/linux/fuse.h.
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, RELEASE, FLUSH, INIT = (
    1, 2, 3, 4, 14, 15, 16, 18, 25, 26,
)  # fmt: skip
_IN = struct.Struct("=IIQQIIII")
_OUT = struct.Struct("=IiQ")
_ATTR = struct.Struct("=6Q10I")
_ENOSYS = 38
_ROOT = 1

PAGE = mmap.PAGESIZE
_LIBC = ctypes.CDLL(None, use_errno=True)


def serve(folder: str) -> None:
    """A folder in which each name is a file of one page, which can be written to in memory."""
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
    if _LIBC.mount(b"stuck", folder.encode(), b"fuse", 0, options):
        raise OSError(ctypes.get_errno(), "mount")
    while True:
        request = os.read(fuse, 1 << 18)
        _, what, unique, node, *_ = _IN.unpack_from(request)
        if what in (WRITE, FORGET):
            continue
        body = _answer(what, node, request[_IN.size :])
        error = -_ENOSYS if body is None else 0
        os.write(fuse, _OUT.pack(_OUT.size + len(body or b""), error, unique) + (body or b""))


def _answer(what: int, node: int, request: bytes) -> bytes | None:
    if what == INIT:
        return struct.pack("=IIIIHHIIHH8I", 7, 31, 0, 0, 8, 8, PAGE, 1, 1, *[0] * 9)
    if what == LOOKUP:
        other = 1 + len(request)  # names of one length are one file
        return struct.pack("=QQQQII", other, 1, 1000, 1000, 0, 0) + _attr(other)
    if what in (GETATTR, SETATTR):
        return struct.pack("=QII", 1000, 0, 0) + _attr(node)
    if what == OPEN:
        return struct.pack("=QII", 1, 0, 0)
    if what == READ:
        return bytes(struct.unpack_from("=QQI", request)[2])
    return b"" if what in (RELEASE, FLUSH) else None


def _attr(node: int) -> bytes:
    mode = 0o40755 if node == _ROOT else 0o100666
    return _ATTR.pack(node, PAGE, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, PAGE, 0)


def hold(path: str) -> None:
    """Maps other memory over a page that has to be written back first, and waits for that."""
    with Path(path).open("r+b") as file:
        page = mmap.mmap(file.fileno(), PAGE)
    page[0] = 1
    threading.Thread(target=_read_on, daemon=True).start()
    place = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10  # MAP_FIXED
    print("holds", flush=True)
    _LIBC.mmap(place, ctypes.c_size_t(PAGE), mmap.PROT_READ, flags, -1, ctypes.c_long(0))


def _read_on() -> None:
    """So that there is something to report of it."""
    with Path("/usr/bin/env").open("rb", buffering=0) as file:
        buffer = bytearray(PAGE)
        while True:
            os.preadv(file.fileno(), [buffer], 0)


if __name__ == "__main__":
    {"serve": serve, "hold": hold}[sys.argv[1]](sys.argv[2])
