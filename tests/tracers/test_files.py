"""How files are grouped and named, without a kernel."""

from __future__ import annotations

import numpy as np
import pytest

from memtap.tracers.files.columns import COUNTS
from memtap.tracers.files.gather import ROW, Gatherer, held, merged
from memtap.tracers.files.named import placed
from memtap.tracers.host.files import parse_mounts

FOUND = np.dtype(
    [
        *((name, "u8") for name in ("inode", "parent", "ino", "bytes", "cgroup")),
        *((name, "u4") for name in (*COUNTS, "volume", "rdev", "flags")),
    ]
)
HOLDERS = np.array([(1, 7), (3, 7), (3, 9)], [("inode", "u8"), ("tgid", "u8")])


def found(*files: tuple[int, int, int, int]) -> np.ndarray:
    """Files by inode, parent, cgroup and resident pages."""
    rows = np.zeros(len(files), FOUND)
    for at, name in enumerate(("inode", "parent", "cgroup", "resident")):
        rows[name] = [file[at] for file in files]
    return rows


def gathered(by: tuple[str, ...], **how: int) -> Gatherer:
    gatherer = Gatherer(by, HOLDERS, "resident", **how)
    gatherer.add(found((1, 50, 5, 10), (1, 50, 6, 1)), 100, open_inode=1)
    gatherer.add(found((1, 50, 5, 2), (2, 50, 5, 4)), 100, open_inode=0)
    gatherer.add(found((3, 0, 5, 8)), 101, open_inode=0)
    return gatherer


@pytest.mark.parametrize(
    ("by", "key", "rows"),
    [
        (("file",), "inode", [(1, 13, 1), (2, 4, 1), (3, 8, 1)]),
        (("directory",), "parent", [(50, 17, 2), (101, 8, 1)]),
        (("mount",), "super", [(100, 17, 2), (101, 8, 1)]),
        (("cgroup",), "cgroup", [(5, 24, 3), (6, 1, 1)]),
        (("process",), "tgid", [(0, 4, 1), (7, 21, 2), (9, 8, 1)]),
    ],
)
def test_files_are_grouped(by: tuple[str, ...], key: str, rows: list[tuple[int, ...]]) -> None:
    gatherer = gathered(by)
    groups = gatherer.groups()
    assert sorted(groups[[key, "resident", "files"]].tolist()) == rows
    assert (gatherer.totals["files"], gatherer.totals["resident"]) == (3, 25)


def test_files_with_the_most_have_rows() -> None:
    gatherer = gathered(("file",), most=2)
    assert sorted(gatherer.groups()["inode"].tolist()) == [1, 3]
    assert (gatherer.left_out, gatherer.totals["resident"]) == (1, 25)


def test_nothing_is_nothing() -> None:
    nothing = np.empty(0, ROW)
    assert len(merged(nothing, ("inode",))) == len(held(nothing, HOLDERS)) == 0
    assert len(Gatherer(("file",), HOLDERS, "resident").groups()) == 0


def test_a_path_is_told_from_where_its_file_system_is_mounted() -> None:
    mounts = parse_mounts(b"31 1 8:1 / /mnt\\040a rw - ext4 /dev/sda1 rw\n")
    dev = 8 << 20 | 1
    assert placed(mounts, dev, b"file\x1b\0below\0") == "/mnt a/below/file\\x1b"
    assert placed(mounts, dev, b"") == "/mnt a"
    assert placed(mounts, dev + 1, b"file\0") == "[8:2]/file"
