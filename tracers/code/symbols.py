"""The code at an address: functions of programs and libraries, of jitted code, of the kernel.

Everything here comes from files that traced processes may have written (programs, libraries, perf
maps), so sizes are bounded, nothing but regular files is opened, and damage costs only the name.
"""

from __future__ import annotations

import io
import os
import string
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from memtap.tracers.code.objects import Code, Recent, open_code, open_regular
from memtap.tracers.host.hostile import one_line

U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Letters = npt.NDArray[np.uint8]
Places = npt.NDArray[np.intp]

_HIGHEST = 2**64 - 1

# The most bytes read of one file: of a section of an ELF file, or of a perf map. To parse it takes
# some three times as much memory; reader.py bounds that as well.
_MOST_BYTES = 64 << 20
_MOST_MAP_BYTES = 64 << 20
_MOST_MAP_LINES = 2_000_000
_LONGEST_NAME = 4096

# A few lines of C++ names can demangle to more than any memory holds. We do not use PATH, nor
# anything else from the environment: we are root, and another user may have set it.
_LIMITED = ("/usr/bin/prlimit", "--as=134217728", "--fsize=16777216", "--cpu=1")
_DEMANGLE = (*_LIMITED, "/usr/bin/c++filt", "--no-params")
_MANGLED = (b"_Z", b"_R")

# For /proc/kallsyms: turns a name's end, and what divides it from its module, into what _Table and
# Symbols.kernel() expect; and the values of hexadecimal digits.
_ENDED = bytes.maketrans(b"\n\t", b"\0 ")
_DIGITS = np.zeros(256, np.uint64)
_DIGITS[list(string.hexdigits.encode())] = [int(digit, 16) for digit in string.hexdigits]
_IS_DIGIT = np.zeros(256, bool)
_IS_DIGIT[list(string.hexdigits.encode())] = True

_NONE = np.empty(0, np.uint64)


@dataclass(frozen=True)
class Site:
    """An instruction.

    Attributes:
        function: its name; empty if unknown.
        offset: bytes into the function. Without one: into the object's file, or into the mapping
            of memory that has no file; the address itself for the kernel and for no object.
        object: base name of the program or library; `[kernel]`, the kernel's `[module]`, `[vdso]`
            or `[anon]`; empty if nothing is known.
    """

    function: str
    offset: int
    object: str

    def __str__(self) -> str:
        if self.function:
            return f"{self.function}+{self.offset:#x} {self.object}"
        return f"{self.object}+{self.offset:#x}" if self.object else f"{self.offset:#x}"

    @property
    def frame(self) -> str:
        """The function's name for a folded stack, where `;` separates frames, or [object]."""
        name = self.function or f"[{self.object.strip('[]') or 'unknown'}]"
        return name.replace(";", ":")


def nameless(address: int, code: Code | None) -> Site:
    """Code whose function is not known."""
    if code is None:
        return Site("", address, "")
    offset = (address - code.start + (code.offset if code.has_file else 0)) & _HIGHEST
    return Site("", offset, code.object)


