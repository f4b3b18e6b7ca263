"""Types of the running kernel, from its own BTF (/sys/kernel/btf/vmlinux), and of its modules."""

from __future__ import annotations

import ctypes as ct
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from memtap.bpf import libbpf
from memtap.bpf.errors import MemtapError

# Kinds of uapi/linux/btf.h.
_PTR, _STRUCT, _UNION, _ENUM, _TYPEDEF, _FUNC, _VAR = 2, 4, 5, 6, 8, 12, 14
_WRAPPERS = (8, 9, 10, 11, 18)  # typedef, volatile, const, restrict, type tag

# No helper has a number like this: a call of it means the kernel function of the lower bits.
KFUNC_CALL = 1 << 30

# File systems of which structs are asked for; a struct of theirs begins with the module's name.
_MODULES = ("btrfs",)

_WORDS = {1: "u8", 2: "u16", 4: "u32", 8: "u64"}


class _Type(ct.Structure):
    """struct btf_type; `size_or_type` is a size for a struct, a type id for a typedef."""

    _fields_ = [("name", ct.c_uint32), ("info", ct.c_uint32), ("size_or_type", ct.c_uint32)]

    name: int
    info: int
    size_or_type: int

    @property
    def kind(self) -> int:
        return self.info >> 24 & 0x1F

    @property
    def count(self) -> int:
        return self.info & 0xFFFF


class _Entry(ct.Structure):
    """struct btf_member, and struct btf_enum64, which has the same size."""

    _fields_ = [("name", ct.c_uint32), ("second", ct.c_uint32), ("third", ct.c_uint32)]

    name: int
    second: int
    third: int


class _Enumerator(ct.Structure):
    """struct btf_enum."""

    _fields_ = [("name", ct.c_uint32), ("value", ct.c_int32)]

    name: int
    value: int


class _Parameter(ct.Structure):
    """struct btf_param."""

    _fields_ = [("name", ct.c_uint32), ("type", ct.c_uint32)]

    name: int
    type: int


@dataclass(frozen=True)
class Member:
    """A member's place in its struct, in bytes, and its first bit within the first byte."""

    offset: int
    size: int
    bit: int = 0


