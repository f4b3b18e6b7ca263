"""The code at an address: functions of programs and libraries, of jitted code, of the kernel.

Everything here comes from files that traced processes may have written (programs, libraries, perf
maps), so sizes are bounded, nothing but regular files is opened, and damage costs only the name.
"""

from __future__ import annotations

import io
import os
import re
import stat
import subprocess
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from memtap.tracers.hostile import one_line

U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

_HIGHEST = 2**64 - 1

# What is read of one file: of a section of an ELF file, and of a perf map.
_MOST_BYTES = 256 << 20
_MOST_MAP_BYTES = 64 << 20
_LONGEST_NAME = 4096

# Of paths that lead nowhere, and of texts that are no paths: with a NUL, say.
_NO_FILE = (OSError, ValueError)

# What is kept: files, and their symbols.
_MOST_FILES = 256
_MOST_KEPT_BYTES = 1 << 30

# A few lines of C++ names can demangle to more than fits any memory.
_DEMANGLE = ("prlimit", "--as=134217728", "--fsize=16777216", "--cpu=1", "c++filt", "--no-params")
_MANGLED = (b"_Z", b"_R")


@dataclass(frozen=True)
class Code:
    """A mapping of code, as /proc/PID/maps or PERF_RECORD_MMAP2 tells of it.

    Attributes:
        start, end: addresses [start, end).
        offset: of `start` in the file, in bytes.
        dev: the kernel's dev_t (major << 20 | minor) of the file.
        ino: its inode; 0 if none was told.
        path: as the process sees it; `[vdso]`, `//anon` and the like where there is no file.
    """

    start: int
    end: int
    offset: int
    dev: int
    ino: int
    path: str

    @property
    def has_file(self) -> bool:
        """Whether its bytes can come from a file that has symbols."""
        return self.path.startswith("/") and not self.path.startswith(("//anon", "/anon_hugepage"))

    @property
    def may_be_jitted(self) -> bool:
        """Whether its bytes may have been written by the process itself."""
        return not self.has_file or self.path.startswith(("/memfd:", "/dev/zero", "/SYSV"))

    @property
    def object(self) -> str:
        """The base name of its file, or what stands for it."""
        if self.has_file:
            return one_line(self.path.removesuffix(" (deleted)").rpartition("/")[2])
        named = self.path.startswith("[") and not self.path.startswith("[anon")
        return one_line(self.path) if named else "[anon]"