class Symbols:
    """Names code. It raises nothing: code that cannot be read or understood has no name."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._objects: Recent[_Object] = Recent()
        self._maps: Recent[_PerfMap] = Recent()

    def name(self, tgid: int, address: int, code: Code | None) -> Site:
        """The code at an address of a process, which may be gone.

        Args:
            tgid: the process, by its number in our pid namespace.
            address: an instruction's.
            code: what is or was mapped there; None if it is not known.
        """
        without = nameless(address, code)
        if code is None:
            return without
        found = self._jitted(tgid, address) if code.may_be_jitted else None
        if found is None and (known := self._object(tgid, code)):
            found = known.find(without.offset)
        return Site(*found, code.object) if found else without

    def kernel(self, address: int) -> Site:
        """The code at an address of the kernel, from /proc/kallsyms."""
        found = self._kernel.find(address)
        if found is None:
            return Site("", address, "[kernel]")
        name, _, module = found[0].partition(" ")
        return Site(name, found[1], module or "[kernel]")

    def _jitted(self, tgid: int, address: int) -> tuple[str, int] | None:
        """The function by the process's perf map: tools/perf/Documentation/jit-interface.txt."""
        pid, uids = self._inside(tgid)
        for path in (f"proc/{tgid}/root/tmp/perf-{pid}.map", f"tmp/perf-{tgid}.map"):
            with suppress(OSError), self._map_file(self._root / path, uids) as file:
                return self._maps.get(file, _PerfMap.read).find(address)
        return None

    def _map_file(self, path: Path, uids: set[int]) -> IO[bytes]:
        return open_regular(path, lambda status: status.st_uid in uids, os.O_NOFOLLOW)

    def _inside(self, tgid: int) -> tuple[int, set[int]]:
        """A process's number in its own namespace, and the users whose perf maps it may use."""
        try:
            status = (self._root / f"proc/{tgid}/status").read_text(errors="replace")
        except OSError:  # the process is gone
            return tgid, {0}
        fields = dict(line.partition(":")[::2] for line in status.splitlines())
        numbers = fields.get("NSpid", str(tgid)).split()
        return int(numbers[-1]), {0, *map(int, fields["Uid"].split())}

    def _object(self, tgid: int, code: Code) -> _Object | None:
        if code.path == "[vdso]":
            return self._vdso if code.start >> 32 else None  # that of 32 bits is another
        if not code.has_file:
            return None
        file = open_code(self._root, tgid, code)
        if file is None:
            return None
        with file:
            return self._objects.get(file, self._read_object)

    def _read_object(self, file: IO[bytes]) -> _Object:
        try:
            return _Object.read(file, self._root / "usr/lib/debug/.build-id")
        except Exception:  # a damaged file: there are too many ways, and pyelftools lists none
            return _Object([], _Table.empty())

    @cached_property
    def _vdso(self) -> _Object:
        """The vDSO: the same for all 64-bit processes, so it is read from our own memory."""
        try:
            maps = (self._root / "proc/self/maps").read_text(errors="replace")
            lines = [line for line in maps.splitlines() if line.endswith("[vdso]")]
            start, end = (int(edge, 16) for edge in lines[0].split()[0].split("-"))
            with (self._root / "proc/self/mem").open("rb", buffering=0) as memory:
                memory.seek(start)
                return self._read_object(io.BytesIO(memory.read(end - start)))
        except (OSError, LookupError):
            return _Object([], _Table.empty())

    @cached_property
    def _kernel(self) -> _Table:
        try:
            return _kernel_table((self._root / "proc/kallsyms").read_bytes())
        except OSError:
            return _Table.empty()


class _PerfMap:
    """The functions that a process compiled, in order of time: the last that fits counts.

    The lines are `ADDRESS SIZE NAME`, numbers in hexadecimal; of too many lines the first are used.
    """

    _BLOCK = 4 << 20  # bytes that are taken apart at a time

    def __init__(self, text: bytes) -> None:
        self._text = text
        begins = self._blocks()
        found = [(*_perf_lines(text[begin:end]), begin) for begin, end in pairwise(begins)]
        self._starts = np.concatenate([starts for starts, *_ in found] or [_NONE])
        self._sizes = np.concatenate([sizes for _, sizes, *_ in found] or [_NONE])
        self._names = np.concatenate([at + np.uint64(begin) for *_, at, begin in found] or [_NONE])
        self.weight = len(text) + 3 * self._starts.nbytes

    @classmethod
    def read(cls, file: IO[bytes]) -> _PerfMap:
        return cls(file.read(_MOST_MAP_BYTES))

    def _blocks(self) -> list[int]:
        """Where the blocks of whole lines begin, and the end of the last."""
        begins, lines = [0], 0
        while begins[-1] < len(self._text) and lines < _MOST_MAP_LINES:
            end = self._text.rfind(b"\n", begins[-1], begins[-1] + self._BLOCK) + 1
            end = end or len(self._text)
            lines += self._text.count(b"\n", begins[-1], end)
            begins.append(end)
        return begins

    def find(self, address: int) -> tuple[str, int] | None:
        into = np.uint64(address) - self._starts  # wraps where it starts later
        fits = np.flatnonzero(into < self._sizes)
        if len(fits) == 0:
            return None
        at = int(self._names[fits[-1]])
        name = self._text[at : at + _LONGEST_NAME].partition(b"\n")[0]
        return _text(name), int(into[fits[-1]])


