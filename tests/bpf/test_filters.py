"""What the user asked for, as macros of the C program."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import cast

import pytest

from memtap.bpf.btf import Btf
from memtap.bpf.errors import MemtapError
from memtap.bpf.filters import (
    CGROUP_PATH,
    CgroupMount,
    CgroupPlace,
    Filter,
    cgroup_mounts,
    find_cgroup,
    find_or_await,
    tgid_blocks,
)

NO_BTF = cast(Btf, None)

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
"""


def names_of(filter: Filter) -> list[str]:
    return [re.split(r"[ (]", line)[0] for line in filter.defines(NO_BTF)]


def words(line: str) -> bytes:
    """The 16 bytes that a FOLLOW_COMM of one name compares with."""
    found = dict(re.findall(r"comm\.words\[(\d)\] == (0x[0-9a-f]+)ULL", line))
    return b"".join(int(found[place], 16).to_bytes(8, "little") for place in ("0", "1"))


def test_without_a_wish_nothing_is_filtered() -> None:
    assert not Filter()
    assert Filter().defines(NO_BTF) == []


def test_processes_are_followed_with_their_children() -> None:
    assert names_of(Filter(by_tgid=True)) == ["FOLLOW_TGIDS", "TGID_BLOCKS", "FOLLOW_CHILDREN"]


def test_children_are_not_followed_where_they_should_not_be() -> None:
    assert names_of(Filter(by_tgid=True, follow=False)) == ["FOLLOW_TGIDS", "TGID_BLOCKS"]


def test_there_is_a_mark_for_every_process_number() -> None:
    most = int(Path("/proc/sys/kernel/pid_max").read_text())
    assert tgid_blocks() * 64 > most


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("cat", b"cat"),
        ("exactly15bytes!", b"exactly15bytes!"),
        ("longer than 15 bytes", b"longer than 15 "),
        ('"; } evil', b'"; } evil'),
        ("grüße", "grüße".encode()),
        ("\udcff", b"\xff"),
    ],
)
def test_a_name_is_compared_as_the_kernel_keeps_it(name: str, kept: bytes) -> None:
    (line,) = Filter(comms=(name,)).defines(NO_BTF)
    assert words(line) == kept.ljust(16, b"\0")
    assert name not in line


def test_any_of_several_names_will_do() -> None:
    (line,) = Filter(comms=("a", "b")).defines(NO_BTF)
    assert line.startswith("FOLLOW_COMM(comm) ((")
    assert line.count(") || (") == 1


def test_cgroup_hierarchies_are_found_v2_first() -> None:
    assert cgroup_mounts(HYBRID) == [
        CgroupMount(Path("/sys/fs/cgroup/unified"), ()),
        CgroupMount(Path("/sys/fs/cgroup/memory"), ("memory",)),
        CgroupMount(Path("/sys/fs/cgroup/cpu"), ("cpu", "cpuacct")),
        CgroupMount(Path("/sys/fs/cgroup/systemd"), ("name=systemd",)),
    ]


def test_the_hierarchies_of_this_machine_can_be_read() -> None:
    for mount in cgroup_mounts(Path("/proc/self/mountinfo").read_text()):
        assert (mount.path / "cgroup.procs").exists()


@pytest.fixture
def mounts(tmp_path: Path) -> list[CgroupMount]:
    """v2 with /both, v1's memory with /both and /old, v1's cpu with /busy."""
    for path in ("v2/both", "memory/both", "memory/old", "cpu/busy"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "v2/file").touch()
    return [
        CgroupMount(tmp_path / "v2", ()),
        CgroupMount(tmp_path / "memory", ("memory",)),
        CgroupMount(tmp_path / "cpu", ("cpu",)),
    ]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("/both", "v2/both"),
        ("both/", "v2/both"),
        ("/", "v2"),
        ("/old", "memory/old"),
        ("{root}/memory/both", "memory/both"),
        ("{root}/cpu/busy", "cpu/busy"),
        ("{root}/cpu/../memory/old", "memory/old"),
    ],
)
def test_a_cgroup_is_found_by_directory_or_path(
    wanted: str, found: str, mounts: list[CgroupMount], tmp_path: Path
) -> None:
    mount, path = find_cgroup(wanted.format(root=tmp_path), mounts)
    assert path == tmp_path / found
    assert path.is_relative_to(mount.path)


@pytest.mark.parametrize("wanted", ["/none", "/busy", "/file", "/both\0x", "../memory/old"])
def test_a_cgroup_that_is_not_there_is_said(wanted: str, mounts: list[CgroupMount]) -> None:
    with pytest.raises(MemtapError, match="no cgroup"):
        find_cgroup(wanted, mounts)


@pytest.mark.parametrize(
    ("wanted", "can_be"),
    [
        ("/old", ["memory/old"]),
        ("/old/new", ["memory/old/new"]),
        ("/new", ["v2/new", "memory/new"]),
        ("/both/new", ["v2/both/new", "memory/both/new"]),
        ("{root}/v2/new", ["v2/new"]),
    ],
)
def test_a_cgroup_can_be_made_later_where_the_one_above_it_is(
    wanted: str, can_be: list[str], mounts: list[CgroupMount], tmp_path: Path
) -> None:
    places = find_or_await(wanted.format(root=tmp_path), mounts)
    assert [each.folder for each in places] == [tmp_path / each for each in can_be]
    for place in places:
        path = f"/{place.folder.relative_to(place.mount.path)}".encode()
        number, _, *words = place.words()
        assert number == 0
        assert struct.pack("<32Q", *words) == path.ljust(CGROUP_PATH, b"\0")


@pytest.mark.parametrize(
    "wanted", ["/none/new", "/file", "/file/new", "/a\0b", "/" + "x/" * 200, "{root}/cpu/new"]
)
def test_a_cgroup_that_cannot_be_made_there_is_said(
    wanted: str, mounts: list[CgroupMount], tmp_path: Path
) -> None:
    (tmp_path / "memory/file").touch()
    with pytest.raises(MemtapError, match="no cgroup"):
        find_or_await(wanted.format(root=tmp_path), mounts)


def test_a_path_is_as_the_hierarchy_has_it_where_a_part_of_that_is_mounted(tmp_path: Path) -> None:
    place = CgroupPlace(CgroupMount(tmp_path, (), "/docker/1"), tmp_path / "sub")
    assert struct.pack("<32Q", *place.words()[2:]).rstrip(b"\0") == b"/docker/1/sub"


def test_a_cgroup_is_known_by_the_number_of_its_directory(btf: Btf) -> None:
    mounts = cgroup_mounts(Path("/proc/self/mountinfo").read_text())
    if not mounts:
        pytest.skip("no cgroup hierarchy is mounted here")
    for mount in mounts:
        if mount.controllers[:1] == ("name=systemd",):
            continue
        wish = Filter(cgroups=(str(mount.path),))
        count, line = wish.defines(btf)
        version = "v1" if mount.controllers else "v2"
        assert count == "WANTED_CGROUPS 1"
        assert line.startswith(f"FOLLOW_CGROUP(task) (is_under_{version}(task, ")
        assert line.endswith("wanted_id(0)))")
        assert [place.id() for place in wish.places] == [mount.path.stat().st_ino]
        assert wish.awaited == []