@dataclass(frozen=True)
class Site:
    """An instruction.

    Attributes:
        function: its name; empty if nobody knows.
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


class Symbols:
    """Names code. It raises nothing: what cannot be read or understood has no name."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._objects: _Recent[_Object] = _Recent()
        self._maps: _Recent[_PerfMap] = _Recent()

    def name(self, tgid: int, address: int, code: Code | None) -> Site:
        """The code at an address of a process, which may be gone.

        Args:
            tgid: the process, as its number is out here.
            address: an instruction's.
            code: what is or was mapped there, if anybody knows.
        """
        if code is None:
            return Site("", address, "")
        offset = (address - code.start + (code.offset if code.has_file else 0)) & _HIGHEST
        found = self._jitted(tgid, address) if code.may_be_jitted else None
        if found is None and (known := self._object(tgid, code)):
            found = known.find(offset)
        return Site(*found, code.object) if found else Site("", offset, code.object)

    def kernel(self, address: int) -> Site:
        """The code at an address of the kernel, from /proc/kallsyms."""
        found = self._kernel.find(address)
        if found is None:
            return Site("", address, "[kernel]")
        name, _, module = found[0].partition(" ")
        return Site(name, found[1], module or "[kernel]")

    def _jitted(self, tgid: int, address: int) -> tuple[str, int] | None:
        """By the perf map that the process wrote: tools/perf/Documentation/jit-interface.txt."""
        pid, uids = self._inside(tgid)
        for path in (f"proc/{tgid}/root/tmp/perf-{pid}.map", f"tmp/perf-{tgid}.map"):
            with suppress(OSError), self._map_file(self._root / path, uids) as file:
                return self._maps.get(file, _PerfMap.read).find(address)
        return None

    def _map_file(self, path: Path, uids: set[int]) -> IO[bytes]:
        return _open(path, lambda status: status.st_uid in uids, os.O_NOFOLLOW)

    def _inside(self, tgid: int) -> tuple[int, set[int]]:
        """A process's number in its own namespace, and whose perf maps it is trusted to have."""
        try:
            status = (self._root / f"proc/{tgid}/status").read_text(errors="replace")
        except OSError:  # it is gone
            return tgid, {0}
        fields = dict(line.partition(":")[::2] for line in status.splitlines())
        numbers = fields.get("NSpid", str(tgid)).split()
        return int(numbers[-1]), {0, *map(int, fields["Uid"].split())}

    def _object(self, tgid: int, code: Code) -> _Object | None:
        if code.path == "[vdso]":
            return self._vdso if code.start >> 32 else None  # that of 32 bits is another
        if not code.has_file:
            return None
        for path in self._candidates(tgid, code):
            with suppress(*_NO_FILE), _open(path, lambda status: _is_of(status, code)) as file:
                return self._objects.get(file, self._read_object)
        return None

    def _candidates(self, tgid: int, code: Code) -> Iterator[Path]:
        path = code.path.removesuffix(" (deleted)").lstrip("/")
        process = self._root / f"proc/{tgid}"
        yield process / "root" / path
        yield self._root / path
        yield process / f"map_files/{code.start:x}-{code.end:x}"

    def _read_object(self, file: IO[bytes]) -> _Object:
        try:
            return _Object.read(file, self._root / "usr/lib/debug/.build-id")
        except Exception:  # a damaged file: there are too many ways, and pyelftools lists none
            return _Object([], _Table.empty())

    @cached_property
    def _vdso(self) -> _Object:
        """The same for all processes of 64 bits, and so read from our own memory."""
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


def _open(path: Path, is_right: Callable[[os.stat_result], bool], flags: int = 0) -> IO[bytes]:
    """Opens a regular file if it is the right one; to open anything else could have effects."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC | flags)
    try:
        status = os.fstat(place)
        if not (stat.S_ISREG(status.st_mode) and is_right(status)):
            raise FileNotFoundError(path)
        return Path(f"/proc/self/fd/{place}").open("rb")
    finally:
        os.close(place)


def _is_of(status: os.stat_result, code: Code) -> bool:
    """Is this the file that was mapped?

    File systems that have no block device (major 0) may show another device in stat(2) than in
    mappings: btrfs has one for each subvolume, overlay's mappings are of the layer below. Then the
    path and the inode tell.
    """
    if not code.ino:
        return True
    major, minor = os.major(status.st_dev), os.minor(status.st_dev)
    same = major << 20 | minor == code.dev or not major or not code.dev >> 20
    return same and status.st_ino == code.ino


class _Weighed(Protocol):
    @property
    def weight(self) -> int: ...


_Read = TypeVar("_Read", bound=_Weighed)


class _Recent(Generic[_Read]):
    """What was read of the files that were asked for last, anew when a file has changed."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, int], tuple[tuple[int, int], _Read]] = OrderedDict()

    def get(self, file: IO[bytes], read: Callable[[IO[bytes]], _Read]) -> _Read:
        status = os.fstat(file.fileno())
        key, stamp = (status.st_dev, status.st_ino), (status.st_mtime_ns, status.st_size)
        before = self._kept.get(key)
        if before is None or before[0] != stamp:
            self._kept[key] = stamp, read(file)
            self._shrink()
        self._kept.move_to_end(key)
        return self._kept[key][1]

    def _shrink(self) -> None:
        """Never drops the last, which is the one that was asked for."""
        weight = sum(kept.weight for _, kept in self._kept.values())
        while len(self._kept) > 1 and (len(self._kept) > _MOST_FILES or weight > _MOST_KEPT_BYTES):
            weight -= self._kept.popitem(last=False)[1][1].weight