def _perf_lines(block: bytes) -> tuple[U64, U64, U64]:
    """The addresses and sizes in lines, and where names begin; for lines that have all three."""
    text = np.frombuffer(block + b"\n", np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    begins = np.append(0, ends[:-1] + 1)
    spaces = np.append(np.flatnonzero(text == ord(" ")), [len(text)] * 2)
    first = np.searchsorted(spaces, begins)
    one, two = spaces[first], spaces[np.minimum(first + 1, len(spaces) - 1)]
    whole = two + 1 < ends
    begins, one, two = begins[whole], one[whole], two[whole]
    starts, are_starts = _hexadecimals(text, begins, one)
    sizes, are_sizes = _hexadecimals(text, one + 1, two)
    right = are_starts & are_sizes
    return starts[right], sizes[right], (two[right] + 1).astype(np.uint64)


def _hexadecimals(text: Letters, begins: Places, ends: Places) -> tuple[U64, Bools]:
    """Numbers of up to 16 digits, with or without 0x before them; and which are valid."""
    prefixed = (text[begins] == ord("0")) & (text[begins + 1] | 0x20 == ord("x"))
    begins = begins + 2 * prefixed
    numbers = np.zeros(len(begins), np.uint64)
    right = (begins < ends) & (ends - begins <= 16)
    for place in range(16):
        inside = begins + place < ends
        letters = text[np.where(inside, begins + place, 0)]
        right &= ~inside | _IS_DIGIT[letters]
        numbers = np.where(inside, numbers << np.uint64(4) | _DIGITS[letters], numbers)
    return numbers, right


class _Table:
    """Functions by address.

    Args:
        starts, sizes: their addresses and lengths in bytes.
        ends: where those without a size end at the latest.
        local: which of them are local, so that other objects cannot link to them.
        at: where in `names` the name of each begins; a NUL ends it.
    """

    _BLOCK = 512  # names that are demangled at a time

    def __init__(
        self, starts: U64, sizes: U64, ends: U64, local: Bools, at: U64, names: bytes
    ) -> None:
        order = np.lexsort((_rank(sizes, local, at, names), starts))
        first = np.ones(len(order), bool)
        first[1:] = np.diff(starts[order]) != 0
        chosen = order[first]
        self._starts, self._at, self._names = starts[chosen], at[chosen], names
        until_next = np.append(self._starts[1:], np.uint64(_HIGHEST))
        unsized = np.minimum(until_next, ends[chosen])
        self._ends = np.where(sizes[chosen] > 0, self._starts + sizes[chosen], unsized)
        self._blocks: dict[int, list[str]] = {}
        self.weight = len(names) + 3 * self._starts.nbytes

    def __len__(self) -> int:
        return len(self._starts)

    @staticmethod
    def empty() -> _Table:
        none = np.empty(0, np.uint64)
        return _Table(none, none, none, none > 0, none, b"")

    def find(self, address: int) -> tuple[str, int] | None:
        """The function at an address, the innermost of several, and the offset in it."""
        row = int(np.searchsorted(self._starts, np.uint64(address), "right")) - 1
        if row >= 0 and self._ends[row] <= address:
            around = np.flatnonzero(self._ends[:row] > address)
            row = int(around[-1]) if len(around) else -1
        if row < 0:
            return None
        return self._name(row), address - int(self._starts[row])

    def _name(self, row: int) -> str:
        number, within = divmod(row, self._BLOCK)
        if number not in self._blocks:
            at = self._at[number * self._BLOCK :][: self._BLOCK]
            raw = [self._raw_name(int(each)) for each in at]
            self._blocks[number] = [_text(name) for name in _demangled(raw)]
        return self._blocks[number][within]

    def _raw_name(self, at: int) -> bytes:
        name = self._names[at : at + _LONGEST_NAME].partition(b"\0")[0]
        return name.partition(b"@")[0]  # the rest is a version


def _rank(sizes: U64, local: Bools, at: U64, names: bytes) -> npt.NDArray[np.intp]:
    """Of names at one address the lowest rank is best: global first, `write` before `__write`."""
    letters = np.frombuffer(names + b"\0\0", np.uint8)
    one = letters[at] == ord("_")
    two = one & (letters[at + np.uint64(1)] == ord("_"))
    rank: npt.NDArray[np.intp] = (sizes == 0) * 8 + one * 2 + two * 2 + local.astype(np.intp)
    return rank


def _text(name: bytes) -> str:
    return one_line(name[:_LONGEST_NAME].decode(errors="surrogateescape"))


def _demangled(names: list[bytes]) -> list[bytes]:
    """C++ and Rust names as in the source, if c++filt is there."""
    if not any(name.startswith(_MANGLED) for name in names):
        return names
    try:
        with tempfile.TemporaryFile() as out:
            text = b"\n".join(names)
            done = subprocess.run(
                _DEMANGLE, input=text, stdout=out, stderr=subprocess.DEVNULL, timeout=5, env={}
            )
            out.seek(0)
            found = out.read().split(b"\n")
    except (OSError, subprocess.SubprocessError):
        return names
    return found if done.returncode == 0 and len(found) == len(names) else names


def _kernel_table(kallsyms: bytes) -> _Table:
    """The lines are `ADDRESS KIND NAME`, then a tab and [MODULE]; all addresses have one width.

    They are all zero for a user without permission to see them.
    """
    text, width = np.frombuffer(kallsyms, np.uint8), kallsyms.find(b" ")
    newlines = np.flatnonzero(text == ord("\n"))
    begins, ends = np.append(0, newlines + 1), np.append(newlines, len(text))
    begins = begins[ends - begins > width + len(" T ")]
    begins = begins[np.isin(text[begins + width + 1], np.frombuffer(b"tTwW", np.uint8))]
    starts = _hexadecimal(text, begins, width)
    begins, starts = begins[starts > 0], starts[starts > 0]
    return _Table(
        starts=starts,
        sizes=np.zeros_like(starts),
        ends=np.full_like(starts, _HIGHEST),
        local=text[begins + width + 1] == ord("t"),
        at=(begins + width + len(" T ")).astype(np.uint64),
        names=kallsyms.translate(_ENDED),
    )


def _hexadecimal(text: Letters, begins: Places, width: int) -> U64:
    """The numbers that begin at these offsets."""
    numbers = np.zeros(len(begins), np.uint64)
    for place in range(width):
        numbers = numbers << np.uint64(4) | _DIGITS[text[begins + place]]
    return numbers


class _Object:
    """The functions of a program or library, by their offsets in its file.

    Args:
        loads: for each loaded segment its offset and size in the file, and its address.
        table: the functions by address.
    """

    def __init__(self, loads: list[tuple[int, int, int]], table: _Table) -> None:
        self._loads, self._table = loads, table
        self.weight = table.weight

    @classmethod
    def read(cls, file: IO[bytes], debug: Path) -> _Object:
        elf = _Elf(file)
        loads = [
            (each["p_offset"], each["p_filesz"], each["p_vaddr"])
            for each in elf.segments
            if each["p_type"] == "PT_LOAD"
        ]
        return cls(loads, elf.table("SHT_SYMTAB") or elf.debug(debug) or elf.table("SHT_DYNSYM"))

    def find(self, offset: int) -> tuple[str, int] | None:
        for begin, size, address in self._loads:
            if begin <= offset < begin + size:
                return self._table.find((offset - begin + address) & _HIGHEST)
        return None


class _Elf:
    """An ELF file. If it is damaged, anything can be raised.

    pyelftools parses headers only: its section objects would read whole hash tables, and it gives
    symbols one by one.
    """

    def __init__(self, file: IO[bytes]) -> None:
        from elftools.elf.elffile import ELFFile

        self._file = file
        self._elf = ELFFile(file)
        self.segments = self._headers(self._elf.structs.Elf_Phdr, "ph")
        self._sections = self._headers(self._elf.structs.Elf_Shdr, "sh")

    def _headers(self, form: Any, kind: str) -> list[Any]:
        from elftools.common.utils import struct_parse

        offset, size = self._elf[f"e_{kind}off"], self._elf[f"e_{kind}entsize"]
        count = self._elf[f"e_{kind}num"]
        return [struct_parse(form, self._file, offset + size * n) for n in range(count)]

    def _bytes(self, section: Any) -> bytes:
        if section["sh_size"] > _MOST_BYTES:
            raise ValueError("a section that is too large")
        self._file.seek(section["sh_offset"])
        return self._file.read(section["sh_size"])

    def table(self, kind: str) -> _Table:
        """The functions in the first symbol table of a kind."""
        section = next((each for each in self._sections if each["sh_type"] == kind), None)
        if section is None:
            return _Table.empty()
        names = self._bytes(self._sections[section["sh_link"]])
        raw = self._bytes(section)
        form = self._symbol
        symbols = np.frombuffer(raw[: len(raw) - len(raw) % form.itemsize], form)
        symbols = symbols[self._is_function(symbols)]
        return _Table(
            starts=symbols["value"].astype(np.uint64),
            sizes=symbols["size"].astype(np.uint64),
            ends=self._section_ends[symbols["section"]],
            local=symbols["info"] >> 4 == 0,
            at=symbols["name"].astype(np.uint64),
            names=names,
        )

    @property
    def _symbol(self) -> np.dtype[np.void]:
        """Elf64_Sym and Elf32_Sym of elf.h."""
        order = "<" if self._elf.little_endian else ">"
        types = {"name": "u4", "info": "u1", "other": "u1", "section": "u2"}
        if self._elf.elfclass == 64:
            types |= {"value": "u8", "size": "u8"}
        else:
            types = {"name": "u4", "value": "u4", "size": "u4"} | types
        return np.dtype([(name, order + kind) for name, kind in types.items()])

    def _is_function(self, symbols: npt.NDArray[np.void]) -> Bools:
        """STT_FUNC and STT_GNU_IFUNC, in a section of this file."""
        here = (symbols["section"] > 0) & (symbols["section"] < len(self._sections))
        return np.isin(symbols["info"] & 15, (2, 10)) & here

    @cached_property
    def _section_ends(self) -> U64:
        ends = [each["sh_addr"] + each["sh_size"] & _HIGHEST for each in self._sections]
        return np.array(ends, np.uint64)

    def debug(self, folder: Path) -> _Table | None:
        """The functions in the separate debug file of this build, if it is there."""
        build = self._build_id
        path = folder / build[:2] / f"{build[2:]}.debug"
        if len(build) < 4 or not path.is_file():
            return None
        with path.open("rb") as file:
            return _Elf(file).table("SHT_SYMTAB")

    @property
    def _build_id(self) -> str:
        """The build id in hexadecimal; empty if there is none. The note is alone in its section."""
        for section in self._sections:
            if section["sh_type"] == "SHT_NOTE":
                note = self._bytes(section)
                if note[8:16] in (b"\3\0\0\0GNU\0", b"\0\0\0\3GNU\0"):  # NT_GNU_BUILD_ID
                    return note[16:].hex()
        return ""
