"""The kernel's types, compared with what bpftool says of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from memtap.bpf.btf import Btf, Member, defines, member_path, mentions


@dataclass
class Type:
    """A type as `bpftool btf dump` prints it; members are names, type numbers and bits."""

    kind: str
    name: str
    size: int
    target: int
    members: list[tuple[str, int, int]] = field(default_factory=list)
    values: dict[str, int] = field(default_factory=dict)


class Dump:
    """All types, by number."""

    def __init__(self, text: str) -> None:
        self.types: dict[int, Type] = {}
        for line in text.splitlines():
            if head := re.match(r"\[(\d+)\] (\w+) '(.*?)' .*?(size|type_id)=(\d+)", line):
                size, target = (int(head[5]), 0) if head[4] == "size" else (0, int(head[5]))
                current = self.types[int(head[1])] = Type(head[2], head[3], size, target)
            elif member := re.match(r"\t'(.*)' type_id=(\d+) bits_offset=(\d+)", line):
                current.members.append((member[1], int(member[2]), int(member[3])))
            elif value := re.match(r"\t'(.*)' val=(-?\d+)", line):
                current.values[value[1]] = int(value[2])

    def find(self, kind: str, name: str) -> Type:
        return next(t for t in self.types.values() if (t.kind, t.name) == (kind, name))

    def offset(self, struct: Type, path: str) -> int:
        """In bytes, of a member by dots."""
        places = {name: (number, bits) for name, number, bits in self._places(struct, 0)}
        name, _, rest = path.partition(".")
        number, bits = places[name]
        return bits // 8 + (self.offset(self._plain(number), rest) if rest else 0)

    def _places(self, struct: Type, base: int) -> Iterator[tuple[str, int, int]]:
        for name, number, bits in struct.members:
            yield name, number, base + bits
            if name == "(anon)":
                yield from self._places(self._plain(number), base + bits)

    def _plain(self, number: int) -> Type:
        found = self.types[number]
        return self._plain(found.target) if found.target else found


@pytest.fixture(scope="module")
def dump() -> Dump:
    if not shutil.which("bpftool"):
        pytest.skip("bpftool is not installed")
    command = ["bpftool", "btf", "dump", "file", "/sys/kernel/btf/vmlinux", "format", "raw"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"bpftool cannot read this kernel's BTF: {done.stderr}")
    return Dump(done.stdout)


@pytest.mark.parametrize(
    ("struct", "path", "size"),
    [
        ("task_struct", "tgid", 4),
        ("task_struct", "comm", 16),
        ("task_struct", "group_leader", 8),
        ("task_struct", "ioac.syscr", 8),
        ("inode", "i_ino", 8),
        ("inode", "i_mode", 2),
        ("inode", "i_dentry.first", 8),
        ("inode", "i_data.host", 8),
        ("dentry", "d_name.name", 8),
        ("super_block", "s_dev", 4),
    ],
)
def test_a_member_stands_where_bpftool_says(
    struct: str, path: str, size: int, btf: Btf, dump: Dump
) -> None:
    assert btf.member(struct, path) == Member(dump.offset(dump.find("STRUCT", struct), path), size)


@pytest.mark.parametrize("struct", ["page", "task_struct", "inode"])
def test_a_struct_is_as_large_as_bpftool_says(struct: str, btf: Btf, dump: Dump) -> None:
    assert btf.size(struct) == dump.find("STRUCT", struct).size


@pytest.mark.parametrize(
    ("enum", "name"),
    [("pageflags", "PG_head"), ("pageflags", "PG_locked"), ("rpm_status", "RPM_INVALID")],
)
def test_an_enumerator_has_the_value_that_bpftool_says(
    enum: str, name: str, btf: Btf, dump: Dump
) -> None:
    assert btf.enumerator(enum, name) == dump.find("ENUM", enum).values[name]


def test_what_the_kernel_does_not_have_is_none(btf: Btf) -> None:
    assert btf.size("no_such_struct") is None
    assert btf.member("no_such_struct", "x") is None
    assert btf.member("inode", "no_such_member") is None
    assert btf.member("inode", "i_ino.x") is None
    assert btf.enumerator("pageflags", "PG_none") is None
    assert btf.enumerator("no_such_enum", "x") is None


@pytest.mark.parametrize(("name", "has"), [("sched_process_fork", True), ("no_such_event", False)])
def test_a_tracepoint_is_known_by_its_bare_name(name: str, has: bool, btf: Btf) -> None:
    assert btf.has_raw_tracepoint(name) is has


@pytest.mark.parametrize(("name", "has"), [("vfs_read", True), ("inode", False)])
def test_a_function_is_known_by_its_name(name: str, has: bool, btf: Btf) -> None:
    assert btf.has_function(name) is has


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FIELD(task, task_struct, tgid)", {("member", "task_struct", "tgid")}),
        ("PEEK(f(a, b), inode, i_ino)", {("member", "inode", "i_ino")}),
        ("FIELD(FIELD(a, b, c), d, e)", {("member", "b", "c"), ("member", "d", "e")}),
        ("OFFSET(dentry, d_u__d_alias)", {("member", "dentry", "d_u__d_alias")}),
        ("#if HAVE(folio, _flags_1)", {("member", "folio", "_flags_1")}),
        ("ENUM(pageflags, PG_head)", {("enum", "pageflags", "PG_head")}),
        ("SIZE(page) + 1", {("size", "page")}),
        ("FIELD(a,\n      b,\n      c)", {("member", "b", "c")}),
        ("MY_FIELD(a, b, c) FIELD_AS(u64, a, 3) FIELD_X(a)", set()),
        (
            "#define FIELD(pointer, type, member) FIELD_##type##__##member(pointer)",
            {("member", "type", "member")},
        ),
    ],
)
def test_what_a_program_mentions(text: str, found: set[tuple[str, ...]]) -> None:
    assert mentions(text) == found


@pytest.mark.parametrize(
    ("member", "path"),
    [
        ("i_ino", "i_ino"),
        ("ioac__syscr", "ioac.syscr"),
        ("a__b__c", "a.b.c"),
        ("_flags_1", "_flags_1"),
        ("__private", "__private"),
        ("__a__b", "__a.b"),
    ],
)
def test_two_underscores_inside_a_name_are_a_dot(member: str, path: str) -> None:
    assert member_path(member) == path


def test_defines_give_offsets_sizes_and_values(btf: Btf) -> None:
    ino, head = btf.member("inode", "i_ino"), btf.enumerator("pageflags", "PG_head")
    assert ino
    text = "FIELD(i, inode, i_ino) ENUM(pageflags, PG_head) SIZE(page)"
    assert defines(btf, text).splitlines() == [
        f"#define ENUM_pageflags__PG_head {head}",
        "#define HAVE_inode__i_ino 1",
        f"#define OFFSET_inode__i_ino {ino.offset}",
        f"#define FIELD_inode__i_ino(pointer) FIELD_AS(u64, pointer, {ino.offset})",
        f"#define PEEK_inode__i_ino(pointer) PEEK_AS(u64, pointer, {ino.offset})",
        f"#define SIZE_page {btf.size('page')}",
    ]


def test_a_member_that_is_no_word_has_an_offset_alone(btf: Btf) -> None:
    lines = defines(btf, "OFFSET(task_struct, comm)").splitlines()
    assert [line.split()[1] for line in lines] == [
        "HAVE_task_struct__comm",
        "OFFSET_task_struct__comm",
    ]


def test_a_flag_is_a_bit_of_a_byte(btf: Btf, dump: Dump) -> None:
    members = dump.find("STRUCT", "task_struct").members
    bits = next(bits for name, _, bits in members if name == "in_iowait")
    flag = btf.member("task_struct", "in_iowait")
    assert flag and (flag.offset, flag.bit) == divmod(bits, 8)
    assert defines(btf, "FLAG(task, task_struct, in_iowait)").splitlines() == [
        f"#define OFFSET_task_struct__in_iowait {flag.offset}",
        f"#define BIT_task_struct__in_iowait {1 << flag.bit}",
    ]


def test_what_the_kernel_does_not_have_is_not_defined(btf: Btf) -> None:
    assert defines(btf, "FIELD(i, inode, none) ENUM(pageflags, none) SIZE(none)") == ""