class _PerfMap:
    """The functions that a process compiled: in the order of time, so the last that fits counts."""

    _LINE = re.compile(rb"^(?:0x)?([0-9a-f]{1,16}) (?:0x)?([0-9a-f]{1,16}) (.+)$", re.M | re.I)

    def __init__(self, text: bytes) -> None:
        found = self._LINE.findall(text)
        self._starts = np.array([int(start, 16) for start, _, _ in found], np.uint64)
        self._sizes = np.array([int(size, 16) for _, size, _ in found], np.uint64)
        self._names = [name for _, _, name in found]
        self.weight = 4 * len(text)

    @classmethod
    def read(cls, file: IO[bytes]) -> _PerfMap:
        return cls(file.read(_MOST_MAP_BYTES))

    def find(self, address: int) -> tuple[str, int] | None:
        into = np.uint64(address) - self._starts  # wraps where it starts later
        fits = np.flatnonzero(into < self._sizes)
        if len(fits) == 0:
            return None
        return _text(self._names[fits[-1]]), int(into[fits[-1]])


class _Table:
    """Functions by address.

    Args:
        starts, sizes: their addresses and lengths in bytes.
        ends: where those without a size end at the latest.
        local: which of them others cannot link to.
        at: where in `names` the name of each begins; a NUL ends it.
    """

    _BLOCK = 512  # so many names are demangled at a time

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
        """The function at an address, the innermost if several are, and how far into it."""
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
    """Of names for one address the lowest is best: `write` before `__write`, what all see first."""
    letters = np.frombuffer(names + b"\0\0", np.uint8)
    one = letters[at] == ord("_")
    two = one & (letters[at + np.uint64(1)] == ord("_"))
    rank: npt.NDArray[np.intp] = (sizes == 0) * 8 + one * 2 + two * 2 + local.astype(np.intp)
    return rank


def _text(name: bytes) -> str:
    return one_line(name[:_LONGEST_NAME].decode(errors="surrogateescape"))


def _demangled(names: list[bytes]) -> list[bytes]:
    """C++ and Rust names as people write them, if c++filt is there."""
    if not any(name.startswith(_MANGLED) for name in names):
        return names
    try:
        with tempfile.TemporaryFile() as out:
            text = b"\n".join(names)
            done = subprocess.run(
                _DEMANGLE, input=text, stdout=out, stderr=subprocess.DEVNULL, timeout=5
            )
            out.seek(0)
            found = out.read().split(b"\n")
    except (OSError, subprocess.SubprocessError):
        return names
    return found if done.returncode == 0 and len(found) == len(names) else names


def _kernel_table(kallsyms: bytes) -> _Table:
    """Addresses are all zero for who may not see them."""
    lines = [line.split(b" ", 2) for line in kallsyms.replace(b"\t", b" ").splitlines()]
    rows = [line for line in lines if line[1] in b"tTwW" and int(line[0], 16)]
    starts = np.array([int(address, 16) for address, _, _ in rows], np.uint64)
    lengths = np.array([len(name) + 1 for _, _, name in rows], np.uint64)
    return _Table(
        starts=starts,
        sizes=np.zeros_like(starts),
        ends=np.full_like(starts, _HIGHEST),
        local=np.array([kind == b"t" for _, kind, _ in rows], bool),
        at=np.cumsum(lengths) - lengths,
        names=b"\0".join(name for _, _, name in rows),
    )


class _Object:
    """The functions of a program or library, by where they stand in its file.

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
    """An ELF file, which may be damaged: then anything can be raised.

    The library parses headers only. Its section objects would take in whole hash tables, and its
    symbols come one by one.
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
        """The functions in the separate file for this build, if it is there."""
        build = self._build_id
        path = folder / build[:2] / f"{build[2:]}.debug"
        if len(build) < 4 or not path.is_file():
            return None
        with path.open("rb") as file:
            return _Elf(file).table("SHT_SYMTAB")

    @property
    def _build_id(self) -> str:
        """In hexadecimal; empty if there is none. The note is alone in its section."""
        for section in self._sections:
            if section["sh_type"] == "SHT_NOTE":
                note = self._bytes(section)
                if note[8:16] in (b"\3\0\0\0GNU\0", b"\0\0\0\3GNU\0"):  # NT_GNU_BUILD_ID
                    return note[16:].hex()
        return ""
