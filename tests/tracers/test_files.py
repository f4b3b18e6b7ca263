"""Paths of files that the kernel names by device, inode and dentries."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtap.bpf.stream import NameRecord
from memtap.tracers.files import Files, Mount, dev_text, parse_mounts, place

MOUNTINFO = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 8:2 /bound/here /srv/bind rw - ext4 /dev/sdb1 rw
24 22 8:2 / /data rw shared:2 master:3 - ext4 /dev/sdb1 rw
25 22 0:40 / /with\040space\134and\011tab rw - btrfs /dev/sdc rw
26 22 8:3 /only/part /part rw - xfs /dev/sdd rw
"""
SDA, SDB, BTRFS, SDD = 8 << 20 | 1, 8 << 20 | 2, 40, 8 << 20 | 3


@pytest.fixture
def files(tmp_path: Path) -> Files:
    proc = tmp_path / "proc/self"
    proc.mkdir(parents=True)
    (proc / "mountinfo").write_bytes(MOUNTINFO)
    block = tmp_path / "sys/dev/block"
    block.mkdir(parents=True)
    (block / "8:1").symlink_to("../../devices/pci/sda/sda1")
    return Files(tmp_path)


def path_of(files: Files, dev: int, *names: bytes, rdev: int = 0) -> str:
    """`names` from the root down."""
    record = NameRecord(dev, 7, rdev, [*reversed(names)])
    return files.resolve([record])[dev, 7]


@pytest.mark.parametrize(
    ("dev", "text"), [(SDA, "8:1"), (40, "0:40"), (259 << 20 | 70000, "259:70000")]
)
def test_a_device_is_written_as_in_mountinfo(dev: int, text: str) -> None:
    assert dev_text(dev) == text


def test_mounts_of_whole_file_systems_come_first() -> None:
    points = [mount.point for mount in parse_mounts(MOUNTINFO)["8:2"]]
    assert points == [b"/data", b"/srv/bind"]


def test_escapes_in_mountinfo_are_undone() -> None:
    assert parse_mounts(MOUNTINFO)["0:40"] == [Mount(b"/", b"/with space\\and\ttab")]


def test_mountinfo_of_this_machine_has_a_root() -> None:
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_bytes())
    assert b"/" in {mount.point for found in mounts.values() for mount in found}


@pytest.mark.parametrize(
    ("dev", "names", "path"),
    [
        (SDA, (b"etc", b"passwd"), "/etc/passwd"),
        (SDB, (b"bound", b"here", b"x"), "/data/bound/here/x"),
        (SDD, (b"only", b"part", b"x"), "/part/x"),
        (SDD, (b"only", b"part"), "/part"),
        (SDD, (b"only", b"partition"), "[8:3]/only/partition"),
        (SDD, (b"elsewhere",), "[8:3]/elsewhere"),
        (BTRFS, (b"x",), "/with space\\\\and\\ttab/x"),
        (99, (b"x",), "[0:99]/x"),
        (SDA, (b"a\nb\x1b", b"\xff\\"), "/a\\nb\\x1b/\\xff\\\\"),
    ],
)
def test_a_path_is_what_one_would_open(
    files: Files, dev: int, names: tuple[bytes, ...], path: str
) -> None:
    assert path_of(files, dev, *names) == path


@pytest.mark.parametrize(("rdev", "path"), [(SDA, "/dev/sda1"), (SDB, "[8:2]")])
def test_a_block_devices_own_cache_has_the_devices_name(files: Files, rdev: int, path: str) -> None:
    assert path_of(files, 5, rdev=rdev) == path


def test_the_root_of_a_bind_mount_is_its_mount_point() -> None:
    assert place(b"/a", "8:1", [Mount(b"/a", b"/")]) == b"/"


def test_a_file_system_mounted_later_is_found(files: Files, tmp_path: Path) -> None:
    assert path_of(files, 77, b"x") == "[0:77]/x"
    with (tmp_path / "proc/self/mountinfo").open("ab") as mountinfo:
        mountinfo.write(b"30 22 0:77 / /new rw - ext4 /dev/x rw\n")
    assert path_of(files, 77, b"x") == "/new/x"
