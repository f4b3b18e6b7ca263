"""Paths of files that the kernel names by device, inode and dentries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memtap.bpf.stream import NameRecord
from memtap.tracers.host import files as module
from memtap.tracers.host.files import (
    BUCKETS,
    FileName,
    Files,
    Mount,
    NameFlag,
    bucket_of,
    dev_text,
    parse_mounts,
    place,
)

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


def record(*names: bytes, **members: Any) -> NameRecord:
    """`names` from the root down."""
    usual = {"ns": 0, "file": 5, "ino": 7, "dev": SDA, "volume": SDA, "rdev": 0, "generation": 1}
    usual |= {"mount": 0, "flags": 0}
    usual |= {"names": b"".join(name + b"\0" for name in reversed(names))}
    return NameRecord(**(usual | members))


def told(files: Files, *records: NameRecord) -> list[FileName]:
    """The names of files as they are told, in this order."""
    return [name for each in records for name in files.resolve([each]).values()]


def path_of(files: Files, dev: int, *names: bytes, **members: int) -> str:
    (name,) = told(files, record(*names, dev=dev, **members))
    return name.path


def numbers(files: Files, *identities: int) -> list[int]:
    return files.number(np.array(identities, np.uint64)).tolist()


@pytest.mark.parametrize(
    ("dev", "text"), [(SDA, "8:1"), (40, "0:40"), (259 << 20 | 70000, "259:70000")]
)
def test_a_device_is_written_as_in_mountinfo(dev: int, text: str) -> None:
    assert dev_text(dev) == text


def test_mounts_of_whole_file_systems_come_first() -> None:
    points = [mount.point for mount in parse_mounts(MOUNTINFO).of["8:2"]]
    assert points == [b"/data", b"/srv/bind"]


def test_escapes_in_mountinfo_are_undone() -> None:
    assert parse_mounts(MOUNTINFO).of["0:40"] == [Mount(b"/", b"/with space\\and\ttab")]


def test_mountinfo_of_this_machine_has_a_root() -> None:
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_bytes())
    assert b"/" in {mount.point for found in mounts.of.values() for mount in found}


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


def test_a_file_is_found_through_the_mount_by_which_it_was_opened(files: Files) -> None:
    names = (b"bound", b"here", b"x")
    assert path_of(files, SDB, *names, mount=23) == "/srv/bind/x"
    assert path_of(files, SDB, *names, mount=24) == "/data/bound/here/x"
    assert path_of(files, SDB, *names, mount=99) == "/data/bound/here/x"


def test_the_device_is_that_of_the_subvolume(files: Files) -> None:
    (name,) = told(files, record(b"x", dev=BTRFS, volume=47))
    assert name == FileName("0:47", 7, "/with space\\\\and\\ttab/x")


def test_numbers_are_small_and_keep_the_bucket(files: Files) -> None:
    identities = [2**63 + 77, 2**40 + 5, 77]
    found = numbers(files, *identities, identities[0])
    assert len(set(found)) == 3
    assert found[3] == found[0]
    assert max(found) < 10 * BUCKETS
    assert bucket_of(np.array(found)).tolist() == [each % BUCKETS for each in (*identities, 77)]


def test_a_file_that_left_memory_and_came_back_is_the_same(files: Files) -> None:
    files.resolve([record(b"x", file=1), record(b"x", file=2)])
    assert len(set(numbers(files, 1, 2))) == 1


@pytest.mark.parametrize("other", [{"generation": 2}, {"volume": 9}, {"ino": 8}])
def test_other_files_are_others(files: Files, other: dict[str, int]) -> None:
    files.resolve([record(b"x", file=1), record(b"x", file=2, **other)])
    assert len(set(numbers(files, 1, 2))) == 2


def test_files_of_which_several_have_one_number_are_told_apart(files: Files) -> None:
    both = [record(b"x", file=1, flags=NameFlag.ALONE), record(b"x", file=2, flags=NameFlag.ALONE)]
    files.resolve(both)
    assert len(set(numbers(files, 1, 2))) == 2


def test_the_number_of_a_file_that_is_gone_is_used_again_for_another(files: Files) -> None:
    gone = NameFlag.DELETED | NameFlag.GONE
    files.resolve([record(b"x", file=1), record(file=1, flags=gone), record(b"x", file=2)])
    assert len(set(numbers(files, 1, 2))) == 2


def test_a_deleted_file_says_so_once(files: Files) -> None:
    told_of = [
        record(b"x"),
        record(b"x", flags=NameFlag.DELETED),
        record(flags=NameFlag.DELETED | NameFlag.GONE),
    ]
    assert [name.path for name in told(files, *told_of)] == ["/x", "/x (deleted)", "/x (deleted)"]


def test_a_file_without_a_name_is_known_by_its_number(files: Files) -> None:
    assert told(files, record()) == [FileName("8:1", 7, "?")]


def test_a_file_that_is_renamed_has_its_new_name(files: Files) -> None:
    assert [name.path for name in told(files, record(b"x"), record(b"y"))] == ["/x", "/y"]


def test_so_many_files_are_remembered(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILES", 2)
    files.resolve([record(b"x", file=number, ino=number) for number in range(1, 6)])
    first = numbers(files, 1, 2, 3, 4, 5)
    assert numbers(files, 1, 2, 3, 4, 5) == first, "all that are in use are known"
    assert numbers(files, 1) == first[:1]
    assert (len(files._known), len(files._lasting)) == (3, 3)
    assert numbers(files, 5, 4) == [first[4], first[3]], "and those that were in use before"
    assert numbers(files, 3) != first[2:3]
