"""Records of perf that tell of mappings, forks and new programs."""

from __future__ import annotations

import struct

import pytest

from memtap.bpf import sideband
from memtap.bpf.sideband import Began, Ended, Forked, Lost, Mapped, decode

NS = 12345


def record(kind: int, body: bytes, misc: int = 0) -> bytes:
    """A record as the kernel writes it, its time last; perf may pad it."""
    whole = struct.pack("=IHH", kind, misc, 8 + len(body) + 8) + body + struct.pack("=Q", NS)
    return whole + b"\xff\xff\xff"


def mmap2(path: bytes = b"/lib/x.so", prot: int = 5, flags: int = 2) -> bytes:
    body = struct.pack(
        "=IIQQQIIQQII", 7, 8, 0x1000, 0x2000, 0x3000, 254, 3, 99, 1, prot, flags
    ) + path.ljust(16, b"\0")
    return record(sideband.MMAP2, body)


def test_a_mapping() -> None:
    assert decode(mmap2()) == Mapped(
        NS, 7, 0x1000, 0x3000, 0x3000, 254 << 20 | 3, 99, 5, 2, "/lib/x.so"
    )


def test_a_path_that_is_not_utf8_is_kept() -> None:
    told = decode(mmap2(b"/\xff\n"))
    assert isinstance(told, Mapped) and told.path.encode("utf-8", "surrogateescape") == b"/\xff\n"


def task(kind: int, *numbers: int) -> bytes:
    return record(kind, struct.pack("=IIIIQ", *numbers, NS))


def test_a_process_is_born_and_a_thread_is_not() -> None:
    assert decode(task(sideband.FORK, 8, 7, 8, 7)) == Forked(NS, 8, 7)
    assert decode(task(sideband.FORK, 7, 7, 9, 7)) is None


def test_the_end_of_a_process_is_that_of_its_first_thread() -> None:
    assert decode(task(sideband.EXIT, 8, 7, 8, 7)) == Ended(NS, 8)
    assert decode(task(sideband.EXIT, 8, 7, 9, 7)) is None


@pytest.mark.parametrize(("misc", "told"), [(1 << 13, Began(NS, 7)), (0, None)])
def test_a_new_name_is_a_new_program_only_after_exec(misc: int, told: Began | None) -> None:
    assert decode(record(sideband.COMM, struct.pack("=II", 7, 7) + b"cat\0\0\0\0\0", misc)) == told


def test_what_was_lost() -> None:
    assert decode(record(sideband.LOST, struct.pack("=QQ", 1, 42))) == Lost(NS, 42)
