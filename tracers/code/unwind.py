"""Finds callers: return addresses on stacks, by the tables that compilers write for debuggers.

Most code has no frame pointers. .eh_frame (the DWARF standard's call frame information) says where
its frames begin, and .eh_frame_hdr which entry is for which code. Only the entries that are asked
for are read: libc has ten thousand.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from memtap.tracers.code.objects import Code, Recent, open_code

U64 = npt.NDArray[np.uint64]
Places = npt.NDArray[np.intp]

WORD = 8

# The bits of a code address; arm64 can sign return addresses on the stack in the bits above.
_ADDRESS = np.uint64((1 << 48) - 1)

# The formats in .eh_frame_hdr, as all linkers write it: pointers relative to themselves, a count,
# and a table of pairs relative to the section.
_USUAL_FORMAT = bytes((1, 0x1B, 0x03, 0x3B))
_MOST_BYTES = 64 << 20

# The rules of a register that we know: saved on the stack, or unchanged.
_SIMPLE = ("OFFSET", "SAME_VALUE")


@dataclass(frozen=True)
class _Machine:
    """DWARF's numbers of registers.

    Attributes:
        bp, sp: base pointer (frame pointer) and stack pointer.
        back: the column of the return address.
        links: whether a call puts the return address into a register, not on the stack.
    """

    bp: int
    sp: int
    back: int
    links: bool


_MACHINES = {"EM_X86_64": _Machine(6, 7, 16, False), "EM_AARCH64": _Machine(29, 31, 30, True)}


@dataclass(frozen=True)
class Rule:
    """How to get from a frame to its caller's.

    Attributes:
        from_bp: whether the frame's end is relative to the base pointer, not the stack pointer.
        size: how far from there it is, in bytes.
        bp: where the caller's base pointer is saved, from the frame's end; None if it is unchanged.
        back: where the return address is saved, from there; None if it is still in its register.
    """

    from_bp: bool
    size: int
    bp: int | None
    back: int | None = -WORD


@dataclass(frozen=True)
class Frames:
    """A set of calls, each at one of its frames.

    Attributes:
        ip, sp, bp: registers in this frame; an ip of 0 ends the stack.
        base: where the copied part of each stack begins.
        words: the stack from there on, one row for each.
        link: the register with the return address; 0 if there is none, or it has been overwritten.
    """

    ip: U64
    sp: U64
    bp: U64
    base: U64
    words: npt.NDArray[np.uint64]
    link: U64

    def take(self, which: Places) -> Frames:
        """Some of the calls."""
        registers = (self.ip[which], self.sp[which], self.bp[which], self.base[which])
        return Frames(*registers, self.words[which], self.link[which])

    def up(self, rules: list[Rule | None], rule: Places) -> Frames:
        """One frame up; `rule` is the index of each call's rule in `rules`."""
        known = np.array([each is not None for each in rules], bool)[rule]
        there = [each or Rule(False, 0, None) for each in rules]
        from_bp = np.array([each.from_bp for each in there], bool)[rule]
        size = np.array([each.size for each in there], np.int64)[rule]
        keeps = np.array([each.bp is None for each in there], bool)[rule]
        saved = np.array([each.bp or 0 for each in there], np.int64)[rule]
        end = np.where(from_bp, self.bp, self.sp) + size.view(np.uint64)
        linked = np.array([each.back is None for each in there], bool)[rule]
        back = np.array([each.back or 0 for each in there], np.int64)[rule]
        ip = np.where(linked, self.link, self._word(end + back.view(np.uint64))) & _ADDRESS
        bp = self._word(end + saved.view(np.uint64))
        # A stack grows down, so the caller's frame lies above; a frame can also be empty.
        ip = np.where(known & ((end > self.sp) | (linked & (end == self.sp))), ip, np.uint64(0))
        bp = np.where(keeps, self.bp, bp)
        return Frames(ip, end, bp, self.base, self.words, np.zeros_like(self.link))

    def _word(self, address: U64) -> U64:
        """The word at an address; 0 if it is not in the copied part."""
        word = (address - self.base) // np.uint64(WORD)
        inside = (address >= self.base) & (word < self.words.shape[1]) & (address % WORD == 0)
        word = np.where(inside, word, 0).astype(np.intp)
        return np.where(inside, self.words[np.arange(len(word)), word], np.uint64(0))