class Btf:
    """The kernel's types by name. Raises MemtapError where the kernel has no BTF.

    Members of a module's structs are found if it is there by then, and the kernel tells its types.
    """

    def __init__(self) -> None:
        self._lib = libbpf.library()
        self._btf = self._lib.btf__load_vmlinux_btf()
        if not self._btf:
            raise MemtapError(
                "this kernel has no BTF (/sys/kernel/btf/vmlinux)",
                "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y",
            )
        self._numbers: dict[tuple[str, int], int] = {}
        self._modules: dict[str, _Module | None] = {}

    def has_raw_tracepoint(self, name: str) -> bool:
        """Does the kernel have this tracepoint, by its bare name (btf_trace_NAME)?"""
        return self.attach_id("tp_btf", name) > 0

    def has_function(self, name: str) -> bool:
        """Is this function in the BTF, that is, can fentry name it?"""
        return self.attach_id("fentry", name) > 0

    def has_variable(self, name: str) -> bool:
        """Is there a per-CPU variable of this name? Other variables are not in the BTF."""
        return self._find(name, _VAR) > 0

    def attach_id(self, kind: Literal["tp_btf", "fentry", "fexit", "iter"], target: str) -> int:
        """The type that names a place to attach to; 0 or less if there is none."""
        if kind == "tp_btf":
            return self._find(f"btf_trace_{target}", _TYPEDEF)
        return self._find(f"bpf_iter_{target}" if kind == "iter" else target, _FUNC)

    def struct_id(self, struct: str) -> int:
        """The id of a struct's type; below 1 if the kernel has no such struct."""
        return self._find(struct, _STRUCT)

    def argument(self, tracepoint: str, number: int) -> str | None:
        """The struct that an argument of a tracepoint points to, counted from 0; None if none."""
        function = self._find(f"btf_trace_{tracepoint}", _TYPEDEF)
        if function <= 0:
            return None
        prototype = self._type(self._type(function).size_or_type).size_or_type  # of the pointer
        count = self._type(prototype).count - 1  # the first is the kernel's own
        if number >= count:
            return None
        parameters = (_Parameter * (count + 1)).from_address(self._body(prototype))
        pointer = self._type(self._unwrap(parameters[number + 1].type))
        if pointer.kind != _PTR or pointer.size_or_type == 0:
            return None
        pointed = self._type(self._unwrap(pointer.size_or_type))
        return self._name(pointed.name) if pointed.kind == _STRUCT else None

    def size(self, struct: str) -> int | None:
        """sizeof(struct), or None if there is no such struct."""
        number = self._find(struct, _STRUCT)
        return self._type(number).size_or_type if number > 0 else None

    def member(self, struct: str, path: str) -> Member | None:
        """The member of a struct or union, or a member of that by dots (`ioac.syscr`), or None."""
        number = self._find(struct, _STRUCT)
        if number <= 0:
            number = self._find(struct, _UNION)
        if number <= 0 and (module := self._module(struct)):
            return module.member(struct, path)
        found = Member(0, 0)
        for name in path.split("."):
            step = self._search(number, name) if number > 0 else None
            if step is None:
                return None
            number, bits = step
            size = self._lib.btf__resolve_size(self._btf, number)
            found = Member(found.offset + bits // 8, size, bits % 8)
        return found

    def enumerator(self, enum: str, name: str) -> int | None:
        """The value of an enumerator of a named enum, or None."""
        number = self._find(enum, _ENUM)
        if number <= 0:
            return None
        kind = self._type(number)
        values = (_Enumerator * kind.count).from_address(self._body(number))
        for entry in values:
            if self._name(entry.name) == name:
                return int(entry.value)
        return None

    def _module(self, struct: str) -> _Module | None:
        """The types of the module that a struct is of, by its name; None if there are none."""
        name = struct.partition("_")[0]
        if name in _MODULES and name not in self._modules:
            btf = self._lib.btf__load_module_btf(name.encode(), self._btf)
            self._modules[name] = _Module(btf) if btf else None
        return self._modules.get(name)

    def _find(self, name: str, kind: int) -> int:
        """A type's number, 0 or less if there is none; kept, as libbpf looks at 100,000 types."""
        if (name, kind) not in self._numbers:
            number = self._lib.btf__find_by_name_kind(self._btf, name.encode(), kind)
            self._numbers[name, kind] = number
        return self._numbers[name, kind]

    def _type(self, number: int) -> _Type:
        return _Type.from_address(self._lib.btf__type_by_id(self._btf, number))

    def _body(self, number: int) -> int:
        address: int = self._lib.btf__type_by_id(self._btf, number)
        return address + ct.sizeof(_Type)

    def _name(self, offset: int) -> str:
        name: bytes = self._lib.btf__name_by_offset(self._btf, offset)
        return name.decode()

    def _unwrap(self, number: int) -> int:
        while self._type(number).kind in _WRAPPERS:
            number = self._type(number).size_or_type
        return number

    def _members(self, number: int) -> Iterator[tuple[str, int, int]]:
        """Name, type and offset (in bits) of each member of a struct or union."""
        number = self._unwrap(number)
        kind = self._type(number)
        if kind.kind not in (_STRUCT, _UNION):
            return
        for entry in (_Entry * kind.count).from_address(self._body(number)):
            bits = entry.third & 0xFFFFFF if kind.info >> 31 else entry.third
            yield self._name(entry.name), entry.second, bits

    def _search(self, number: int, wanted: str) -> tuple[int, int] | None:
        """Type and offset (in bits) of a member, also inside anonymous structs and unions."""
        for name, member, bits in self._members(number):
            if name == wanted:
                return member, bits
            inside = self._search(member, wanted) if name == "" else None
            if inside:
                return inside[0], bits + inside[1]
        return None


class _Module(Btf):
    """The types of a module, which go on from those of the kernel."""

    def __init__(self, btf: int) -> None:
        self._lib, self._btf = libbpf.library(), btf
        self._numbers = {}

    def _module(self, struct: str) -> None:
        """It has no modules."""


@cache
def vmlinux() -> Btf:
    """The running kernel's BTF, read once."""
    return Btf()


# What these two macros mention; the others mention a member.
_MENTIONS = {"ENUM": "enum", "FLAG": "flag"}
_MENTION = re.compile(r"\b(FIELD|PEEK|FLAG|OFFSET|HAVE|ENUM|SIZE|CAST|KFUNC|HELPER)\(")
_OF_ONE_NAME = ("SIZE", "CAST", "KFUNC", "HELPER")


def mentions(text: str) -> set[tuple[str, ...]]:
    """What a program mentions by the macros of memtap/fields.h, as tuples.

    ("member", struct, member), ("flag", struct, member), ("enum", enum, enumerator),
    ("size", struct), ("cast", struct), ("kfunc", function) and ("helper", name).
    """
    found: set[tuple[str, ...]] = set()
    for match in _MENTION.finditer(text):
        names = _arguments(text, match.end())
        mentioned = names[-1:] if match[1] in _OF_ONE_NAME else names[-2:]
        if not all(re.fullmatch(r"\w+", name) for name in mentioned):
            continue
        if match[1] in _OF_ONE_NAME:
            found.add((match[1].lower(), *mentioned))
        elif len(mentioned) == 2:
            found.add((_MENTIONS.get(match[1], "member"), *mentioned))
    return found


def _arguments(text: str, start: int) -> list[str]:
    """The arguments of a macro call whose opening parenthesis ends at `start`."""
    depth, names, begin = 0, [], start
    for at in range(start, len(text)):
        character = text[at]
        if character == "(":
            depth += 1
        elif character == ")" and depth:
            depth -= 1
        elif character in ",)" and depth == 0:
            names.append(text[begin:at].strip())
            begin = at + 1
            if character == ")":
                break
    return names


def defines(btf: Btf, text: str) -> str:
    """The #define lines that give the macros in `text` this kernel's offsets and values.

    A member that this kernel does not have gets no line, so its use outside of an
    #if HAVE(...) is a compile error that names it.
    """
    lines: list[str] = []
    for kind, name, *rest in sorted(mentions(text)):
        if kind == "size":
            size = btf.size(name)
            lines += [] if size is None else [f"#define SIZE_{name} {size}"]
        elif kind == "cast":
            number = btf.struct_id(name)
            lines += [f"#define TYPE_{name} {number}"] if number > 0 else []
        elif kind == "kfunc":
            number = btf.attach_id("fentry", name)
            lines += [f"#define KFUNC_{name} {KFUNC_CALL | number:#x}"] if number > 0 else []
        elif kind == "helper":
            has_it = btf.enumerator("bpf_func_id", f"BPF_FUNC_{name}") is not None
            lines += [f"#define HELPER_{name} 1"] if has_it else []
        elif kind == "enum":
            value = btf.enumerator(name, rest[0])
            lines += [] if value is None else [f"#define ENUM_{name}__{rest[0]} {value}"]
        elif kind == "flag":
            lines += _flag_defines(btf, name, rest[0])
        else:
            lines += _member_defines(btf, name, rest[0])
    return "".join(f"{line}\n" for line in lines)


def member_path(member: str) -> str:
    """`ioac__syscr` as written in C is `ioac.syscr`; leading underscores belong to the name."""
    bare = member.lstrip("_")
    return member[: len(member) - len(bare)] + bare.replace("__", ".")


def _flag_defines(btf: Btf, struct: str, member: str) -> list[str]:
    found = btf.member(struct, member)
    if found is None:
        return []
    name = f"{struct}__{member}"
    return [f"#define OFFSET_{name} {found.offset}", f"#define BIT_{name} {1 << found.bit}"]


def _member_defines(btf: Btf, struct: str, member: str) -> list[str]:
    found = btf.member(struct, member_path(member))
    if found is None:
        return []
    name = f"{struct}__{member}"
    lines = [f"#define HAVE_{name} 1", f"#define OFFSET_{name} {found.offset}"]
    word = _WORDS.get(found.size)
    if word:
        lines += [
            f"#define {how}_{name}(pointer) {how}_AS({word}, pointer, {found.offset})"
            for how in ("FIELD", "PEEK")
        ]
    return lines
