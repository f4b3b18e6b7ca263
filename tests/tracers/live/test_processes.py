"""Who a process is, out of a /proc laid out for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memtap.tracers.host.procfs import user_name
from memtap.tracers.live.processes import descendants, pick_cgroup, read_parents, read_process
from memtap.tracers.model.process import Process

V2 = b"0::/user.slice/a b\n"
V1 = b"5:memory:/m\n4:cpu,cpuacct:/c\n1:name=systemd:/s\n"


def lay_out(root: Path, pid: int, name: bytes, uid: int = 0, cgroup: bytes = V2) -> None:
    """A process; `name` as /proc/PID/status has it."""
    process = root / f"proc/{pid}"
    process.mkdir(parents=True)
    ids = b"\t".join([b"%d" % uid, b"7", b"8", b"9"])
    lines = [b"Name:\t" + name, b"State:\tR (running)", b"Uid:\t" + ids, b"Groups:\t", b""]
    (process / "status").write_bytes(b"\n".join(lines))
    (process / "cgroup").write_bytes(cgroup)


def test_a_process_is_read(tmp_path: Path) -> None:
    lay_out(tmp_path, 5, b"cat", uid=0)
    assert read_process(5, tmp_path) == Process("cat", 0, "root", "/user.slice/a b")


def test_one_that_is_gone_is_nobody(tmp_path: Path) -> None:
    assert read_process(5, tmp_path) is None


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"a b (c)", "a b (c)"),
        (b"two\\nlines", "two\\nlines"),
        (b"back\\\\slash", "back\\\\slash"),
        (b"back\\\\nslash", "back\\\\nslash"),
        (b"\x1b[2J", "\\x1b[2J"),
        (b"Uid:\t9", "Uid:\\t9"),
        (b"", ""),
        (b"\xff", "\\xff"),
    ],
)
def test_a_name_is_shown_as_it_is_but_cannot_harm(
    written: bytes, shown: str, tmp_path: Path
) -> None:
    lay_out(tmp_path, 5, written)
    process = read_process(5, tmp_path)
    assert process is not None
    assert (process.comm, process.uid) == (shown, 0)


def test_this_process_is_who_it_is() -> None:
    process = read_process(os.getpid())
    assert process is not None
    assert (process.uid, process.user) == (os.getuid(), user_name(os.getuid()))


@pytest.mark.parametrize("uid", [4_000_000_000, 2**32 - 1])
def test_a_user_without_a_name_is_a_number(uid: int) -> None:
    assert user_name(uid) == str(uid)


@pytest.mark.parametrize(
    ("text", "cgroup"),
    [
        (V2, "/user.slice/a b"),
        (V1, "/m"),
        (V1 + V2, "/m"),
        (b"4:cpu,cpuacct:/c\n" + V2, "/user.slice/a b"),
        (b"3:cpuset,memory:/both\n", "/both"),
        (b"4:cpu:/c\n", "/"),
        (b"0::/with:colons:\n", "/with:colons:"),
        (b"0::/esc\x1b\n", "/esc\\x1b"),
        (b"", "/"),
    ],
)
def test_the_cgroup_is_the_one_that_memory_is_charged_to(text: bytes, cgroup: str) -> None:
    assert pick_cgroup(text) == cgroup


@pytest.mark.parametrize("name", [b"cat", b"a) S 9", b"two\nlines", b"(((", b"\xff \\"])
def test_a_parent_is_found_behind_any_name(name: bytes, tmp_path: Path) -> None:
    (tmp_path / "proc/5").mkdir(parents=True)
    (tmp_path / "proc/5/stat").write_bytes(b"5 (" + name + b") S 3 5 5 0 -1\n")
    assert read_parents(tmp_path) == {5: 3}


def test_what_is_no_process_or_gone_has_no_parent(tmp_path: Path) -> None:
    for name in ("6", "self", "sys"):
        (tmp_path / "proc" / name).mkdir(parents=True)
    assert read_parents(tmp_path) == {}


def test_the_parent_of_this_process_is_found() -> None:
    assert read_parents()[os.getpid()] == os.getppid()


@pytest.mark.parametrize(
    ("pid", "found"), [(1, {2, 3, 4, 5}), (2, {4, 5}), (4, {5}), (5, set()), (99, set())]
)
def test_descendants_are_children_and_theirs(pid: int, found: set[int]) -> None:
    assert descendants(pid, {1: 0, 2: 1, 3: 1, 4: 2, 5: 4, 6: 0}) == found


def test_a_loop_of_parents_seen_while_they_changed_ends() -> None:
    assert descendants(1, {2: 3, 3: 2, 1: 3}) == set()
    assert descendants(2, {2: 3, 3: 2}) == {2, 3}