class Rules:
    """Rules of all code. It raises nothing: code that cannot be read or understood has none."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._tables: Recent[_NoTable] = Recent()

    def find(self, tgid: int, code: Code, offset: int) -> Rule | None:
        """The rule for the instruction at an offset of a file that a process has mapped."""
        file = open_code(self._root, tgid, code) if code.has_file else None
        if file is None:
            return None
        with file:
            return self._tables.get(file, _read_table).find(offset)


class _NoTable:
    """The table of a file that is damaged, or of an unknown kind."""

    weight = 0

    def find(self, _offset: int) -> Rule | None:
        return None


class _Table(_NoTable):
    """The call frame information of one file."""

    def __init__(self, file: IO[bytes]) -> None:
        from elftools.elf.elffile import ELFFile

        elf = ELFFile(file)
        self._machine = _MACHINES[elf["e_machine"]]
        segments = list(elf.iter_segments())
        index = next(each for each in segments if each["p_type"] == "PT_GNU_EH_FRAME")
        loads = [each for each in segments if each["p_type"] == "PT_LOAD"]
        self._loads = [(each["p_offset"], each["p_filesz"], each["p_vaddr"]) for each in loads]
        self._at, raw = index["p_vaddr"], index.data()
        self._starts, self._entries = _pairs(raw)
        self._frames_at, self._frames = self._section(elf)
        self.weight = len(raw) + len(self._frames)
        self._rules: dict[int, Rule | None] = {}

    def _section(self, elf: Any) -> tuple[int, bytes]:
        section = elf.get_section_by_name(".eh_frame")
        if section["sh_size"] > _MOST_BYTES:
            raise ValueError("a section that is too large")
        return section["sh_addr"], section.data()

    def find(self, offset: int) -> Rule | None:
        if offset not in self._rules:
            self._rules[offset] = self._read(offset)
        return self._rules[offset]

    def _read(self, offset: int) -> Rule | None:
        try:
            return self._rule(self._address(offset))
        except Exception:  # a damaged file: there are too many ways, and pyelftools lists none
            return None

    def _address(self, offset: int) -> int:
        begin, _, address = next(
            each for each in self._loads if each[0] <= offset < each[0] + each[1]
        )
        return int(offset - begin + address)

    def _rule(self, address: int) -> Rule | None:
        row = int(np.searchsorted(self._starts, address - self._at, "right")) - 1
        if row < 0:
            return None
        inside = address - self._at - int(self._starts[row])
        entry = self._entry(self._at + int(self._entries[row]) - self._frames_at)
        if inside >= entry.header["address_range"]:
            return None
        first = entry.header["initial_location"]
        lines = [line for line in entry.get_decoded().table if line["pc"] - first <= inside]
        return _rule_of(lines[-1], self._machine)

    def _entry(self, at: int) -> Any:
        """One entry (FDE), made into a section of its own together with its CIE."""
        from elftools.dwarf.callframe import CallFrameInfo
        from elftools.dwarf.structs import DWARFStructs

        distance = struct.unpack_from("<I", self._frames, at + 4)[0]
        common, own = self._bytes(at + 4 - distance), self._bytes(at)
        text = common + own[:4] + struct.pack("<I", len(common) + 4) + own[8:]
        structs = DWARFStructs(little_endian=True, dwarf_format=32, address_size=8)
        parsed = CallFrameInfo(io.BytesIO(text), len(text), 0, structs, for_eh_frame=True)
        return parsed.get_entries()[1]

    def _bytes(self, at: int) -> bytes:
        return self._frames[at : at + 4 + struct.unpack_from("<I", self._frames, at)[0]]


def _read_table(file: IO[bytes]) -> _NoTable:
    try:
        return _Table(file)
    except Exception:  # as above
        return _NoTable()


def _pairs(raw: bytes) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Where functions begin, and their entries, both relative to the section."""
    if raw[:4] != _USUAL_FORMAT:
        raise ValueError("an unusual format")
    count = struct.unpack_from("<I", raw, 8)[0]
    pairs = np.frombuffer(raw, "<i4", 2 * count, 12).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _rule_of(line: dict[Any, Any], machine: _Machine) -> Rule | None:
    """The rule of a line of an entry's table, if it has what we need in a form that we know."""
    end, back, base = line["cfa"], line.get(machine.back), line.get(machine.bp)
    known = end.reg in (machine.sp, machine.bp) and (machine.links or _place(back) is not None)
    if not known or any(each and each.type not in _SIMPLE for each in (back, base)):
        return None
    return Rule(end.reg == machine.bp, end.offset, _place(base), _place(back))


def _place(register: Any) -> int | None:
    """How far from the frame's end a register is saved; None if it is unchanged."""
    return register.arg if register and register.type == "OFFSET" else None
